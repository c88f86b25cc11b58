"""Resumable training: `progress.pt` is rewritten after every epoch; repeating the command resumes bit-exactly.

The file exists only while a run is unfinished, so that a half-trained model is never evaluated.
"""

import json
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from ..storage.atomic import replacing
from ..storage.tensors import read_checkpoint
from . import parallel
from .checkpoints import BEST, PROGRESS, latest_checkpoint, load_learner
from .log import announce
from .optimiser import with_kernels_of
from .rng import get_rng_state, set_rng_state

if TYPE_CHECKING:
    from dassl.engine import TrainerX as _Base
else:
    _Base = object

logger = logging.getLogger(__name__)

T = TypeVar("T", int, float)

_PARTS = ("_models", "_optims", "_scheds")
_OF_VERSIONS = ("decoupled_weight_decay", "verbose", "_is_initial")  # entries that only some versions of PyTorch have


class ProgressError(ValueError):
    """A run from whose files training cannot resume."""


class DivergedError(FloatingPointError):
    """A training whose loss, gradients or parameters are not finite."""


class Resumable(_Base):
    """Mixin for a Dassl trainer: a killed run resumes after its last whole epoch, bit-exactly.

    It precedes Dassl's class in the bases of a trainer, which has a `scaler` (a `GradScaler`).

    Attributes:
        skipped: number of steps skipped because their gradients overflowed float16.
    """

    skipped = 0
    scaler: torch.amp.GradScaler
    best_result: float
    run_identity: dict | None
    _resumed_best: float | None = None

    def before_train(self) -> None:
        """Restore the best validation result too, which Dassl's hook resets."""
        self._resumed_best = None
        super().before_train()
        if self._resumed_best is not None:
            self.best_result = self._resumed_best

    def resume_model_if_exist(self, directory: str) -> int:
        """Resume from the progress in a run's folder, else from the last checkpoints in it.

        Returns:
            The number of finished epochs.

        Raises:
            ProgressError: a file is damaged, or of another run.
        """
        folder = Path(directory)
        path = folder / PROGRESS
        try:
            if path.is_file():
                return self._resume(read_checkpoint(path), path)
            path = folder
            return self._resume_from_checkpoints(folder)
        except Exception as error:  # damaged files fail in many ways
            raise ProgressError(
                f"{path}: training cannot resume from it ({type(error).__name__}: {error}). Remove {path} to train from "
                "scratch, or give another --output-dir"
            ) from error

    def _resume(self, content: dict, path: Path) -> int:
        done = _number(content, "epochs", int, 1, self.max_epoch)
        self.skipped = _number(content, "skipped", int, 0, math.inf)
        self._resumed_best = _number(content, "best_result", float, -math.inf, math.inf)
        for part in _PARTS:
            for name, thing in getattr(self, part).items():
                if thing is not None:
                    _load(f"{part.strip('_')}/{name}", thing, content[part][name])
        _load("scaler", self.scaler, content["scaler"])
        set_rng_state(content["random_state"])
        announce("Resuming from %s at epoch %d/%d", path, done + 1, self.max_epoch)
        return done

    def _resume_from_checkpoints(self, folder: Path) -> int:
        """Resume from the checkpoints that `<folder>/<model>/checkpoint` name; return 0 if one is missing."""
        latest = {name: latest_checkpoint(folder / name) for name in self.get_model_names()}
        if not latest or None in latest.values():
            logger.info("Nothing to resume in %s", folder)
            return 0
        contents = {name: read_checkpoint(path) for name, path in latest.items() if path is not None}
        epochs = {name: _number(content, "epoch", int, 1, self.max_epoch) for name, content in contents.items()}
        if len(set(epochs.values())) > 1:
            raise ValueError(f"the checkpoints are of different epochs: {epochs}")
        for name, content in contents.items():
            load_learner(self._models[name], latest[name] or folder)
            for part, things in (("optimizer", self._optims), ("scheduler", self._scheds)):
                if things[name] is not None and content.get(part) is not None:
                    _load(f"{name}/{part}", things[name], content[part])
            if "random_state" in content:
                set_rng_state(content["random_state"])
            best = folder / name / BEST
            if self.cfg.TEST.FINAL_MODEL == "best_val" and best.is_file():
                self._resumed_best = float(read_checkpoint(best)["val_result"])
        done = next(iter(epochs.values()))
        announce("Resuming from the checkpoints in %s: %d/%d epochs are finished", folder, done, self.max_epoch)
        return done

    def after_epoch(self) -> None:
        """Write the progress after Dassl's hook.

        Raises:
            DivergedError: a parameter is not finite; nothing is written then.
        """
        values = {(name, key): v for name, model in self._models.items() for key, v in model.state_dict().items()}
        finite = torch.stack([value.isfinite().all() for value in values.values()]).tolist() if values else []
        for (name, key), good in zip(values, finite, strict=True):
            if not good:
                raise DivergedError(self.diverged(f"{name}'s {key} has values that are not finite"))
        super().after_epoch()
        parallel.on_main(self._write_progress)

    def _write_progress(self) -> None:
        parts = {
            part: {name: plain(thing.state_dict()) for name, thing in getattr(self, part).items() if thing is not None}
            for part in _PARTS
        }
        content = {
            **parts,
            "epochs": self.epoch + 1,
            "scaler": self.scaler.state_dict(),
            "skipped": self.skipped,
            "best_result": float(self.best_result),
            "random_state": get_rng_state(),
            "identity": None if getattr(self, "run_identity", None) is None else json.dumps(self.run_identity),
        }
        with replacing(Path(self.output_dir) / PROGRESS) as aside:
            torch.save(content, aside)

    def after_train(self) -> None:
        """Remove the progress after Dassl's hook: the run is finished."""
        super().after_train()
        parallel.on_main(lambda: (Path(self.output_dir) / PROGRESS).unlink(missing_ok=True))

    def diverged(self, what: str, batch: int = 0) -> str:
        """Return the message of a `DivergedError`: what happened, when, what is kept, and what to do.

        Args:
            what: what happened.
            batch: in which batch, counted from 1; 0: the current one.
        """
        path = Path(self.output_dir) / PROGRESS
        kept = f"the state of the last whole epoch is kept in {path}" if path.is_file() else "no epoch was finished"
        return (
            f"{what} (epoch {self.epoch + 1}, batch {batch or self.batch_idx + 1} of {self.num_batches}); the run stops, "
            f"{kept}. "
            "Lower OPTIM.LR, or compute with PREC fp32, in another --output-dir"
        )


