"""Boosting-prompt files: safetensors with metadata, checked on loading; import and export of published checkpoints."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..backbones import fingerprint
from ..engine import PromptGroup
from ..storage.atomic import replacing
from ..storage.tensors import read_checkpoint
from ..training import provenance

FORMAT = 1
FILE_NAME = "boosting.safetensors"  # in a run's folder
VERSION = "0.1.0"

# The six kinds of tensors of a published checkpoint (github.com/Martinser/CasPL); {} is the number of the block.
_TEXT, _VISION = "prompt_learner_teacher.ctx", "image_encoder.VPT_FIRST"
_DEEP_TEXT = "text_encoder.transformer.resblocks.{}.VPT_shallow_FIRST"
_DEEP_VISION = "image_encoder.transformer.resblocks.{}.VPT_shallow_FIRST"


class CheckpointError(ValueError):
    """A boosting-prompt file that cannot be used, or not with this model."""


@dataclass
class BoostingInfo:
    """What a boosting-prompt file says about itself. An empty string or 0 is "not known" (an imported file).

    Attributes:
        student, teacher: backbones' names; `student_weights` is the student's `fingerprint`.
        text_width, vision_width, text_layers, vision_layers: the student's sizes (channels, blocks).
        order, temperature, template, host_words: how phase 1 was set.
        dataset, class_names, classes: what it saw; `classes` is "all" or "base"; `classes_hash` is of the names.
        images, labels: how many training images it saw, and whether it read their labels (see `ledger`).
        epochs, seed, dtype: how it was trained, and the type the prompts were trained in.
        code_version: of this package.
    """

    student: str = ""
    student_weights: str = ""
    teacher: str = ""
    text_width: int = 0
    vision_width: int = 0
    text_layers: int = 0
    vision_layers: int = 0
    order: str = "boosting_first"
    temperature: float = 1.0
    template: str = ""
    host_words: str = ""
    dataset: str = ""
    class_names: list[str] = field(default_factory=list)
    classes_hash: str = ""
    classes: str = ""
    images: int = 0
    labels: bool = False
    epochs: int = 0
    seed: int = 0
    dtype: str = ""
    code_version: str = VERSION

    def __post_init__(self):
        if self.class_names and not self.classes_hash:
            self.classes_hash = names_hash(self.class_names)


def boosting_item(info: BoostingInfo) -> dict:
    """Return phase 1's entry of a run's provenance, as its prompt file records it."""
    return provenance.item("boosting", info.dataset, info.images, info.labels, info.classes, info.class_names)


def names_hash(names: list[str]) -> str:
    """SHA-256 of the class names, in their order."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def save_boosting(path: str | Path, group: PromptGroup, info: BoostingInfo) -> None:
    """Write a boosting prompt (aside, then renamed). The parent folder is made if it is missing."""
    metadata = {key: json.dumps(value) for key, value in dataclasses.asdict(info).items()}
    metadata |= {"format": json.dumps(FORMAT)}
    for tower, stack in (("text", group.text), ("vision", group.vision)):
        metadata |= {
            f"{tower}_depth": json.dumps(stack.shape[0]),
            f"{tower}_tokens": json.dumps(stack.shape[1]),
        }
    tensors = {name: p.detach().float().cpu().contiguous() for name, p in group.named_parameters()}
    with replacing(path) as aside:
        save_file(tensors, aside, metadata=metadata)


