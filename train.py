"""The entry that every CoOp-family user knows: train or evaluate one trainer on one dataset.

    python train.py --root DATA --dataset-config-file configs/datasets/oxford_pets.yaml \
        --trainer CasPL_CoOp --config-file configs/trainers/CasPL_CoOp/vit_b16.yaml --seed 1 --output-dir OUT \
        TRAINER.CASPL.CHECKPOINT BOOSTING DATASET.NUM_SHOTS 16 DATASET.SUBSAMPLE_CLASSES base
    python train.py --eval-only --model-dir OUT --root DATA DATASET.SUBSAMPLE_CLASSES new
"""

import argparse
import contextlib
import io
import logging
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from yacs.config import CfgNode

import trainers  # registers CasPL and CasPL_<Host>, and makes `dassl` importable
import trainers.hosts  # registers our own hosts under their plain names
from trainers import loading, parallel
from trainers.checkpoint import FILE_NAME
from trainers.config import (
    ConfigError,
    check_kept,
    differing,
    keep_config,
    leaves,
    merge_file,
    merge_options,
    nearest,
)
from trainers.files import locked, remove_parts
from trainers.randomness import be_deterministic
from trainers.training import PromptTrainer
from trainers.values import check_values

from dassl.config import get_cfg_default  # isort: skip (trainers comes first, see above)
from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import TRAINER_REGISTRY, build_trainer
from dassl.utils import set_random_seed, setup_logger

import datasets  # noqa: F401  isort: skip (registers the datasets)

logger = logging.getLogger("caspl")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The family's command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="", help="folder of the datasets")
    parser.add_argument("--output-dir", default="", help="folder of the run")
    parser.add_argument("--resume", default="", help="folder to resume from, if not --output-dir")
    parser.add_argument("--seed", type=seed_number, default=None, help="seed of everything that is drawn")
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
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="any key of the configuration")
    return parser.parse_args(argv)


def seed_number(text: str) -> int:
    """A seed, for argparse."""
    if not text.lstrip("-").isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def default_cfg() -> CfgNode:
    """Dassl's configuration, with the nodes of all hosts and of CasPL."""
    cfg = get_cfg_default()
    trainers.hosts.extend_cfg(cfg)
    trainers.extend_cfg(cfg)
    return cfg


def setup_cfg(args: argparse.Namespace) -> CfgNode:
    """Defaults, then the dataset's file, the trainer's file, the options, KEY VALUE: the later wins.

    With `--eval-only` and no `--config-file`, the configuration that was kept in `--model-dir` stands in for the files.

    Raises:
        ConfigError: an unknown key, trainer or dataset (with the nearest name), or a value of the wrong type.
    """
    cfg = default_cfg()
    kept = os.path.join(args.model_dir, "config.yaml")
    if args.eval_only and args.model_dir and not args.config_file and os.path.isfile(kept):
        merge_file(cfg, kept)
        cfg.OUTPUT_DIR = args.model_dir
    for path in (args.dataset_config_file, args.config_file):
        if path:
            merge_file(cfg, path)
    merge_options(cfg, _options(args) + args.opts)
    check_read(cfg)
    if nodes_read(cfg.TRAINER.NAME) is None:  # ours choose later, when they know their images
        cfg.DATALOADER.NUM_WORKERS = loading.workers(cfg.DATALOADER.NUM_WORKERS)
    if args.eval_only and not cfg.TRAINER.CASPL.CHECKPOINT:
        if os.path.isfile(os.path.join(args.model_dir, FILE_NAME)):
            cfg.TRAINER.CASPL.CHECKPOINT = args.model_dir
    check_name("trainer", cfg.TRAINER.NAME, TRAINER_REGISTRY.registered_names())
    check_name("dataset", cfg.DATASET.NAME, DATASET_REGISTRY.registered_names())
    cfg.freeze()
    return cfg


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


def check_name(what: str, name: str, known: list[str]) -> None:
    """Raise `ConfigError` with the nearest names unless `name` is registered."""
    if name not in known:
        raise ConfigError(f"unknown {what} {name!r}: {nearest(name, known)}")


def nodes_read(trainer: str) -> set[str] | None:
    """The nodes below `TRAINER` that a trainer reads; None for one that is not ours, of which nobody knows."""
    host = trainer.removeprefix("CasPL_").removeprefix("CasPL-")
    found = TRAINER_REGISTRY.get(host) if host in TRAINER_REGISTRY.registered_names() else None
    if not (isinstance(found, type) and issubclass(found, PromptTrainer)):
        return None
    own = {found.node} if hasattr(found, "node") else set()
    return own | ({"CASPL"} if trainer.startswith("CasPL") else set())


def check_read(cfg: CfgNode) -> None:
    """Refuse values that are out of range, or were set for another trainer: nobody would read them.

    Raises:
        ConfigError: names the key, and the nearest one that is read.
    """
    nodes = nodes_read(cfg.TRAINER.NAME)
    if nodes is None:
        return
    check_values(cfg, nodes - {"CASPL"})
    default = default_cfg()
    read = [key for key, _ in leaves(cfg) if key.split(".")[0] != "TRAINER" or key.split(".")[1] in nodes]
    for key in differing(cfg, default):
        if key not in read and key.count(".") > 1:
            raise ConfigError(f"{key} is set, but {cfg.TRAINER.NAME} does not read it: {nearest(key, read)}")


