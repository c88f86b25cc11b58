"""Prompts in published checkpoints: CasPL's boosting prompt (github.com/Martinser/CasPL), imported and exported, and the
prompts of a PromptSRC model (github.com/muzairkhattak/PromptSRC), such as PromptKD's teachers.
"""

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


@dataclasses.dataclass(frozen=True)
class Layout:
    """The names of a model's prompt tensors in its state dict.

    Attributes:
        what: the prompts, for messages.
        folder: of its checkpoints in a run's folder.
        text: the text tower's first layer.
        vision: the vision tower's first layer.
        deeper: ending of the names of the other layers, in both towers' blocks.
    """

    what: str
    folder: str
    text: str
    vision: str
    deeper: str

    def layer(self, tower: str, block: int) -> str:
        """Return the name of a layer of the "text" or "vision" tower."""
        encoder = "image_encoder" if tower == "vision" else "text_encoder"
        return f"{encoder}.transformer.resblocks.{block}.{self.deeper}" if block else getattr(self, tower)


BOOSTING = Layout(
    "boosting prompt", "CasPL", "prompt_learner_teacher.ctx", "image_encoder.VPT_FIRST", "VPT_shallow_FIRST"
)
PROMPTSRC = Layout("PromptSRC model", "VLPromptLearner", "prompt_learner.ctx", "image_encoder.VPT", "VPT_shallow")


def import_published(path: str | Path, **known: Any) -> tuple[PromptGroup, BoostingInfo]:
    """Read the boosting prompt from a checkpoint of the published code.

    Nothing pickled in it is executed.

    Args:
        path: `model.pth.tar-<epoch>`, the folder of its `checkpoint` file, or the folder above.
        known: fields of `BoostingInfo` that the file does not record.

    Raises:
        FileNotFoundError: the checkpoint does not exist.
        RestrictedReadError: the file is damaged or of another format.
        CheckpointError: it has no such prompt, or one that is not finite.
        ValueError: a value in `known` is out of its range.
    """
    path, state, epoch = read_state(path, BOOSTING)
    group = stacked_prompts(path, state, BOOSTING)
    info = dataclasses.replace(_info_from_state(state, epoch, str(state[BOOSTING.text].dtype)), **known)
    info.check()
    return group, info


def read_state(path: str | Path, layout: Layout) -> tuple[Path, Mapping, int]:
    """Read a published checkpoint; nothing pickled in it is executed.

    Args:
        path: `model.pth.tar-<epoch>`, the folder of its `checkpoint` file, or the folder above.
        layout: the prompts that it must have.

    Returns:
        The file, its state dict, and its epoch (0: not recorded).

    Raises:
        FileNotFoundError: the checkpoint does not exist.
        RestrictedReadError: the file is damaged or of another format.
        CheckpointError: it has no such prompts.
    """
    path = _published_file(Path(path), layout.folder)
    content = read_checkpoint(path)
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or layout.text not in state or layout.vision not in state:
        raise CheckpointError(
            f"{path}: no published {layout.what}; expected {layout.text} and {layout.vision} in its state_dict"
        )
    epoch = content.get("epoch")
    return path, state, epoch if type(epoch) is int and epoch >= 0 else 0


def stacked_prompts(path: Path, state: Mapping, layout: Layout) -> PromptGroup:
    """Return the frozen prompts of both towers in float32.

    Raises:
        CheckpointError: a layer is not a matrix of finite floats, or the layers of a tower differ in shape.
    """
    towers = {tower: _layers(state, layout, tower) for tower in ("text", "vision")}
    for name, layers in towers.items():
        _check_layers(path, name, layers)
    text, vision = (torch.stack(layers).float().clone() for layers in towers.values())
    return PromptGroup(text, vision).freeze()


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


def _published_file(path: Path, name: str) -> Path:
    for folder in (path, path / name):
        pointer = folder / "checkpoint"
        if pointer.is_file():
            return folder / pointer.read_text(errors="replace").strip().replace("\0", "?")
        if (folder / "model-best.pth.tar").is_file():
            return folder / "model-best.pth.tar"
    return path


def _layers(state: Mapping, layout: Layout, tower: str) -> list[Tensor]:
    found: list[Tensor] = []
    while (name := layout.layer(tower, len(found))) in state:
        found.append(state[name])
    return found


def _info_from_state(state: Mapping, epochs: int, dtype: str) -> BoostingInfo:
    """Return what a published checkpoint records; it holds the whole student around its prompts."""
    info = BoostingInfo(
        epochs=epochs,
        dtype=dtype.removeprefix("torch."),
        text_width=state[BOOSTING.text].shape[-1],
        vision_width=state[BOOSTING.vision].shape[-1],
    )
    visual, text = state.get("image_encoder.proj"), state.get("text_encoder.text_projection")
    if isinstance(visual, Tensor) and isinstance(text, Tensor):
        info.student_weights = fingerprint(visual, text)
    for tower, encoder in (("vision", "image_encoder"), ("text", "text_encoder")):
        blocks = sum(f"{encoder}.transformer.resblocks.{i}.ln_1.weight" in state for i in range(99))
        setattr(info, f"{tower}_layers", blocks)
    return info


def export_published(folder: str | Path, group: PromptGroup, info: BoostingInfo) -> Path:
    """Write a boosting prompt in the published layout.

    It is `<folder>/CasPL/model.pth.tar-<epoch>` and `checkpoint`.

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
    state = {
        BOOSTING.layer(tower, i): tokens
        for tower, stack in (("text", group.text), ("vision", group.vision))
        for i, tokens in enumerate(stack)
    }
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