def find_boosting(where: str | Path) -> Path:
    """The boosting-prompt file behind `TRAINER.CASPL.CHECKPOINT`: a file, or a run's folder.

    Raises:
        CheckpointError: nothing was given, or nothing is there.
    """
    if not str(where):
        raise CheckpointError(
            "TRAINER.CASPL.CHECKPOINT is empty: give the boosting-prompt file that phase 1 wrote "
            f"(<run>/{FILE_NAME}), or its run's folder"
        )
    path = Path(where).expanduser()
    if path.is_dir() and (path / FILE_NAME).is_file():
        return path / FILE_NAME
    if path.is_file():
        return path
    found = f"there is no {FILE_NAME} in it" if path.is_dir() else "there is no such file or folder"
    published = list(path.glob("**/model*.pth.tar*"))[:1] if path.is_dir() else []
    hint = (
        f"import the published checkpoint first: python scripts/caspl/convert.py import {published[0]} FILE"
        if published
        else "train one (trainer CasPL), or give the path of one"
    )
    raise CheckpointError(f"TRAINER.CASPL.CHECKPOINT is {path}, but {found}: {hint}")


def read_info(path: str | Path) -> BoostingInfo:
    """The metadata of a boosting-prompt file.

    Raises:
        CheckpointError: it is not one, or of a newer format.
    """
    return _read(path)[1]


def load_boosting(path: str | Path) -> tuple[PromptGroup, BoostingInfo]:
    """Read a boosting prompt, frozen and in eval mode, on the CPU in float32.

    Raises:
        CheckpointError: the file is not one, damaged, or its tensors are not those that its metadata announce.
    """
    tensors, info, announced = _read(path)
    if set(tensors) != {"text", "vision"}:
        raise CheckpointError(f"{path} holds the tensors {sorted(tensors)}, expected 'text' and 'vision': {_REDO}")
    for tower, tensor in tensors.items():
        expected = (
            announced[f"{tower}_depth"],
            announced[f"{tower}_tokens"],
            getattr(info, f"{tower}_width"),
        )
        if tensor.dim() != 3 or (expected[2] and tuple(tensor.shape) != expected):
            raise CheckpointError(
                f"{path}: tensor '{tower}' has shape {tuple(tensor.shape)}, its metadata say {expected}: {_REDO}"
            )
        if not tensor.is_floating_point() or not torch.isfinite(tensor.float()).all():
            raise CheckpointError(
                f"{path}: tensor '{tower}' ({tensor.dtype}) has values that are not finite numbers: {_REDO}"
            )
    if not any(tensor.numel() for tensor in tensors.values()):
        raise CheckpointError(f"{path} has no tokens in it: nothing would be loaded. {_REDO}")
    return PromptGroup(tensors["text"].float(), tensors["vision"].float()).freeze(), info


_LATER = {"images": 0, "labels": False}  # fields that files of the first version do not have
_REDO = "the file is damaged or was not written by this package; train or convert it again"


def _read(path: str | Path) -> tuple[dict[str, Tensor], BoostingInfo, dict]:
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no boosting-prompt file at {path}")
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (no iterator)
    except Exception as error:  # damaged files fail in every imaginable way
        hint = " (a published .pth.tar must be imported first: python scripts/caspl/convert.py import)"
        raise CheckpointError(f"{path} is not a safetensors file{hint}: {error}") from error
    try:
        values = _LATER | {key: json.loads(value) for key, value in metadata.items()}
        fields = {f.name for f in dataclasses.fields(BoostingInfo)}
        announced = {
            key: values[key] for key in ("format", "text_depth", "text_tokens", "vision_depth", "vision_tokens")
        }
        for key, expected in (dict.fromkeys(announced, 0) | vars(BoostingInfo())).items():
            if type(values[key]) not in ((int, float) if isinstance(expected, float) else (type(expected),)):
                raise ValueError(f"{key} ({values[key]!r} where {expected!r} is possible)")
        info = BoostingInfo(**{key: values[key] for key in fields})
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is no boosting-prompt file: metadata {error} is missing or unreadable"
        ) from error
    if announced["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has format {announced['format']}, this version reads format {FORMAT}: update CasPL"
        )
    return tensors, info, announced


