"""How far a run is: one file in its folder, renewed behind each epoch, from which the same command goes on bit by bit.

It is there only while the run goes on: whoever evaluates a run never meets a half-trained model.
"""

import logging
from pathlib import Path

import torch

from ..storage.atomic import replacing
from ..storage.tensors import read_checkpoint
from . import parallel
from .rng import random_state, set_random_state

logger = logging.getLogger(__name__)

FILE_NAME = "progress.pt"  # in a run's folder
_PARTS = ("_models", "_optims", "_scheds")


class ProgressError(ValueError):
    """A run's `progress.pt` that cannot be gone on from."""


class DivergedError(FloatingPointError):
    """A training that has left the finite numbers."""


def _plain(value):
    """`value` with plain dictionaries: `MultiStepLR` has a Counter, which a safe load refuses."""
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value


class Resumable:
    """What a Dassl trainer gains: ahead of it in a class's bases, a run that was killed goes on behind its last whole epoch.

    The trainer has a `scaler` (a `GradScaler`). Everything else that matters is Dassl's own.

    Attributes:
        skipped: steps that were left out because their gradients overflowed float16.
    """

    skipped = 0

    def before_train(self) -> None:
        """Dassl's hook; `resume_model_if_exist`, below, is called in it."""
        self._resumed_best = None
        super().before_train()
        if self._resumed_best is not None:
            self.best_result = self._resumed_best

    def resume_model_if_exist(self, directory: str) -> int:
        """Go on from the progress in a run's folder, or else from Dassl's checkpoints in it, if there are any.

        Returns:
            how many epochs are done.

        Raises:
            ProgressError: what is there is damaged, or of another run.
        """
        path = Path(directory) / FILE_NAME
        try:
            if path.is_file():
                return self._go_on(read_checkpoint(path), path)
            folders = [Path(directory) / name for name in self.get_model_names()]
            if not all((folder / "checkpoint").is_file() for folder in folders):
                logger.info("Nothing to go on from in %s: training starts", directory)
                return 0
            path = Path(directory)
            return super().resume_model_if_exist(directory)
        except Exception as error:  # damaged files fail in every imaginable way
            raise ProgressError(
                f"the run in {path} cannot be gone on with ({type(error).__name__}: {error}): remove {path} to start it "
                "again, or give another --output-dir"
            ) from error

    def _go_on(self, content: dict, path: Path) -> int:
        for part in _PARTS:
            for name, thing in getattr(self, part).items():
                if thing is not None:
                    thing.load_state_dict(content[part][name])
        self.scaler.load_state_dict(content["scaler"])
        self._resumed_best, self.skipped = content["best_result"], content["skipped"]
        set_random_state(content["random_state"])
        logger.info("Going on from %s: %d of %d epochs are done", path, content["epochs"], self.max_epoch)
        return content["epochs"]

    def after_epoch(self) -> None:
        """Dassl's hook; then the progress is written.

        Raises:
            DivergedError: a parameter is not a finite number; nothing is written then.
        """
        for name, model in self._models.items():
            for key, value in model.state_dict().items():
                if not torch.isfinite(value).all():
                    raise DivergedError(self.diverged(f"{name}'s {key} has values that are not finite"))
        super().after_epoch()
        parallel.on_main(self._write_progress)

    def _write_progress(self) -> None:
        parts = {
            part: {name: _plain(thing.state_dict()) for name, thing in getattr(self, part).items() if thing is not None}
            for part in _PARTS
        }
        content = {
            **parts,
            "epochs": self.epoch + 1,
            "scaler": self.scaler.state_dict(),
            "skipped": self.skipped,
            "best_result": float(self.best_result),
            "random_state": random_state(),
        }
        with replacing(Path(self.output_dir) / FILE_NAME) as aside:
            torch.save(content, aside)

    def after_train(self) -> None:
        """Dassl's hook; then the run is finished, and needs no progress any more."""
        super().after_train()
        parallel.on_main(lambda: (Path(self.output_dir) / FILE_NAME).unlink(missing_ok=True))

    def diverged(self, what: str) -> str:
        """The message of a `DivergedError`: what happened, where, what is kept, and what to do."""
        path = Path(self.output_dir) / FILE_NAME
        kept = f"the state of the last whole epoch is kept in {path}" if path.is_file() else "no epoch was finished"
        return (
            f"{what} (epoch {self.epoch + 1}, batch {self.batch_idx + 1} of {self.num_batches}); the run stops, {kept}: "
            "lower OPTIM.LR, or compute with PREC fp32, in another --output-dir"
        )
