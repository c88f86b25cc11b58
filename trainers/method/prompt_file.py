"""Boosting-prompt files: safetensors with metadata and a checksum. The same prompt and metadata give the same bytes."""

import dataclasses
import hashlib
import json
import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ..backbones import fingerprint, projections
from ..engine import ORDERS, PromptGroup, clip_sizes
from ..engine.blocks import StockModule
from ..storage import hub
from ..storage.atomic import replacing
from ..storage.checksums import checksum
from ..training import provenance
from ..version import __version__

logger = logging.getLogger(__name__)

FORMAT = 1
FILE_NAME = "boosting.safetensors"  # in a run's folder
TOWERS = ("text", "vision")
REDO = "The file is damaged or was not written by this package; train or convert it again"

_FIRST_VERSION = "0.1.0"  # wrote files without a checksum


class CheckpointError(ValueError):
    """A boosting-prompt file that cannot be used, or not with this model."""


@dataclass
class BoostingInfo:
    """Metadata of a boosting-prompt file. An empty string or 0 means "unknown".

    A field added here is written to new files and has its default for older ones; the value is set in `CasPL.info`.

    Attributes:
        student: name of the backbone; student_weights: its `fingerprint`; student_function: what its weights do not
            determine (activations, head widths, vocabulary, images).
        teacher: name of the teacher; teacher_weights: the SHA-256 of its weights.
        text_width, vision_width, text_layers, vision_layers: the student's sizes (channels, blocks).
        order, temperature, template, host_words: settings of phase 1.
        dataset, class_names, classes: the training data; `classes` is "all" or "base"; classes_hash: of the names.
        images: number of training images; labels: whether their labels were read.
        added_images: number of unlabelled images from other folders; added_data: their fingerprint.
        epochs, seed, dtype: how it was trained, and the dtype of the prompts during training.
        data: fingerprint of the training data.
        identity: digest of what determines the prompt: phase 1's settings, data, teacher and student.
        code_version: version of this package.
    """

    student: str = ""
    student_weights: str = ""
    student_function: dict[str, Any] = field(default_factory=dict)
    teacher: str = ""
    teacher_weights: str = ""
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
    added_images: int = 0
    added_data: str = ""
    labels: bool = False
    epochs: int = 0
    seed: int = 0
    dtype: str = ""
    data: str = ""
    identity: str = ""
    code_version: str = __version__

    def __post_init__(self):
        if self.class_names and not self.classes_hash:
            self.classes_hash = names_hash(self.class_names)

    def check(self) -> None:
        """Check that every value is of its field's type and within its range.

        Raises:
            ValueError: a value is not; the message names the field and the value.
        """
        for key, default in vars(BoostingInfo()).items():
            _check_type(key, getattr(self, key), default)
        limits = {
            "order": self.order in ORDERS,
            "temperature": math.isfinite(self.temperature) and self.temperature > 0,
            "class_names": all(isinstance(name, str) for name in self.class_names),
            "classes": self.classes in ("", "all", "base", "new"),
        }
        counts = ("text_width", "vision_width", "text_layers", "vision_layers", "images", "added_images", "epochs")
        limits |= {key: getattr(self, key) >= 0 for key in counts}
        if self.class_names and limits["class_names"]:
            limits["classes_hash"] = self.classes_hash == names_hash(self.class_names)
        for key, valid in limits.items():
            if not valid:
                raise ValueError(f"{key} is {getattr(self, key)!r}")


def boosting_item(info: BoostingInfo) -> dict:
    """Return phase 1's entry of a run's provenance, as its prompt file records it."""
    seen = provenance.item("boosting", info.dataset, info.images, info.labels, info.classes, info.class_names)
    return seen | ({"added_images": info.added_images} if info.added_images else {})


def names_hash(names: list[str]) -> str:
    """Return the SHA-256 of the class names, in their order."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def save_boosting(path: str | Path, group: PromptGroup, info: BoostingInfo) -> None:
    """Write a boosting prompt atomically.

    The same prompt and metadata give the same bytes.

    Args:
        path: the file; its folder is created if it is missing.
        group: the prompt.
        info: its metadata.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    tensors = {name: p.detach().float().cpu().contiguous() for name, p in group.named_parameters()}
    values = {**dataclasses.asdict(info), "format": FORMAT}
    for tower in TOWERS:
        values |= {f"{tower}_depth": tensors[tower].shape[0], f"{tower}_tokens": tensors[tower].shape[1]}
    metadata = {key: json.dumps(value) for key, value in values.items()}
    metadata["checksum"] = json.dumps(checksum(tensors, metadata))
    with replacing(path) as aside:
        aside.write_bytes(_safetensors(tensors, metadata))