def check_fits(path: str | Path, group: PromptGroup, info: BoostingInfo, visual: nn.Module, text: nn.Module) -> None:
    """Refuse a boosting prompt that was made for another backbone.

    Args:
        path: its file, for messages.
        visual: the image encoder it shall enter.
        text: whatever has `transformer`, `ln_final` and `text_projection` (a CLIP, or the family's `TextEncoder`).

    Raises:
        CheckpointError: names what differs.
    """
    if not hasattr(visual, "transformer"):
        raise CheckpointError(
            f"the backbone's image encoder is a {type(visual).__name__}, which has no vision tokens to cascade with: "
            "choose a ViT as MODEL.BACKBONE.NAME"
        )
    sizes = {
        "text width": (info.text_width or group.text.shape[-1], text.ln_final.weight.shape[0]),
        "vision width": (info.vision_width or group.vision.shape[-1], visual.ln_post.weight.shape[0]),
        "text layers": (info.text_layers, len(text.transformer.resblocks)),
        "vision layers": (info.vision_layers, len(visual.transformer.resblocks)),
        "student weights": (info.student_weights, weights_of(visual, text)),
    }
    for what, (theirs, ours) in sizes.items():
        if theirs and theirs != ours:
            raise CheckpointError(
                f"boosting prompt {path} does not fit this backbone: {what} {theirs} (student {info.student or 'unknown'}), "
                f"but the backbone has {ours}: use the backbone that it was trained for, or train one for this backbone"
            )
    for tower, depth, layers in (
        ("text", group.text.shape[0], sizes["text layers"][1]),
        ("vision", group.vision.shape[0], sizes["vision layers"][1]),
    ):
        if depth > layers:
            raise CheckpointError(
                f"boosting prompt {path} has {tower} depth {depth}, but the backbone has {layers} blocks"
            )


def check_towers(path: str | Path, group: PromptGroup, info: BoostingInfo, built) -> None:
    """Raise unless a boosting prompt was made for the towers that it has entered (see `plugin.building.Built`).

    Raises:
        CheckpointError: names what differs.
    """
    for hooks in built.injection.hooks:
        tower = hooks.tower
        sizes = {
            "width": (getattr(info, f"{tower.kind}_width"), tower.width),
            "layers": (getattr(info, f"{tower.kind}_layers"), len(tower.blocks)),
        }
        for what, (theirs, ours) in sizes.items():
            if theirs and theirs != ours:
                raise CheckpointError(
                    f"{path}: {tower.kind} {what} {theirs}; expected {ours}, as {tower.path} has. {_OTHER}"
                )
        weights = [fingerprint(*clip.projections) for clip in built.origin(tower) if clip.projections]
        if info.student_weights and weights and info.student_weights not in weights:
            raise CheckpointError(
                f"{path}: student weights {info.student_weights} (student {info.student or 'unknown'}); expected {weights[0]}, "
                f"as {tower.path} has. {_OTHER}"
            )


_OTHER = "Use the backbone that the prompt was trained for, or train one for this backbone"


def weights_of(visual: nn.Module, text: nn.Module) -> str:
    """The `fingerprint` of a backbone: the one that was taken when it was loaded, else of its weights as they are."""
    return getattr(text, "fingerprint", None) or fingerprint(visual.proj, text.text_projection)


def import_published(path: str | Path, **known) -> tuple[PromptGroup, BoostingInfo]:
    """Read the boosting prompt out of a checkpoint of the published code; nothing pickled in it is executed.

    Args:
        path: `model.pth.tar-<epoch>`, or the folder that its `checkpoint` file stands in (or the one above).
        known: fields of `BoostingInfo` that the file does not tell.

    Raises:
        FileNotFoundError, RestrictedReadError, CheckpointError: it is not there, unreadable, or has no such prompt.
    """
    path = _published_file(Path(path))
    content = read_checkpoint(path)
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or _TEXT not in state or _VISION not in state:
        raise CheckpointError(
            f"{path} has no published boosting prompt: expected {_TEXT} and {_VISION} in its state_dict"
        )
    text = [state[_TEXT], *_deep(state, _DEEP_TEXT)]
    vision = [state[_VISION], *_deep(state, _DEEP_VISION)]
    for name, layers in (("text", text), ("vision", vision)):
        _check_layers(path, name, layers)
    group = PromptGroup(torch.stack(text).float().clone(), torch.stack(vision).float().clone()).freeze()
    return group, dataclasses.replace(_info_from_state(state, content.get("epoch"), str(text[0].dtype)), **known)


