"""Checkpoints: `<folder>/model.pth.tar-<epoch>`, `model-best.pth.tar`, and `checkpoint`, naming the last.

A checkpoint is a dictionary with `state_dict`, `epoch` (how many are done), `optimizer`, `scheduler`,
`val_result` (Dassl's layout) and, written by this stand-in's trainers, `random_state`. It is read with
`weights_only=True`.
"""

import logging
import os
import pickle
import shutil
from collections import OrderedDict

import numpy as np
import torch

from .files import atomic_write, describe_folder
from .randomness import set_random_state

__all__ = [
    "load_checkpoint",
    "load_pretrained_weights",
    "load_weights",
    "resume_from_checkpoint",
    "save_checkpoint",
]

logger = logging.getLogger(__name__)

BEST = "model-best.pth.tar"
LATEST = "checkpoint"


def _strip_module(state_dict):
    """Without the prefix that `nn.DataParallel` puts before each key."""
    return OrderedDict((key.removeprefix("module."), value) for key, value in state_dict.items())


def _plain(value):
    """`value` with NumPy's scalars and arrays, which a safe load refuses, as numbers and tensors."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(item) for item in value)
    return value


def save_checkpoint(state, save_dir, is_best=False, remove_module_from_keys=True, model_name=""):
    """Write `state` to `<save_dir>/<model_name>` and that name to `<save_dir>/checkpoint`.

    Args:
        state: the dictionary described above; `state_dict` and `epoch` are required. It is not changed.
        is_best: also copy the file to `model-best.pth.tar`.
        remove_module_from_keys: drop the prefix that `nn.DataParallel` puts before the keys.
        model_name: default `model.pth.tar-<epoch>`.
    """
    weights = state["state_dict"]
    state = {key: value if key == "state_dict" else _plain(value) for key, value in state.items()}
    if remove_module_from_keys:
        state["state_dict"] = _strip_module(weights)
    model_name = model_name or f"model.pth.tar-{state['epoch']}"
    path = os.path.join(save_dir, model_name)
    with atomic_write(path, "wb") as file:
        torch.save(state, file)
    with atomic_write(os.path.join(save_dir, LATEST)) as file:
        file.write(f"{model_name}\n")
    logger.info("Checkpoint saved to %s", path)
    if is_best:
        best = os.path.join(save_dir, BEST)
        with open(path, "rb") as source, atomic_write(best, "wb") as file:
            shutil.copyfileobj(source, file)
        logger.info("Best checkpoint saved to %s", best)


def load_checkpoint(fpath):
    """The dictionary in checkpoint `fpath`, its tensors on the CPU.

    Raises:
        FileNotFoundError: no such file; the message says what the folder has.
        ValueError: `fpath` is None, or the file is damaged or holds more than plain data and tensors.
    """
    if fpath is None:
        raise ValueError("the checkpoint's path is None")
    if not os.path.isfile(fpath):
        raise FileNotFoundError(f"No checkpoint {fpath}: {describe_folder(os.path.dirname(fpath))}")
    try:
        return torch.load(fpath, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{fpath} holds Python objects beside plain data and tensors, and reading those could run code. "
            "If you trust the file, load it elsewhere and save its state_dict, epoch and val_result again"
        ) from error
    except (RuntimeError, EOFError) as error:
        raise ValueError(f"{fpath} is damaged or not a torch file: {error}") from error


def _mismatch(model, state_dict, limit=5):
    """How the keys and shapes of `state_dict` differ from the model's, in words; empty if they do not."""
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


def load_weights(model, state_dict, source):
    """Load all of `state_dict` into `model`.

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


def resume_from_checkpoint(fdir, model, optimizer=None, scheduler=None):
    """Load the checkpoint that `<fdir>/checkpoint` names: weights, optimiser, scheduler, random state.

    Returns:
        int: how many epochs are done, which is the index of the next.

    Raises:
        FileNotFoundError: `checkpoint`, or the file it names, is missing.
    """
    pointer = os.path.join(fdir, LATEST)
    if not os.path.isfile(pointer):
        raise FileNotFoundError(
            f"{pointer} is missing; it must hold one line, the name of the checkpoint to resume from: "
            f"{describe_folder(fdir)}"
        )
    with open(pointer, encoding="utf-8") as file:
        path = os.path.join(fdir, file.readline().strip())
    checkpoint = load_checkpoint(path)
    load_weights(model, checkpoint["state_dict"], path)
    for name, part in (("optimizer", optimizer), ("scheduler", scheduler)):
        if part is None:
            continue
        if checkpoint.get(name) is None:
            logger.warning("%s has no %s state: it starts afresh", path, name)
        else:
            part.load_state_dict(checkpoint[name])
    if "random_state" in checkpoint:
        set_random_state(checkpoint["random_state"])
    logger.info("Resume from %s (%d epochs done)", path, checkpoint["epoch"])
    return checkpoint["epoch"]


def load_pretrained_weights(model, weight_path):
    """Load what fits, by name and shape, from a checkpoint or plain state dict; log what does not."""
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
