"""One run: train or evaluate what a configuration describes, logged to the run's folder."""

import contextlib
import functools
import logging
import os
import re
import shutil
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from dassl.engine import TRAINER_REGISTRY, build_trainer
from dassl.utils import set_random_seed
from yacs.config import CfgNode

from ..config import ConfigError, check_kept, keep_config
from ..storage.atomic import remove_parts
from ..storage.locks import locked
from ..version import __version__
from . import identity, parallel, provenance
from .checkpoints import PROGRESS
from .evaluation import Measuring, Metrics
from .log import FILE_NAME as LOG
from .log import announce, logging_to
from .records import EVALUATIONS, TopClasses, evaluation_name, write_evaluation
from .rng import be_deterministic
from .tracking import Tracker, check_tracker, tracking
from .trainer import PromptTrainer

logger = logging.getLogger(__name__)


def own_class(trainer: str) -> type[PromptTrainer] | None:
    """Return the class of this package for a trainer's name, cascaded or not.

    None for another toolbox's.
    """
    host = trainer.removeprefix("CasPL_").removeprefix("CasPL-")
    found = TRAINER_REGISTRY.get(host) if host in TRAINER_REGISTRY.registered_names() else None
    return found if isinstance(found, type) and issubclass(found, PromptTrainer) else None


