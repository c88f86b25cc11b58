"""One run: train or evaluate what a configuration describes, logged to the run's folder."""

import contextlib
import io
import logging
import os
import shutil
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from dassl.engine import TRAINER_REGISTRY, build_trainer
from dassl.utils import set_random_seed, setup_logger
from yacs.config import CfgNode

from ..config import ConfigError, check_kept, keep_config
from ..storage.atomic import remove_parts
from ..storage.locks import locked
from . import parallel
from .evaluation import Measuring, Metrics
from .rng import be_deterministic
from .trainer import PromptTrainer

logger = logging.getLogger(__name__)


def own_class(trainer: str) -> type[PromptTrainer] | None:
    """Return the class of this package behind a trainer's name, cascaded or not; None for another toolbox's."""
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
            parallel.on_main(lambda: self._prepare(stack))
            with self._logged():
                trainer = self._build()
                if build_only:
                    return None
                parallel.on_main(lambda: keep_config(self.cfg, self.folder / "config.yaml"))
                trainer.train()
                return trainer.evaluator.metrics

    def evaluate(self, folder: str | Path = "", epoch: int | None = None) -> Metrics:
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
        with self._processes(), self._logged():
            trainer = self._build()
            trainer.load_model(str(folder), epoch=epoch)
            trainer.test()
            return trainer.evaluator.metrics

    def _processes(self) -> contextlib.AbstractContextManager:
        check_device(self.cfg)
        if self.deterministic:
            be_deterministic()
        return parallel.processes(torch.cuda.is_available() and self.cfg.USE_CUDA)

    def _prepare(self, stack: contextlib.ExitStack) -> None:
        """Lock the folder until `stack` is closed, and check that the run may resume in it."""
        stack.enter_context(locked(self.folder))
        check_kept(self.cfg, self.folder / "config.yaml")
        remove_parts(self.folder)

    def _build(self) -> Any:
        """Build the trainer with its evaluator wrapped in `Measuring`."""
        check_processes(self.cfg)
        if self.cfg.SEED >= 0:
            set_random_seed(self.cfg.SEED)
        parallel.same_randomness()
        trainer = build_trainer(self.cfg)
        trainer.evaluator = Measuring(trainer.evaluator)
        return trainer

    @contextlib.contextmanager
    def _logged(self) -> Iterator[None]:
        """Log to the folder; an error's traceback goes into its log, and a run that never began leaves nothing."""
        with logging_to(self.cfg.OUTPUT_DIR) if parallel.is_main() else parallel.quiet():
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
            logger.warning("Stopped: the same command resumes")
        else:
            with contextlib.suppress(OSError), open(self.folder / "log.txt", "a") as log:  # the disk may be full
                traceback.print_exc(file=log)
        if parallel.is_main():
            remove_if_nothing_began(self.folder)


def remove_if_nothing_began(folder: Path) -> None:
    """Remove the folder of a run that has only its log."""
    if [path.name for path in folder.iterdir()] == ["log.txt"]:
        shutil.rmtree(folder)


def check_processes(cfg: CfgNode) -> None:
    """Raise `ConfigError` if several processes would train what only this package's trainers can share."""
    if parallel.size() > 1 and own_class(cfg.TRAINER.NAME) is None:
        raise ConfigError(
            f"{cfg.TRAINER.NAME} is not a trainer of this package and cannot share its work among {parallel.size()} "
            "processes: start it without torchrun"
        )


def check_device(cfg: CfgNode) -> None:
    """Raise `ConfigError` if a GPU was asked for and only a CPU is available, where hours would turn into weeks."""
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if cfg.USE_CUDA and not torch.cuda.is_available() and wanted[:1].isdigit():
        raise ConfigError(
            f"CUDA_VISIBLE_DEVICES is {wanted!r}, but PyTorch {torch.__version__} finds no GPU: repair the driver or "
            "install a CUDA build of PyTorch; or set USE_CUDA False, to compute on the CPU"
        )


@contextlib.contextmanager
def logging_to(folder: str) -> Iterator[None]:
    """Send what is logged and printed to the console and to `<folder>/log.txt` while the block runs."""
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
            stream.console = io.StringIO()  # the real Dassl's logger closes it when it is garbage-collected