def _safetensors(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """Encode float32 tensors in the safetensors format with a sorted header (the library's order of keys varies)."""
    header: dict[str, Any] = {"__metadata__": metadata}
    data = b""
    for name, tensor in sorted(tensors.items()):
        values = tensor.numpy().astype("<f4").tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [len(data), len(data) + len(values)],
        }
        data += values
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text = text.ljust(-len(text) % 8 + len(text))  # the values start at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + data


def find_boosting(where: str | Path) -> Path:
    """Return the boosting-prompt file that `TRAINER.CASPL.CHECKPOINT` denotes.

    Args:
        where: a file, the folder of the run that wrote it, or "hf-hub:<user>/<name>[@<revision>]", which is downloaded and
            verified unless it is cached.

    Raises:
        CheckpointError: the value is empty, or the file does not exist.
        HubError: the repository cannot be downloaded and is not cached, or a file in it is damaged.
    """
    if not str(where):
        raise CheckpointError(
            "TRAINER.CASPL.CHECKPOINT: empty; expected the boosting-prompt file that phase 1 wrote "
            f"(<run>/{FILE_NAME}), or its run's folder"
        )
    path = hub.download(str(where)) if str(where).startswith(hub.HUB) else Path(where).expanduser()
    if path.is_dir() and (path / FILE_NAME).is_file():
        return path / FILE_NAME
    if path.is_file():
        return path
    found = f"a folder without {FILE_NAME}" if path.is_dir() else "no such file or folder"
    published = list(path.glob("**/model*.pth.tar*"))[:1] if path.is_dir() else []
    hint = (
        f"Import the published checkpoint first: caspl convert import {published[0]} FILE"
        if published
        else "Train one (trainer CasPL), or give the path of one"
    )
    raise CheckpointError(f"TRAINER.CASPL.CHECKPOINT: {path}: {found}. {hint}")


def read_info(path: str | Path) -> BoostingInfo:
    """Return the metadata of a boosting-prompt file.

    Raises:
        CheckpointError: it is not a boosting-prompt file, damaged, or of a newer format.
    """
    return _read(Path(path))[1]


def same_prompt(one: str | Path, other: str | Path) -> bool:
    """Return whether two files hold the prompt of the same phase 1.

    That is, prompts of one identity, or else of equal values.

    The identity does not depend on the values, so retraining leaves runs valid that used the prompt. Files of version
    0.1.0 have no identity.

    Raises:
        CheckpointError: one is not a boosting-prompt file, damaged, or of a newer format.
    """
    (ours, our_info), (theirs, their_info) = (_read(Path(path)) for path in (one, other))
    if our_info.identity and their_info.identity:
        return our_info.identity == their_info.identity
    return all(torch.equal(ours[tower].float(), theirs[tower].float()) for tower in TOWERS)


def load_boosting(path: str | Path) -> tuple[PromptGroup, BoostingInfo]:
    """Load a boosting prompt, frozen and in eval mode, on the CPU in float32.

    Files that version 0.1.0 wrote have no checksum and are accepted with a warning.

    Raises:
        CheckpointError: the file is not a boosting-prompt file, damaged, or of a newer format.
    """
    path = Path(path)
    tensors, info = _read(path)
    if not any(tensor.numel() for tensor in tensors.values()):
        raise CheckpointError(f"{path}: no tokens in it, nothing would be loaded. {REDO}")
    return PromptGroup(tensors["text"].float(), tensors["vision"].float()).freeze(), info


def _read(path: Path) -> tuple[dict[str, Tensor], BoostingInfo]:
    if not path.is_file():
        raise CheckpointError(f"no boosting-prompt file at {path}")
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}
    except Exception as error:  # a damaged file can raise any exception
        hint = " (a published .pth.tar must be imported first: caspl convert import)"
        raise CheckpointError(f"{path} is not a safetensors file{hint}: {error}") from error
    try:
        values = {key: json.loads(value) for key, value in metadata.items()}
        announced = {key: values[key] for key in ("format", *(f"{t}_{what}" for t in TOWERS for what in _SIZES))}
        for key, value in announced.items():
            _check_type(key, value, 0)
        if announced["format"] != FORMAT:
            raise CheckpointError(
                f"{path} has format {announced['format']}, this version reads format {FORMAT}. Update CasPL"
            )
        known = {f.name for f in dataclasses.fields(BoostingInfo)}
        info = BoostingInfo(**{key: value for key, value in values.items() if key in known})
        info.check()
    except CheckpointError:
        raise
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a boosting-prompt file: invalid metadata, {error}. {REDO}") from error
    _check_checksum(path, tensors, metadata, values)
    _check_tensors(path, tensors, info, announced)
    return tensors, info


_SIZES = ("depth", "tokens")