class Run:
    """A run of one trainer on one dataset.

    Args:
        cfg: its whole, checked configuration; `OUTPUT_DIR` is the run's folder.
        deterministic: compute the same bits each time on a GPU too; slower.
    """

    def __init__(self, cfg: CfgNode, deterministic: bool = False):
        self.cfg = cfg
        self.deterministic = deterministic
        self.folder = Path(cfg.OUTPUT_DIR)

    def train(self, build_only: bool = False) -> Metrics | None:
        """Train, then evaluate on the test set.

        Args:
            build_only: stop after building everything.

        Returns:
            The metrics; None if nothing was evaluated.

        Raises:
            ConfigError: the folder holds a run with other settings.
            DivergedError: the loss or a parameter is not finite.
            OSError: the folder cannot be written to.
        """
        with self._processes(), contextlib.ExitStack() as stack:
            check_tracker(self.cfg.TRAIN.get("TRACK", ""))
            parallel.on_main(lambda: self._prepare(stack))
            with self._logged():
                trainer = self._build()
                if build_only:
                    return None
                check_labels(self.cfg, trainer, trained=True, tested=not self.cfg.TEST.NO_TEST)
                check_validation(self.cfg, trainer)
                if self.cfg.MODEL.INIT_WEIGHTS and class_specific(self.cfg):
                    names = list(trainer.dm.dataset.classnames)
                    identity.check_first_classes(names, Path(self.cfg.MODEL.INIT_WEIGHTS))
                trainer.run_identity = parallel.on_main(lambda: self._kept_identity(trainer))
                with tracking(self.cfg) if parallel.is_main() else contextlib.nullcontext(Tracker()) as tracker:
                    trainer.tracker = tracker
                    trainer.train()
                    metrics = self._reported(trainer)
                    tracker.log({f"{self.cfg.TEST.SPLIT}/{name}": value for name, value in (metrics or {}).items()})
                return metrics

    def evaluate(self, folder: str | Path = "", epoch: int | None = None) -> Metrics | None:
        """Evaluate what was learned in a run's folder on the test set.

        Args:
            folder: the run's folder; empty for a trainer that learns nothing.
            epoch: the epoch whose checkpoint is evaluated; None: the best one if there is one, else the last.

        Returns:
            The metrics.

        Raises:
            FileNotFoundError: no checkpoint is there.
            ValueError: the checkpoint does not fit the configuration.
        """
        with self._processes(), self._logged(evaluating=True):
            trainer = self._build(epoch)
            check_labels(self.cfg, trainer, trained=False, tested=True)
            if folder:
                trainer.class_rows = parallel.on_main(lambda: self._check_evaluation(trainer, Path(folder), epoch))
            trainer.load_model(str(folder), epoch=epoch)
            trainer.test()
            return self._reported(trainer)

    def _kept_identity(self, trainer: Any) -> dict:
        """Compare the run with those in its folder and in `RESUME`; write its configuration and identity."""
        ours = identity.of_trainer(trainer, self.cfg)
        remedy = "repeat its command unchanged, or give another --output-dir without --resume"
        for folder in {self.folder, Path(self.cfg.RESUME or self.folder)}:
            if not (folder / identity.FILE_NAME).is_file():
                check_kept(self.cfg, folder / "config.yaml", identity.moved_weights(self.cfg, folder))
            for theirs in (identity.read(folder), *identity.recorded(folder)):
                identity.check_same(ours, theirs, folder, remedy)
        moved = identity.moved_weights(self.cfg, self.folder)
        keep_config(self.cfg, self.folder / "config.yaml", moved)
        identity.write(self.folder, ours)
        return ours

    def _check_evaluation(self, trainer: Any, folder: Path, epoch: int | None) -> list[int] | None:
        """Check that the configuration computes what was trained in a folder, and that its training is finished.

        Returns:
            The trained rows of the current classes, of class-specific contexts in another order or number; else None.
        """
        if epoch is None and (folder / PROGRESS).is_file():
            raise ConfigError(
                f"--model-dir: {folder} is not finished; expected a finished run. Repeat its command to resume it, or give "
                "--load-epoch to evaluate a checkpoint"
            )
        theirs = identity.read(folder)
        if changed := identity.differences_applied(identity.of_trainer(trainer, self.cfg), theirs):
            raise ConfigError(
                f"--model-dir: the run in {folder} was trained with other settings ({'; '.join(changed[:5])}); expected the "
                "same. Leave out --config-file and --trainer, and the changed keys, to evaluate it with its own"
            )
        if not class_specific(self.cfg):
            return None
        return identity.class_rows(list(trainer.dm.dataset.classnames), theirs, folder)

    def _reported(self, trainer: Any) -> Metrics | None:
        """Announce and return the metrics of the last evaluation."""
        metrics: Metrics | None = trainer.evaluator.metrics
        if metrics is not None:
            half = getattr(trainer, "classes", self.cfg.DATASET.get("SUBSAMPLE_CLASSES", "all"))
            classes = f"{trainer.num_classes} classes" if half == "all" else f"the {trainer.num_classes} {half} classes"
            where = f"{classes} of {self.cfg.DATASET.NAME}"
            announce("%s on %s: accuracy %.2f", self.cfg.TRAINER.NAME, where, metrics["accuracy"])
        return metrics

    def _record(self, trainer: Any, epoch: int | None, metrics: Metrics, top: TopClasses) -> None:
        """Write an evaluation's predictions and result; on a disk that cannot be written to, log that.

        It happens within the test, so before anything marks the run as finished.
        """
        split = self.cfg.TEST.SPLIT
        if getattr(trainer, "tested_split", split) != split:
            return  # the validation of an epoch
        loader = trainer.val_loader if split == "val" else trainer.test_loader
        paths = [item.impath for item in loader.dataset.data_source]
        what = {
            "trainer": self.cfg.TRAINER.NAME,
            "dataset": self.cfg.DATASET.NAME,
            "classes": getattr(trainer, "classes", self.cfg.DATASET.get("SUBSAMPLE_CLASSES", "all")),
            "split": split,
            "epoch": epoch,
        }
        folder = self.folder / EVALUATIONS / evaluation_name(what)
        try:
            remove_parts(folder)
            result = {**what, "images": len(paths), "metrics": dict(metrics)}
            result |= {"per_class": top.per_class(trainer.lab2cname), "caspl": __version__}
            write_evaluation(folder, paths, trainer.lab2cname, top, result)
        except OSError as error:
            logger.warning("No predictions are kept: %s", error)

    def _processes(self) -> contextlib.AbstractContextManager:
        check_device(self.cfg)
        if self.deterministic:
            be_deterministic()
        return parallel.processes(torch.cuda.is_available() and self.cfg.USE_CUDA)

    def _prepare(self, stack: contextlib.ExitStack) -> None:
        """Lock the folder until `stack` is closed, and check that the run may resume in it."""
        stack.enter_context(locked(self.folder))
        remove_parts(self.folder)
        if not has_finished_epoch(self.folder):
            remove_abandoned(self.folder)
        check_kept(self.cfg, self.folder / "config.yaml", identity.moved_weights(self.cfg, self.folder))

    def _build(self, epoch: int | None = None) -> Any:
        """Build the trainer with its evaluator wrapped in `Measuring`; `epoch` is the checkpoint's to evaluate."""
        check_processes(self.cfg)
        if self.cfg.SEED >= 0:
            set_random_seed(self.cfg.SEED)
        parallel.same_randomness()
        trainer = build_trainer(self.cfg)
        trainer.evaluator = Measuring(trainer.evaluator, functools.partial(self._record, trainer, epoch))
        return trainer

    @contextlib.contextmanager
    def _logged(self, evaluating: bool = False) -> Iterator[None]:
        """Log to the folder, which may be read-only if `evaluating`; errors leave a traceback in the log."""
        with logging_to(self.folder, needed=not evaluating) if parallel.is_main() else parallel.quiet():
            device = "cuda" if torch.cuda.is_available() and self.cfg.USE_CUDA else "cpu"
            where = torch.cuda.get_device_name() if device == "cuda" else "the CPU (no GPU)"
            several = f", {parallel.size()} processes" if parallel.size() > 1 else ""
            logger.info("%s on %s%s", self.cfg.TRAINER.NAME, where, several)
            try:
                yield
            except BaseException as error:
                self._log_failure(error)
                raise

    def _log_failure(self, error: BaseException) -> None:
        if isinstance(error, KeyboardInterrupt):
            logger.info("Stopped: the same command resumes")
        else:
            with contextlib.suppress(OSError), open(self.folder / LOG, "a") as log:  # the disk may be full
                traceback.print_exc(file=log)
        if parallel.is_main():
            remove_if_nothing_began(self.folder)


