"""Train or evaluate one trainer on one dataset, with the command line of the CoOp family.

    caspl train --root DATA --dataset-config-file configs/datasets/oxford_pets.yaml \
        --trainer CasPL_CoOp --config-file configs/trainers/CasPL_CoOp/vit_b16.yaml --seed 1 --output-dir OUT \
        TRAINER.CASPL.CHECKPOINT BOOSTING DATASET.NUM_SHOTS 16 DATASET.SUBSAMPLE_CLASSES base
    caspl train --eval-only --model-dir OUT --root DATA DATASET.SUBSAMPLE_CLASSES new
"""

import argparse
from typing import TYPE_CHECKING

from . import arguments
from .program import guarded

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from ..training.evaluation import Metrics


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the family's command line."""
    parser = arguments.parser("train", __doc__)
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
    return arguments.parse(parser, argv)


def setup_cfg(args: argparse.Namespace) -> "CfgNode":
    """Assemble the configuration that a command line asks for.

    With `--eval-only` and no `--config-file`, the run's own configuration is used in place of the files.
    """
    from ..experiments.setup import assemble

    evaluated = args.model_dir if args.eval_only else ""
    files = [args.dataset_config_file, args.config_file]
    return assemble(files, _options(args) + args.opts, evaluated, not args.config_file, not args.eval_only)


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
    """Train and evaluate, or evaluate only; everything is logged to the run's folder as well."""
    args = parse(argv)
    cfg = setup_cfg(args)
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
