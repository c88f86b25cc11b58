r"""Train or evaluate one trainer on one dataset, with the command line of the CoOp family.

    caspl train --root DATA --dataset-config-file configs/datasets/oxford_pets.yaml \
        --trainer CasPL_CoOp --config-file configs/trainers/CasPL_CoOp/vit_b16.yaml --seed 1 --output-dir OUT \
        TRAINER.CASPL.CHECKPOINT BOOSTING DATASET.NUM_SHOTS 16 DATASET.SUBSAMPLE_CLASSES base
    caspl train --eval-only --model-dir OUT --root DATA DATASET.SUBSAMPLE_CLASSES new

The flags are those of CoOp, multimodal-prompt-learning and PromptSRC.
"""

import argparse
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

from . import arguments
from .dry_run import add_dry_run, check_dry_run, show_plans
from .program import guarded, hide_information

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from ..training.evaluation import Metrics


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the family's command line."""
    from ..config.describe import help_text

    parser = arguments.parser("train", __doc__)
    parser.epilog = f"{parser.epilog}\n\n{help_text()}"
    parser.add_argument("--root", default="", help="folder of the datasets")
    parser.add_argument("--output-dir", default="", help="folder of the run")
    parser.add_argument("--resume", default="", help="folder to resume from, if not --output-dir")
    parser.add_argument("--seed", type=arguments.seed_number, default=None, help="seed of everything that is drawn")
    parser.add_argument("--transforms", nargs="+", help="data augmentation")
    parser.add_argument("--config-file", default="", help="configuration of the trainer")
    parser.add_argument("--dataset-config-file", default="", help="configuration of the dataset")
    parser.add_argument("--trainer", default="", help="name of the trainer")
    parser.add_argument("--backbone", default="", help="name or file of the CLIP")
    parser.add_argument("--eval-only", action="store_true", help="only evaluate")
    parser.add_argument("--model-dir", default="", help="folder of the run to evaluate")
    parser.add_argument("--load-epoch", type=int, help="epoch to evaluate, if not the best or the last one")
    parser.add_argument("--deterministic", action="store_true", help="the same bits each time on a GPU too; slower")
    parser.add_argument("--no-train", action="store_true", help="build everything, then stop")
    add_dry_run(parser)
    return arguments.parse(parser, argv)


def setup_cfg(args: argparse.Namespace) -> "CfgNode":
    """Assemble the configuration that a command line asks for.

    With `--eval-only` and no `--config-file`, the run's own configuration is used in place of the files.
    """
    from ..experiments.setup import assemble

    check_arguments(args)
    evaluated = args.model_dir if args.eval_only else ""
    files = [args.dataset_config_file, args.config_file]
    return assemble(files, _options(args) + args.opts, evaluated, not args.config_file, not args.eval_only)


def check_arguments(args: argparse.Namespace) -> None:
    """Check the arguments that only an evaluation takes, and the folder that it evaluates.

    Raises:
        ConfigError: an argument would not be read, or the folder is not a run's.
    """
    from ..config import ConfigError

    if not args.eval_only:
        for name, value in (("--model-dir", args.model_dir), ("--load-epoch", args.load_epoch)):
            if value:
                raise ConfigError(f"{name}: {value} is only read with --eval-only; expected both or neither")
    elif args.model_dir:
        check_run_folder(Path(args.model_dir), known=bool(args.config_file or args.trainer))


def check_run_folder(folder: Path, known: bool) -> None:
    """Check the folder of the run to evaluate.

    Args:
        folder: the folder.
        known: whether the configuration is given, so that the folder needs none.

    Raises:
        ConfigError: it does not exist or has no configuration; the message names run folders nearby.
    """
    from ..config import ConfigError

    if not folder.is_dir():
        found = "is a file" if folder.is_file() else "does not exist"
        raise ConfigError(f"--model-dir: {folder} {found}; expected the folder of a run{_runs_near(folder)}")
    if not known and not (folder / "config.yaml").is_file():
        raise ConfigError(
            f"--model-dir: {folder} has no config.yaml; expected the folder of a run{_runs_near(folder)}, or --config-file "
            "and --trainer"
        )


def _runs_near(folder: Path) -> str:
    """Return run folders one level above or up to two levels below a folder, as a hint."""
    inside = (path.parent for pattern in ("*/config.yaml", "*/*/config.yaml") for path in folder.glob(pattern))
    above = [folder.parent] if (folder.parent / "config.yaml").is_file() else []
    near = [str(path) for path in (*above, *itertools.islice(inside, 3))]
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def _options(args: argparse.Namespace) -> list:
    named = {
        "DATASET.ROOT": args.root,
        "OUTPUT_DIR": args.output_dir,
        "RESUME": args.resume,
        "SEED": args.seed,
        "INPUT.TRANSFORMS": args.transforms,
        "TRAINER.NAME": args.trainer,
        "MODEL.BACKBONE.NAME": args.backbone,
    }
    return [item for key, value in named.items() if value not in ("", None) for item in (key, value)]


def run(argv: list[str] | None = None) -> "Metrics | None":
    """Train and evaluate, or evaluate only.

    Everything is logged to the run's folder as well.
    """
    args = parse(argv)
    check_dry_run(args)
    cfg = setup_cfg(args)
    if args.dry_run:
        from ..experiments.dry_run import planned_run

        hide_information()
        show_plans([planned_run(cfg, args.model_dir if args.eval_only else "", args.measure)], args)
        return None
    from ..training.run import Run

    asked = Run(cfg, args.deterministic)
    if args.eval_only:
        return asked.evaluate(args.model_dir, args.load_epoch)
    return asked.train(build_only=args.no_train)


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""

    def program() -> None:
        run(argv)

    return guarded(program)