def class_specific(cfg: CfgNode) -> bool:
    """Return whether the trainer learns separate contexts for each class."""
    trainer = own_class(cfg.TRAINER.NAME)
    node = cfg.TRAINER.get(getattr(trainer, "node", ""), {})
    return bool(node.get("CSC", False)) and not node.get("CTX_INIT", "")


def has_finished_epoch(folder: Path) -> bool:
    """Return whether a run's folder holds progress, a checkpoint, a result, or phase 1's prompt."""
    if any(folder.glob("*/model*.pth.tar*")) or any((folder / name).exists() for name in (PROGRESS, "result.json")):
        return True
    return (folder / "boosting.safetensors").is_file() and not _copies_prompt(folder)


def _copies_prompt(folder: Path) -> bool:
    """Return whether the run in a folder is of phase 2, so that its boosting prompt is a copy."""
    config_file = folder / "config.yaml"
    text = config_file.read_text(encoding="utf-8", errors="replace") if config_file.is_file() else ""
    return re.search(r"^  NAME: ['\"]?CasPL[_-]", text, re.MULTILINE) is not None


def remove_abandoned(folder: Path) -> None:
    """Remove what a run without a finished epoch has left.

    The corrected command can then use its folder.
    """
    names = ["config.yaml", identity.FILE_NAME, provenance.FILE_NAME]
    for name in [*names, "boosting.safetensors"] if _copies_prompt(folder) else names:
        if (folder / name).is_file() and not (folder / name).is_symlink():
            (folder / name).unlink()


def remove_if_nothing_began(folder: Path) -> None:
    """Remove the folder of a run that has only its log."""
    if folder.is_dir() and [path.name for path in folder.iterdir()] == [LOG]:
        shutil.rmtree(folder, ignore_errors=True)  # another rank may still write to the log


def check_processes(cfg: CfgNode) -> None:
    """Raise `ConfigError` if several processes cannot train this together.

    Only this package's trainers can be shared.
    """
    if parallel.size() > 1 and own_class(cfg.TRAINER.NAME) is None:
        raise ConfigError(
            f"TRAINER.NAME: {cfg.TRAINER.NAME} with {parallel.size()} processes; expected a trainer of this package. Start "
            "it without torchrun"
        )


def check_labels(cfg: CfgNode, trainer: Any, trained: bool, tested: bool) -> None:
    """Raise `ConfigError` if a dataset without labels is to be trained with labels or tested on."""
    if getattr(trainer.dm.dataset, "labelled", True):
        return
    if trained and getattr(trainer, "reads_labels", True):
        raise ConfigError(
            f"DATASET.NAME: {cfg.DATASET.NAME} has no labels; expected a labelled dataset for {cfg.TRAINER.NAME}. Only phase 1 "
            "(the trainer CasPL) learns without labels"
        )
    if tested:
        raise ConfigError(
            f"DATASET.NAME: {cfg.DATASET.NAME} has no labels; expected a labelled dataset for a test. Give another dataset, "
            "or train with TEST.NO_TEST True"
        )


def check_validation(cfg: CfgNode, trainer: Any) -> None:
    """Raise `ConfigError` if validation images are needed and do not exist.

    Dassl would use the test images.
    """
    needed = {"TEST.FINAL_MODEL": cfg.TEST.FINAL_MODEL == "best_val", "TEST.SPLIT": cfg.TEST.SPLIT == "val"}
    for key, wanted in needed.items():
        if wanted and not cfg.TEST.NO_TEST and trainer.val_loader is None:
            raise ConfigError(
                f"{key}: needs validation images, but {cfg.DATASET.NAME} has none; expected "
                f"{'last_step' if key == 'TEST.FINAL_MODEL' else 'test'}. Change it, or add validation images"
            )


def check_device(cfg: CfgNode) -> None:
    """Raise `ConfigError` if a GPU was asked for and only a CPU is available.

    Hours would turn into weeks.
    """
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if cfg.USE_CUDA and not torch.cuda.is_available() and wanted[:1].isdigit():
        raise ConfigError(
            f"CUDA_VISIBLE_DEVICES: {wanted!r}, but PyTorch {torch.__version__} finds no GPU; expected one. Repair the driver "
            "or install a CUDA build of PyTorch, or set USE_CUDA False to compute on the CPU"
        )