def plain(value: Any) -> Any:
    """Return `value` with plain dictionaries: `MultiStepLR` has a Counter, which a safe load rejects."""
    return {key: plain(item) for key, item in value.items()} if isinstance(value, dict) else value


def _number(content: dict, key: str, kind: type[T], least: float, most: float) -> T:
    """Return a number of a file's content, checked."""
    value: Any = content[key]
    if type(value) is not kind or not least <= value <= most:
        raise ValueError(f"{key} is {value!r}; expected {kind.__name__}, {least} to {most}")
    return value


def _load(what: str, thing: Any, state: Any) -> None:
    """Load the state of a model, optimiser, scheduler or scaler.

    Raises:
        ValueError: it does not have the structure of the current state, or a number is not finite.
    """
    if isinstance(thing, torch.optim.Optimizer):
        state = with_kernels_of(thing, state)
    ours = plain(thing.state_dict())
    state = _of_this_version(ours, state)
    _check_alike(what, ours, state)
    if isinstance(thing, torch.optim.Optimizer):
        parameters = [parameter for group in thing.param_groups for parameter in group["params"]]
        for number, entries in state["state"].items():
            for name, value in entries.items():
                if isinstance(value, Tensor) and value.dim() and value.shape != parameters[number].shape:
                    raise ValueError(
                        f"{what}/state/{number}/{name} is {_described(value)}; its parameter has another shape"
                    )
    thing.load_state_dict(state)


def _of_this_version(ours: Any, theirs: Any) -> Any:
    """Return a state of another version of PyTorch with the entries of this one."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        added = {key: ours[key] for key in _OF_VERSIONS if key in ours}
        kept = {key: value for key, value in theirs.items() if key not in _OF_VERSIONS}
        return {**{key: _of_this_version(ours.get(key), value) for key, value in kept.items()}, **added}
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [_of_this_version(one, other) for one, other in zip(ours, theirs, strict=True)]
    return theirs


def _check_alike(what: str, ours: Any, theirs: Any) -> None:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        if what.endswith("/state") and not ours:  # of an optimiser before its first step
            _check_finite(what, theirs)
        elif ours.keys() != theirs.keys():
            raise ValueError(f"{what} has {sorted(map(str, theirs))}; expected {sorted(map(str, ours))}")
        else:
            for key, value in ours.items():
                _check_alike(f"{what}/{key}", value, theirs[key])
    elif isinstance(ours, list | tuple) and isinstance(theirs, list | tuple) and len(ours) == len(theirs):
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            _check_alike(f"{what}/{number}", one, other)
    elif isinstance(ours, Tensor):
        if not isinstance(theirs, Tensor) or ours.shape != theirs.shape:
            raise ValueError(f"{what} is {_described(theirs)}; expected {_described(ours)}")
        _check_finite(what, theirs)
    elif type(ours) is not type(theirs) and not (_is_number(ours) and _is_number(theirs)):
        raise ValueError(f"{what} is {_described(theirs)}; expected {_described(ours)}")
    else:
        _check_finite(what, theirs)


def _check_finite(what: str, value: Any) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _check_finite(f"{what}/{key}", item)
    elif isinstance(value, Tensor):
        if not torch.isfinite(value).all():
            raise ValueError(f"{what} has values that are not finite")
    elif not (value is None or isinstance(value, str) or (_is_number(value) and math.isfinite(value))):
        raise ValueError(f"{what} is {_described(value)}; expected a finite number")


def _is_number(value: Any) -> bool:
    return isinstance(value, bool | int | float)


def _described(value: Any) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)[:80]
