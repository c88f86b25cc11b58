"""Checkpoints: `<folder>/model.pth.tar-<epoch>`, `model-best.pth.tar`, and `checkpoint`, which names the last one.

A checkpoint is a dictionary with `state_dict`, `epoch` (the number of finished epochs), `optimizer`, `scheduler` and
`val_result`, as in Dassl. The plug-in sets the reader of these files: `torch.load` is unsafe in some versions of PyTorch.
"""

import logging
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .files import describe_folder

logger = logging.getLogger(__name__)

BEST = "model-best.pth.tar"
LATEST = "checkpoint"

reader: Callable[[str], Any] | None = None  # reads plain data and tensors from a file, and executes nothing in it


def _strip_module(state_dict: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Remove the prefix that `nn.DataParallel` puts before each key."""
    return OrderedDict((key.removeprefix("module."), value) for key, value in state_dict.items())


def _plain(value: Any) -> Any:
    """Convert NumPy scalars and arrays, which a safe load rejects, to numbers and tensors."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(item) for item in value)
    return value


def save_checkpoint(
    state: dict[str, Any],
    save_dir: str | os.PathLike[str],
    is_best: bool = False,
    remove_module_from_keys: bool = True,
    model_name: str = "",
) -> None:
    """Write `state` to `<save_dir>/<model_name>` and that name to `<save_dir>/checkpoint`.

    Args:
        state: the entries listed at the top of this file; `state_dict` and `epoch` are required. It is not changed.
        save_dir: `<run>/<model>`.
        is_best: also copy the file to `model-best.pth.tar`.
        remove_module_from_keys: drop the prefix that `nn.DataParallel` puts before the keys.
        model_name: the file's name; empty: `model.pth.tar-<epoch>`.
    """
    weights = state["state_dict"]
    state = {key: value if key == "state_dict" else _plain(value) for key, value in state.items()}
    if remove_module_from_keys:
        state["state_dict"] = _strip_module(weights)
    path = Path(save_dir, model_name or f"model.pth.tar-{state['epoch']}")
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    path.with_name(LATEST).write_text(f"{path.name}\n", encoding="utf-8")
    logger.info("Checkpoint saved to %s", path)
    if is_best:
        shutil.copyfile(path, path.with_name(BEST))


def load_checkpoint(fpath: str | os.PathLike[str]) -> dict[str, Any]:
    """Load a checkpoint's dictionary, tensors on the CPU.

    Raises:
        FileNotFoundError: the file does not exist; the message lists the folder's files.
        ValueError: `fpath` is None, or the file is damaged or contains other objects than plain data and tensors.
        RuntimeError: the plug-in is not imported.
    """
    if fpath is None:
        raise ValueError("checkpoint path: None; expected a file")
    if not os.path.isfile(fpath):
        raise FileNotFoundError(f"No checkpoint {fpath}: {describe_folder(os.path.dirname(fpath))}")
    if reader is None:
        raise RuntimeError(
            f"{fpath}: dassl.utils.checkpoint.reader is not set; expected the plug-in's. Import it first"
        )
    return reader(os.fspath(fpath))


def _mismatch(model: nn.Module, state_dict: Mapping[str, Any], limit: int = 5) -> str:
    """Describe how keys and shapes differ from the model's; empty if they do not."""
    own = model.state_dict()
    parts = {
        "missing in the file": [key for key in own if key not in state_dict],
        "unknown to the model": [key for key in state_dict if key not in own],
        "of another shape": [
            f"{key} {tuple(state_dict[key].shape)}, model {tuple(value.shape)}"
            for key, value in own.items()
            if key in state_dict and getattr(value, "shape", None) != getattr(state_dict[key], "shape", None)
        ],
    }
    return "; ".join(
        f"{len(keys)} {what}: {', '.join(keys[:limit])}{', ...' if len(keys) > limit else ''}"
        for what, keys in parts.items()
        if keys
    )


def load_weights(model: nn.Module, state_dict: Mapping[str, Any], source: str | os.PathLike[str]) -> None:
    """Load all of `state_dict` into a model.

    Raises:
        RuntimeError: keys or shapes differ; the message names them and `source`, the file.
    """
    try:
        model.load_state_dict(state_dict)
    except RuntimeError as error:
        raise RuntimeError(
            f"{source} does not fit {type(model).__name__}: {_mismatch(model, state_dict) or error}. Was it "
            "saved with the same trainer, backbone, classes and prompt sizes?"
        ) from error


def resume_from_checkpoint(
    fdir: str | os.PathLike[str], model: nn.Module, optimizer: Any = None, scheduler: Any = None
) -> int:
    """Load weights, optimiser and scheduler from the checkpoint that `<fdir>/checkpoint` names.

    Returns:
        The number of finished epochs, which is the index of the next one.

    Raises:
        FileNotFoundError: `checkpoint`, or the file it names, is missing.
    """
    pointer = Path(fdir, LATEST)
    if not pointer.is_file():
        raise FileNotFoundError(
            f"{pointer} is missing; expected one line with the name of the checkpoint to resume from: "
            f"{describe_folder(fdir)}"
        )
    path = pointer.with_name(pointer.read_text(encoding="utf-8").strip())
    checkpoint = load_checkpoint(path)
    load_weights(model, checkpoint["state_dict"], path)
    for name, part in (("optimizer", optimizer), ("scheduler", scheduler)):
        if part is None:
            continue
        if checkpoint.get(name) is None:
            logger.warning("%s has no %s state: it starts from scratch", path, name)
        else:
            part.load_state_dict(checkpoint[name])
    logger.info("Resume from %s (%d epochs finished)", path, checkpoint["epoch"])
    return checkpoint["epoch"]


def load_pretrained_weights(model: nn.Module, weight_path: str | os.PathLike[str]) -> None:
    """Load the tensors that fit by name and shape from a checkpoint or state dict.

    Log the others.
    """
    checkpoint = load_checkpoint(weight_path)
    found = _strip_module(checkpoint.get("state_dict", checkpoint))
    weights = model.state_dict()
    fitting = {k: v for k, v in found.items() if k in weights and weights[k].shape == v.shape}
    if not fitting:
        logger.warning(
            "Nothing of %s fits %s by name and shape: no weight is loaded", weight_path, type(model).__name__
        )
        return
    model.load_state_dict({**weights, **fitting})
    logger.info("Loaded %d of the %d tensors in %s", len(fitting), len(found), weight_path)
    discarded = [key for key in found if key not in fitting]
    if discarded:
        logger.warning("Not loaded, since name or shape does not fit: %s", ", ".join(discarded))
