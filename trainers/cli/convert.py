"""Boosting-prompt files: import from and export to the published code's checkpoints, and inspect.

caspl convert import PUBLISHED FILE.safetensors [--dataset NAME] [--template T] ...
caspl convert export FILE.safetensors FOLDER
caspl convert inspect FILE.safetensors
"""

import argparse
import dataclasses
from pathlib import Path

from . import arguments
from .program import guarded


def convert(argv: list[str] | None = None) -> None:
    """Run one of the three commands."""
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
    args = arguments.parse(parser, argv, keys=False)
    {"import": import_published, "export": export_published, "inspect": inspect}[args.command](args)


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
        print(f"  {key}: {value if value is False or value not in ('', 0, []) else 'unknown'}")


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return guarded(lambda: convert(argv))