def _check_type(key: str, value: Any, like: Any) -> None:
    allowed = (int, float) if isinstance(like, float) else (type(like),)
    if type(value) not in allowed:
        raise ValueError(f"{key} is {value!r}")


def _check_checksum(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str], values: dict) -> None:
    """Compare the checksum; a file of version 0.1.0 has none, which is logged."""
    if "checksum" in values:
        if values["checksum"] != checksum(tensors, metadata):
            raise CheckpointError(f"{path}: values or metadata were changed after it was written. {REDO}")
    elif values.get("code_version") == _FIRST_VERSION:
        logger.warning("%s has no checksum (written by version %s): damage goes unnoticed", path, _FIRST_VERSION)
    else:
        raise CheckpointError(f"{path}: no checksum. {REDO}")


def _check_tensors(path: Path, tensors: dict[str, Tensor], info: BoostingInfo, announced: dict[str, int]) -> None:
    if set(tensors) != set(TOWERS):
        raise CheckpointError(f"{path}: tensors {sorted(tensors)}; expected 'text' and 'vision'. {REDO}")
    for tower, tensor in tensors.items():
        expected = (announced[f"{tower}_depth"], announced[f"{tower}_tokens"], getattr(info, f"{tower}_width"))
        found = tuple(tensor.shape)
        if len(found) != 3 or found != (*expected[:2], expected[2] or found[2]):
            raise CheckpointError(
                f"{path}: tensor '{tower}' has shape {found}; its metadata announce {expected}. {REDO}"
            )
        if not tensor.is_floating_point() or not torch.isfinite(tensor.float()).all():
            raise CheckpointError(
                f"{path}: tensor '{tower}' ({tensor.dtype}) has values that are not finite numbers. {REDO}"
            )


def check_fits(
    path: str | Path, group: PromptGroup, info: BoostingInfo, visual: StockModule, text: StockModule
) -> None:
    """Check that a boosting prompt was trained for a backbone.

    Args:
        path: its file, for messages.
        group: the prompt.
        info: its metadata.
        visual: the image encoder.
        text: the CLIP, with or without its text tower.

    Raises:
        CheckpointError: a size, the weights or a depth does not fit; the message names it.
    """
    if not hasattr(visual, "transformer") and group.vision.numel():
        raise CheckpointError(
            f"MODEL.BACKBONE.NAME: its image encoder is a {type(visual).__name__}, which has no tokens; expected a ViT"
        )
    of_clip = clip_sizes(text)
    text_layers, vision_layers = of_clip.text_layers, of_clip.vision_layers
    sizes = {"text width": (info.text_width or group.text.shape[-1], of_clip.text_width)}
    sizes["text layers"] = info.text_layers, text_layers
    if hasattr(visual, "transformer"):
        sizes["vision width"] = info.vision_width or group.vision.shape[-1], of_clip.vision_width
        sizes["vision layers"] = info.vision_layers, vision_layers
    for what, (theirs, ours) in {**sizes, "student weights": (info.student_weights, weights_of(visual, text))}.items():
        if theirs and theirs != ours:
            raise CheckpointError(
                f"boosting prompt {path} does not fit this backbone: {what} {theirs} (student {info.student or 'unknown'}); "
                f"the backbone has {ours}. Use the backbone that it was trained for, or train one for this backbone"
            )
    ours = getattr(text, "described", {})
    for what in ("text", "vision", "vocabulary", "special_tokens"):
        their, our = info.student_function.get(what), ours.get(what)
        if their and our and their != our:
            raise CheckpointError(
                f"boosting prompt {path} does not fit this backbone: {what} {their} (student {info.student or 'unknown'}); the "
                f"backbone has {our}. Use the backbone that it was trained for, or train one for this backbone"
            )
    for tower, depth, layers in (("text", len(group.text), text_layers), ("vision", len(group.vision), vision_layers)):
        if depth > layers:
            raise CheckpointError(f"boosting prompt {path}: {tower} depth {depth}; the backbone has {layers} blocks")


def check_towers(path: str | Path, group: PromptGroup, info: BoostingInfo, built: Any) -> None:
    """Check that a boosting prompt was trained for the towers of another toolbox's model.

    Args:
        path: its file, for messages.
        group: the prompt.
        info: its metadata.
        built: the towers that it has entered, a `plugin.building.Built`.

    Raises:
        CheckpointError: a size or the weights differ; the message names it.
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


def weights_of(visual: StockModule, text: StockModule) -> str:
    """Return a backbone's `fingerprint`.

    It is the one computed when it was loaded, else that of its current weights.
    """
    known = getattr(text, "fingerprint", "")
    return known if known or not hasattr(text, "text_projection") else fingerprint(*projections(visual, text))
