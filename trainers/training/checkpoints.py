"""Checkpoints in Dassl's layout: `<run>/<model>/model.pth.tar-<epoch>`, `model-best.pth.tar`, and `checkpoint`, which
names the last one.
"""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..storage.atomic import replacing
from ..storage.tensors import read_checkpoint
from .class_vectors import TENSOR
from .learned_file import read_learned

logger = logging.getLogger(__name__)

BEST, LATEST = "model-best.pth.tar", "checkpoint"
PROGRESS = "progress.pt"  # in a run's folder while the run is unfinished

# Tensors that belong to class names; a model is built with those of the current classes.
_OF_CLASSES = ("token_prefix", "token_suffix", TENSOR)


def write_checkpoint(folder: Path, content: dict, name: str = "", is_best: bool = False) -> None:
    """Write a checkpoint atomically.

    Args:
        folder: `<run>/<model>`.
        content: Dassl's entries, among them `state_dict` and `epoch` (the number of finished epochs).
        name: the file's name; empty: `model.pth.tar-<epoch>`.
        is_best: also copy it to `model-best.pth.tar`.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    path = folder / (name or f"model.pth.tar-{content['epoch']}")
    with replacing(path) as aside:
        torch.save(content, aside)
    with replacing(folder / LATEST) as aside:
        aside.write_text(f"{path.name}\n")
    logger.info("Checkpoint saved to %s", path)
    if is_best:
        with replacing(folder / BEST) as aside:
            shutil.copyfile(path, aside)


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint that `<folder>/checkpoint` names; None without that file."""
    pointer = folder / LATEST
    return folder / pointer.read_text(errors="replace").strip().replace("\0", "?") if pointer.is_file() else None


def find_checkpoint(folder: Path, epoch: int | None) -> Path:
    """Return the checkpoint of an epoch.

    None: the best one if there is one, else the last.

    Args:
        folder: `<run>/<model>`.
        epoch: counted from 1.

    Raises:
        FileNotFoundError: it does not exist; the message lists existing ones.
    """
    best = folder / BEST
    if epoch is not None:
        path = folder / f"model.pth.tar-{epoch}"
    else:
        path = best if best.is_file() else latest_checkpoint(folder) or best
    if not path.is_file():
        if (folder.parent / PROGRESS).is_file():
            raise FileNotFoundError(f"{folder.parent}: the run is not finished. Repeat its command to resume it")
        existing = ", ".join(sorted(p.name for p in folder.glob("model*"))) or "none"
        raise FileNotFoundError(
            f"{path}: no such checkpoint; existing: {existing}. Train first, or correct --model-dir or --load-epoch"
        )
    return path


def load_learner(learner: nn.Module, path: str | Path, rows: Sequence[int] | None = None) -> None:
    """Load a learner's parameters from a checkpoint in Dassl's layout.

    It may be ours or the original repository's.

    Args:
        learner: the learner.
        path: the checkpoint.
        rows: of parameters with a row for each class, the rows to take, in the order of the current classes; None: all.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it cannot be read, or its tensors are not those of the learner.
    """
    content = {"state_dict": read_learned(path)[0]} if Path(path).suffix == ".safetensors" else read_checkpoint(path)
    state, wanted = _learned(content), learner.state_dict()
    if not state or set(state) != set(wanted):
        raise ValueError(
            f"{path}: found {sorted(state) or 'no tensors'}; expected {sorted(wanted)}. It was saved by another trainer, or "
            "with another prompt depth: evaluate with the configuration of its training"
        )
    if rows is not None:
        state = {
            key: value[list(rows)] if value.dim() and len(value) > max(rows) else value for key, value in state.items()
        }
    for key, value in state.items():
        _check_tensor(f"{path}: {key}", value, wanted[key])
    learner.load_state_dict(state)
    epoch = content.get("epoch", "unknown")
    logger.info("Loaded %d tensors (epoch %s) from %s", len(state), epoch, path)


def _learned(content: object) -> dict[str, Tensor]:
    """Return the learner's tensors in a checkpoint's content."""
    content = content if isinstance(content, dict) else {}
    state = content.get("state_dict", content)
    state = state if isinstance(state, dict) else {}
    state = {key: value for key, value in state.items() if isinstance(key, str) and isinstance(value, Tensor)}
    learner = "prompt_learner."
    if any(key.startswith(learner) for key in state):  # MaPLe's own repository saves the whole model
        state = {key.removeprefix(learner): value for key, value in state.items() if key.startswith(learner)}
    return {key: value for key, value in state.items() if key not in _OF_CLASSES}


def _check_tensor(what: str, value: Tensor, wanted: Tensor) -> None:
    if value.shape != wanted.shape:
        raise ValueError(
            f"{what} has shape {tuple(value.shape)}; expected {tuple(wanted.shape)}. It was trained with other prompt "
            "lengths, another backbone, or (class-specific context) for other classes"
        )
    if value.is_floating_point() != wanted.is_floating_point():
        raise ValueError(f"{what} is of type {value.dtype}; expected {wanted.dtype}. Train again")
    if not torch.isfinite(value).all():
        raise ValueError(f"{what} has values that are not finite. The training diverged: train again")
