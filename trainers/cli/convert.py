"""Published checkpoints: import and export boosting prompts, and import PromptSRC models such as PromptKD's teachers.

    caspl convert import PUBLISHED FILE.safetensors [--dataset NAME] [--template T] ...
    caspl convert export FILE.safetensors FOLDER
    caspl convert inspect FILE.safetensors
    caspl convert run PUBLISHED FOLDER --dataset NAME --classes base|all [--backbone NAME] [--names FILE]

FILE.safetensors may also be the folder of phase 1's run, if it is read.
"""

import argparse
import dataclasses
from pathlib import Path

from . import arguments
from .program import guarded


def convert(argv: list[str] | None = None) -> None:
    """Run one of the commands."""
    parser = arguments.parser("convert", __doc__, keys=False)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("import", help="read a published checkpoint; nothing pickled in it is executed")
    command.add_argument("source", type=Path, help="model.pth.tar-N, or its folder")
    command.add_argument("target", type=Path, help="the boosting-prompt file to write")
    for name in ("student", "teacher", "dataset", "template"):
        command.add_argument(f"--{name}", default="", help=f"the {name}, which the checkpoint does not record")
    command.add_argument("--temperature", type=float, default=1.0, help="of the distillation (default 1)")
    command.add_argument("--seed", type=int, default=1, help="of its training (default 1)")
    command = commands.add_parser("export", help="write the published layout")
    command.add_argument("source", type=Path, help="a boosting-prompt file, or its run's folder")
    command.add_argument("target", type=Path, help="folder for CasPL/model.pth.tar-N")
    command = commands.add_parser("inspect", help="print a file's tensors and metadata")
    command.add_argument("source", type=Path, help="a boosting-prompt file, or its run's folder")
    _add_run(commands.add_parser("run", help="read a published PromptSRC checkpoint; write it as a finished run"))
    args = arguments.parse(parser, argv, keys=False)
    known = {"import": import_published, "export": export_published, "inspect": inspect, "run": import_run}
    known[args.command](args)


def _add_run(command: argparse.ArgumentParser) -> None:
    command.add_argument("source", type=Path, help="model.pth.tar-N or model-best.pth.tar, or its folder")
    command.add_argument("target", type=Path, help="a new folder for the run")
    command.add_argument("--dataset", type=arguments.dataset_name, required=True, help="that it was trained on")
    command.add_argument("--classes", choices=("base", "all"), required=True, help="that it was trained on")
    command.add_argument("--backbone", default="ViT-L/14", help="that it was trained around (default ViT-L/14)")
    names = "its class names, one per line (default: as the checkpoint holds them, in lower case)"
    command.add_argument("--names", type=Path, metavar="FILE", help=names)


def import_published(args: argparse.Namespace) -> None:
    """Run the command `import`."""
    from ..method import prompt_file, published

    known = {key: getattr(args, key) for key in ("student", "teacher", "dataset", "template", "temperature", "seed")}
    group, info = published.import_published(args.source, **known)
    prompt_file.save_boosting(args.target, group, info)
    show(args.target)


def export_published(args: argparse.Namespace) -> None:
    """Run the command `export`."""
    from ..method import prompt_file, published

    print(published.export_published(args.target, *prompt_file.load_boosting(prompt_file.find_boosting(args.source))))


def inspect(args: argparse.Namespace) -> None:
    """Run the command `inspect`."""
    from ..method import prompt_file

    show(prompt_file.find_boosting(args.source))


def import_run(args: argparse.Namespace) -> None:
    """Run the command `run`."""
    from ..deploy import published_run

    names = [] if args.names is None else _read_names(args.names)
    print(published_run.import_run(args.source, args.target, args.dataset, args.classes, args.backbone, names))


def _read_names(path: Path) -> list[str]:
    """Return the class names in a file, one per line.

    Raises:
        ValueError: it is not text in UTF-8, or does not name each class once.
    """
    try:
        names = [line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"--names {path}: not text in UTF-8 ({error}); expected one name per line") from error
    if not names or len(set(names)) < len(names):
        raise ValueError(f"--names {path}: {len(names)} names; expected one or more, each once, one per line")
    return names


def show(path: Path) -> None:
    """Print a boosting-prompt file's tensors and metadata."""
    from ..method import prompt_file
    from ..storage.atomic import sha256

    group, info = prompt_file.load_boosting(path)
    print(f"{path}\n  sha256: {sha256(path)}")
    for name, stack in group.named_parameters():
        depth, tokens, width = stack.shape
        spread = f", std {stack.std():.4f}" if stack.numel() > 1 else ""
        print(f"  {name}: depth {depth}, {tokens} tokens, width {width}{spread}")
    for key, value in dataclasses.asdict(info).items():
        missing = "none" if key in ("added_images", "added_data") else "unknown"
        print(f"  {key}: {value if value is False or value not in ('', 0, []) else missing}")


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return guarded(lambda: convert(argv))