def _check_layers(path: Path, tower: str, layers: list) -> None:
    """Refuse published prompts that are not finite (n, d) tensors of one shape."""
    for number, layer in enumerate(layers):
        if not isinstance(layer, Tensor) or layer.dim() != 2 or not layer.numel() or not layer.is_floating_point():
            found = f"a {layer.dtype} of shape {tuple(layer.shape)}" if isinstance(layer, Tensor) else repr(layer)[:40]
            raise CheckpointError(
                f"{path}: {tower} layer {number} is {found}, expected floats (tokens, width): {_REDO}"
            )
        if layer.shape != layers[0].shape:
            raise CheckpointError(f"{path}: the {tower} layers differ in shape: {[tuple(t.shape) for t in layers]}")
        if not torch.isfinite(layer.float()).all():
            raise CheckpointError(f"{path}: {tower} layer {number} has values that are not finite: {_REDO}")


def _published_file(path: Path) -> Path:
    for folder in (path, path / "CasPL"):
        pointer = folder / "checkpoint"
        if pointer.is_file():
            return folder / pointer.read_text(errors="replace").strip().replace("\0", "?")
    return path


def _deep(state: dict, pattern: str) -> list[Tensor]:
    layers = []
    while pattern.format(len(layers) + 1) in state:
        layers.append(state[pattern.format(len(layers) + 1)])
    return layers


def _info_from_state(state: dict, epochs, dtype: str) -> BoostingInfo:
    """What a published checkpoint tells, which carries the whole student around its prompts."""
    info = BoostingInfo(
        epochs=epochs if isinstance(epochs, int) else 0,
        dtype=dtype.removeprefix("torch."),
        text_width=state[_TEXT].shape[-1],
        vision_width=state[_VISION].shape[-1],
    )
    visual, text = state.get("image_encoder.proj"), state.get("text_encoder.text_projection")
    if isinstance(visual, Tensor) and isinstance(text, Tensor):
        info.student_weights = fingerprint(visual, text)
    for tower, encoder in (("vision", "image_encoder"), ("text", "text_encoder")):
        setattr(
            info,
            f"{tower}_layers",
            sum(f"{encoder}.transformer.resblocks.{i}.ln_1.weight" in state for i in range(99)),
        )
    return info


def export_published(folder: str | Path, group: PromptGroup, info: BoostingInfo) -> Path:
    """Write a boosting prompt in the published layout: `<folder>/CasPL/model.pth.tar-<epoch>` and `checkpoint`.

    The published code loads it with `strict=False`, so the student's own weights need not be in it.

    Returns:
        the checkpoint's path.

    Raises:
        CheckpointError: a depth of 0, which that layout cannot say.
    """
    if not len(group.text) or not len(group.vision):
        raise CheckpointError(
            "the published layout has prompts of depth 1 or more in both towers; this one has depth 0"
        )
    state = {_TEXT: group.text[0], _VISION: group.vision[0]}
    state |= {_DEEP_TEXT.format(i): tokens for i, tokens in enumerate(group.text) if i}
    state |= {_DEEP_VISION.format(i): tokens for i, tokens in enumerate(group.vision) if i}
    state = {key: value.detach().clone() for key, value in state.items()}
    content = {
        "state_dict": state,
        "epoch": info.epochs,
        "optimizer": None,
        "scheduler": None,
        "val_result": None,
    }
    path = Path(folder) / "CasPL" / f"model.pth.tar-{info.epochs}"
    with replacing(path) as aside:
        torch.save(content, aside)
    with replacing(path.parent / "checkpoint") as aside:
        aside.write_text(path.name + "\n")
    return path