def run(argv: list[str] | None = None) -> float | None:
    """Train and test, or evaluate; everything is logged to the run's folder as well.

    Returns:
        the accuracy on the test set in per cent, or None where nothing was tested.
    """
    args = parse(argv)
    cfg = setup_cfg(args)
    check_device(cfg)
    if args.deterministic:
        be_deterministic()
    folder = Path(cfg.OUTPUT_DIR)
    with parallel.processes(torch.cuda.is_available() and cfg.USE_CUDA):
        check_processes(cfg)
        if args.eval_only:
            return _logged(args, cfg, folder)
        with contextlib.ExitStack() as stack:
            parallel.on_main(lambda: prepare(cfg, folder, stack))
            return _logged(args, cfg, folder)


def prepare(cfg: CfgNode, folder: Path, stack: contextlib.ExitStack) -> None:
    """Lock a run's folder until `stack` is left, and see that the run may go on in it."""
    stack.enter_context(locked(folder))
    check_kept(cfg, folder / "config.yaml")
    remove_parts(folder)


def check_processes(cfg: CfgNode) -> None:
    """Refuse to let several processes train what only this package's trainers know how to share."""
    if parallel.size() > 1 and nodes_read(cfg.TRAINER.NAME) is None:
        raise ConfigError(
            f"{cfg.TRAINER.NAME} is not a trainer of this package and cannot share its work among {parallel.size()} "
            "processes: start it without torchrun"
        )


def check_device(cfg: CfgNode) -> None:
    """Refuse to compute on the CPU where a GPU was asked for: hours would turn into weeks."""
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if cfg.USE_CUDA and not torch.cuda.is_available() and wanted[:1].isdigit():
        raise ConfigError(
            f"CUDA_VISIBLE_DEVICES is {wanted!r}, but PyTorch {torch.__version__} finds no GPU: mend the driver or install "
            "a CUDA build of PyTorch; or set USE_CUDA False, to compute on the CPU"
        )


def _logged(args: argparse.Namespace, cfg: CfgNode, folder: Path) -> float | None:
    with logging_to(cfg.OUTPUT_DIR) if parallel.is_main() else parallel.quiet():
        device = "cuda" if torch.cuda.is_available() and cfg.USE_CUDA else "cpu"
        where = torch.cuda.get_device_name() if device == "cuda" else "the CPU (no GPU)"
        several = f", {parallel.size()} processes" if parallel.size() > 1 else ""
        logger.info("%s on %s%s", cfg.TRAINER.NAME, where, several)
        try:
            return _run(args, cfg)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                logger.warning("Stopped: the same command goes on")
            else:
                with contextlib.suppress(OSError):  # the disk may be full
                    with open(folder / "log.txt", "a") as log:
                        traceback.print_exc(file=log)
            if parallel.is_main():
                remove_if_nothing_began(folder)
            raise


def remove_if_nothing_began(folder: Path) -> None:
    """Leave nothing behind of a run that has only its log."""
    if [path.name for path in folder.iterdir()] == ["log.txt"]:
        shutil.rmtree(folder)


def _run(args: argparse.Namespace, cfg: CfgNode) -> float | None:
    if cfg.SEED >= 0:
        set_random_seed(cfg.SEED)
    parallel.same_randomness()
    trainer = build_trainer(cfg)
    if args.eval_only:
        trainer.load_model(args.model_dir, epoch=args.load_epoch)
        return trainer.test()
    if args.no_train:
        return None
    parallel.on_main(lambda: keep_config(cfg, Path(cfg.OUTPUT_DIR) / "config.yaml"))
    return last_test(trainer)


def last_test(trainer) -> float | None:
    """Train; what the test behind it gave, which Dassl's `train` does not return."""
    results = []
    test = trainer.test

    def remembering(*args, **kwargs):
        results.append(test(*args, **kwargs))
        return results[-1]

    trainer.test = remembering
    trainer.train()
    return results[-1] if results else None


@contextlib.contextmanager
def logging_to(folder: str):
    """Send what is logged and printed to the console and to `<folder>/log.txt`, until the block ends."""
    console = sys.stdout
    setup_logger(folder)
    root = logging.getLogger()
    handlers = list(root.handlers)
    if not handlers:  # the real Dassl's set-up leaves logging alone
        logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
    try:
        yield
    finally:
        for handler in set(root.handlers) - set(handlers):
            root.removeHandler(handler)
        stream, sys.stdout = sys.stdout, console
        stream.flush()
        if getattr(stream, "console", None) is console:
            stream.console = io.StringIO()  # the real Dassl's logger closes it when it goes


def guarded(program: Callable[[], object]) -> int:
    """Run a command-line program; a mistake in what was asked for is one line on stderr and exit code 2.

    With CASPL_TRACEBACK set in the environment, the traceback is shown instead (it is always in the run's log). Ctrl-C
    and SIGTERM stop it cleanly, with exit code 130 or 143.
    """
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        program()
    except (ValueError, OSError, KeyError, FloatingPointError) as error:
        if os.environ.get("CASPL_TRACEBACK"):
            raise
        sys.stderr.write(f"error: {_message(error)}\n")
        return 2
    except KeyboardInterrupt as stop:
        number = stop.args[0] if stop.args else signal.SIGINT
        sys.stderr.write(
            f"stopped by {signal.Signals(number).name}: the same command goes on from the last whole epoch, and what was "
            "finished stays finished\n"
        )
        return 128 + number
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _stop(number: int, frame) -> None:
    raise KeyboardInterrupt(number)


def _message(error: Exception) -> str:
    """What an error says, without the traceback that it brings along out of a data worker."""
    message = str(error.args[0] if isinstance(error, KeyError) else error).strip()
    return message.splitlines()[-1].partition(": ")[2] if "in DataLoader worker process" in message else message


if __name__ == "__main__":
    sys.exit(guarded(run))
