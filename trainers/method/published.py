"""Import and export of the published code's checkpoints (github.com/Martinser/CasPL)."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..backbones import fingerprint
from ..engine import PromptGroup
from ..storage.atomic import replacing
from ..storage.tensors import read_checkpoint
from .prompt_file import REDO, BoostingInfo, CheckpointError

# The kinds of prompt tensors; {} is the index of the block.
_TEXT, _VISION = "prompt_learner_teacher.ctx", "image_encoder.VPT_FIRST"
_DEEP_TEXT = "text_encoder.transformer.resblocks.{}.VPT_shallow_FIRST"
_DEEP_VISION = "image_encoder.transformer.resblocks.{}.VPT_shallow_FIRST"


def import_published(path: str | Path, **known: Any) -> tuple[PromptGroup, BoostingInfo]:
    """Read the boosting prompt from a checkpoint of the published code; nothing pickled in it is executed.

    Args:
        path: `model.pth.tar-<epoch>`, the folder of its `checkpoint` file, or the folder above.
        known: fields of `BoostingInfo` that the file does not record.

    Raises:
        FileNotFoundError: the checkpoint does not exist.
        RestrictedReadError: the file is damaged or of another format.
        CheckpointError: it has no such prompt, or one that is not finite.
        ValueError: a value in `known` is out of its range.
    """
    path = _published_file(Path(path))
    content = read_checkpoint(path)
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or _TEXT not in state or _VISION not in state:
        raise CheckpointError(f"{path}: no published boosting prompt; expected {_TEXT} and {_VISION} in its state_dict")
    text = [state[_TEXT], *_deep(state, _DEEP_TEXT)]
    vision = [state[_VISION], *_deep(state, _DEEP_VISION)]
    for name, layers in (("text", text), ("vision", vision)):
        _check_layers(path, name, layers)
    group = PromptGroup(torch.stack(text).float().clone(), torch.stack(vision).float().clone()).freeze()
    info = dataclasses.replace(_info_from_state(state, content.get("epoch"), str(text[0].dtype)), **known)
    info.check()
    return group, info


def _check_layers(path: Path, tower: str, layers: list) -> None:
    """Check that the published prompts of a tower are finite (n, d) tensors of one shape."""
    for number, layer in enumerate(layers):
        if not isinstance(layer, Tensor) or layer.dim() != 2 or not layer.numel() or not layer.is_floating_point():
            found = f"a {layer.dtype} of shape {tuple(layer.shape)}" if isinstance(layer, Tensor) else repr(layer)[:40]
            raise CheckpointError(f"{path}: {tower} layer {number} is {found}; expected floats (tokens, width). {REDO}")
        if layer.shape != layers[0].shape:
            raise CheckpointError(f"{path}: the {tower} layers differ in shape: {[tuple(t.shape) for t in layers]}")
        if not torch.isfinite(layer.float()).all():
            raise CheckpointError(f"{path}: {tower} layer {number} has values that are not finite. {REDO}")


def _published_file(path: Path) -> Path:
    for folder in (path, path / "CasPL"):
        pointer = folder / "checkpoint"
        if pointer.is_file():
            return folder / pointer.read_text(errors="replace").strip().replace("\0", "?")
    return path


def _deep(state: Mapping, pattern: str) -> list[Tensor]:
    layers: list[Tensor] = []
    while pattern.format(len(layers) + 1) in state:
        layers.append(state[pattern.format(len(layers) + 1)])
    return layers


def _info_from_state(state: Mapping, epochs: Any, dtype: str) -> BoostingInfo:
    """Return what a published checkpoint records; it holds the whole student around its prompts."""
    info = BoostingInfo(
        epochs=epochs if type(epochs) is int and epochs >= 0 else 0,
        dtype=dtype.removeprefix("torch."),
        text_width=state[_TEXT].shape[-1],
        vision_width=state[_VISION].shape[-1],
    )
    visual, text = state.get("image_encoder.proj"), state.get("text_encoder.text_projection")
    if isinstance(visual, Tensor) and isinstance(text, Tensor):
        info.student_weights = fingerprint(visual, text)
    for tower, encoder in (("vision", "image_encoder"), ("text", "text_encoder")):
        blocks = sum(f"{encoder}.transformer.resblocks.{i}.ln_1.weight" in state for i in range(99))
        setattr(info, f"{tower}_layers", blocks)
    return info


def export_published(folder: str | Path, group: PromptGroup, info: BoostingInfo) -> Path:
    """Write a boosting prompt in the published layout: `<folder>/CasPL/model.pth.tar-<epoch>` and `checkpoint`.

    The published code reads only the tensors that the file has, so the student's weights are left out.

    Args:
        folder: the folder to write to.
        group: the prompt.
        info: its metadata.

    Returns:
        The checkpoint's path.

    Raises:
        CheckpointError: a tower has no prompts, which the layout cannot express.
        OSError: the folder cannot be written to.
    """
    if not group.text.numel() or not group.vision.numel():
        raise CheckpointError("the published layout needs prompts of depth 1 or more in both towers; one has none")
    state = {_TEXT: group.text[0], _VISION: group.vision[0]}
    state |= {_DEEP_TEXT.format(i): tokens for i, tokens in enumerate(group.text) if i}
    state |= {_DEEP_VISION.format(i): tokens for i, tokens in enumerate(group.vision) if i}
    content = {
        "state_dict": {key: value.detach().clone() for key, value in state.items()},
        "epoch": info.epochs,
        "optimizer": None,
        "scheduler": None,
        "val_result": None,
    }
    path = Path(folder) / "CasPL" / f"model.pth.tar-{info.epochs}"
    with replacing(path) as aside, open(aside, "wb") as stream:  # given a path, PyTorch writes its name into the file
        torch.save(content, stream)
    with replacing(path.parent / "checkpoint") as aside:
        aside.write_text(path.name + "\n")
    return path
