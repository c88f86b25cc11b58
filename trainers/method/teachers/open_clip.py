"""A CLIP of open_clip (github.com/mlfoundations/open_clip) as the teacher: its own tokenizer, images and scale."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...backbones import BackboneError, check_finite, read_state_dict
from ...backbones.open_clip import PREFIX, package, split_name, weights_of
from ...config import ConfigError
from ...engine.blocks import at_least_float32
from ...engine.precision import Precision
from ...engine.tokens import plain_name
from ..templates import expand
from ..zero_shot import mean_per_class
from .base import KEY, Teacher

logger = logging.getLogger(__name__)

TEXTS_AT_A_TIME = 64


class OpenClipTeacher(Teacher, prefix=PREFIX):
    """Any CLIP of open_clip.

    A sigmoid model's bias is left out: the softmax over the classes does not depend on it.

    Args:
        name: "open_clip:<architecture>/<tag or file>".
        names: the class names.
        template: a text with {} for the class name, or a JSON file of texts.
        precision: dtypes of its weights.

    Raises:
        ConfigError: a text is too long, or the model's images are not square.
        BackboneError: open_clip is not installed, does not know the architecture or the tag, or the weights cannot be
            loaded or do not belong to the architecture.
    """

    model: Any  # of open_clip
    tokens: Tensor

    def __init__(self, name: str, names: Sequence[str], template: str, precision: Precision):
        super().__init__()
        self.model, encode, path = load_open_clip(name, precision.weights)
        self.paths = (path,)
        names, template, self.counts = expand(template, names)
        texts = [template.replace("{}", plain_name(each)) for each in names]
        check_length(name, encode, texts)
        # a buffer moves to the device with the weights; not persistent, since the fingerprint is of the weights alone
        self.register_buffer("tokens", encode(texts), persistent=False)
        preprocessing = self.model.visual.preprocess_cfg
        self.size = _square(name, preprocessing["size"])
        self.statistics = tuple(preprocessing["mean"]), tuple(preprocessing["std"])
        self.interpolation = "bilinear" if preprocessing["interpolation"] == "bilinear" else "bicubic"
        self.dtype = precision.weights

    @classmethod
    def files(cls, name: str) -> tuple[Path, ...]:
        return (weights_of(name),)

    def image_features(self, image: Tensor) -> Tensor:
        return F.normalize(at_least_float32(self.model.encode_image(image.to(self.dtype))), dim=-1)

    def _class_features(self) -> Tensor:
        parts = [self.model.encode_text(tokens) for tokens in self.tokens.split(TEXTS_AT_A_TIME)]
        return mean_per_class(F.normalize(at_least_float32(torch.cat(parts)), dim=-1), self.counts)

    def scale(self) -> Tensor:
        return self.model.logit_scale.float().exp()


def _square(name: str, size: int | Sequence[int]) -> int:
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise ConfigError(
            f"{KEY}: {name!r} takes images of {height} x {width}; expected square ones. Use another model"
        )
    return height


def load_open_clip(name: str, dtype: torch.dtype) -> tuple[Any, Callable, Path]:
    """Load a model of open_clip without executing anything in its file.

    All weights must fit.

    Args:
        name: "open_clip:<architecture>/<tag or file>".
        dtype: of its weights.

    Returns:
        The model, its tokenizer and the file of its weights.

    Raises:
        BackboneError: open_clip is not installed, does not know the architecture or the tag, or the weights cannot be
            loaded or do not belong to the architecture.
    """
    open_clip, path, (architecture, source) = package(name), weights_of(name), split_name(name)
    precision = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype]
    with torch.random.fork_rng(devices=[]):  # the initial weights are discarded; the run's seed must not notice
        model = open_clip.create_model(
            architecture, source, load_weights=False, precision=precision, pretrained_image=False, pretrained_text=False
        )
    _fill(model, path)
    logger.info("Loaded open_clip %s from %s: %s px", architecture, path, model.visual.preprocess_cfg["size"])
    return model, open_clip.get_tokenizer(architecture), path


def check_length(name: str, encode: Callable, texts: Sequence[str]) -> None:
    """Check that the teacher's tokenizer truncates no text.

    With room for one more token, the last position of a text that fits is the same as that of an empty text.

    Raises:
        ConfigError: a text is too long.
    """
    longest = encode.context_length  # type: ignore[attr-defined]
    *last, empty = encode([*texts, ""], context_length=longest + 1)[:, longest].tolist()
    for text, token in zip(texts, last, strict=True):
        if token != empty:
            raise ConfigError(
                f"TRAINER.CASPL.TEACHER.TEMPLATE: the text {text!r} has more than the {longest} tokens of {name}; "
                "shorten the class name or the template"
            )


def _fill(model: Any, path: Path) -> None:
    """Load a file of weights in open_clip's layout, also one that training with DataParallel has written.

    Raises:
        BackboneError: it cannot be read, has other tensors than the model, or values that are not finite.
    """
    state = {key.removeprefix("module."): value for key, value in read_state_dict(str(path)).items()}
    state.pop("text.transformer.embeddings.position_ids", None)  # older versions of transformers saved it
    if "logit_scale" in state and state["logit_scale"].numel() == 1:
        state["logit_scale"] = state["logit_scale"].reshape(model.logit_scale.shape)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise BackboneError(f"{path} does not hold the weights of its open_clip architecture: {error}") from error
    check_finite({key: value for key, value in model.state_dict().items() if not key.endswith("attn_mask")}, str(path))
