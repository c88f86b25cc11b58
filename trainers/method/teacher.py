"""Phase 1's teacher: a stock CLIP on the engine, or any CLIP of `open_clip`, behind one small interface."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..backbones import BackboneError, image_size, load_clip, read_state_dict, tokenizer
from ..config import ConfigError, nearest
from ..engine import Learner, PromptedCLIP, worded_texts
from ..engine.blocks import at_least_float32
from ..engine.precision import Precision, cast_clip
from ..engine.tokens import plain_name

logger = logging.getLogger(__name__)

OPEN_CLIP = "open_clip:"  # such a backbone is "open_clip:<architecture>/<tag or file>"
KEY = "TRAINER.CASPL.TEACHER.BACKBONE"


class Teacher(nn.Module):
    """A frozen CLIP that gives logits of images for a fixed list of classes.

    A subclass implements `image_features` and `_class_features`.

    Attributes:
        size: the pixels of its square images.
        statistics: mean and standard deviation of its images' channels; None: it takes those of the student's.
        interpolation: how images of another size become its own, "bicubic" or "bilinear".
    """

    size: int
    statistics: tuple[Sequence[float], Sequence[float]] | None = None
    interpolation = "bicubic"

    def __init__(self):
        super().__init__()
        self._classes: Tensor | None = None

    def image_features(self, image: Tensor) -> Tensor:
        """(B, E), normalised, in float32 at least, of images (B, 3, size, size)."""
        raise NotImplementedError

    def _class_features(self) -> Tensor:
        raise NotImplementedError

    def scale(self) -> Tensor:
        """What cosines are multiplied by to be logits."""
        raise NotImplementedError

    def logits(self, features: Tensor) -> Tensor:
        """(B, C) of normalised image features (B, E); the class features (C, E) are computed once."""
        if self._classes is None:
            self._classes = self._class_features()
        return self.scale() * features @ self._classes.t()

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, C) of images (B, 3, size, size)."""
        return self.logits(self.image_features(image))

    def fingerprint(self) -> str:
        """SHA-256 of all weights, as they are computed with."""
        digest = hashlib.sha256()
        for key, weights in sorted(self.state_dict().items()):
            digest.update(f"{key} {weights.dtype} {tuple(weights.shape)} ".encode())
            digest.update(weights.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()


class StockTeacher(Teacher):
    """A stock CLIP (see `engine.load_clip`) with a template around the class names."""

    def __init__(self, name: str, names: Sequence[str], template: str, precision: Precision):
        super().__init__()
        clip_model = load_clip(name)
        self.size = image_size(clip_model)
        self.model = PromptedCLIP(clip_model, Learner(), worded_texts(tokenizer().encode, names, template))
        cast_clip(clip_model, precision.weights)

    def image_features(self, image: Tensor) -> Tensor:
        """See `Teacher`."""
        return self.model.image_features(image)

    def _class_features(self) -> Tensor:
        return self.model.class_features()

    def scale(self) -> Tensor:
        """See `Teacher`."""
        return self.model.clip.logit_scale.exp()


class OpenClipTeacher(Teacher):
    """A CLIP of `open_clip` (github.com/mlfoundations/open_clip) with its own tokenizer, preprocessing and scale.

    A sigmoid model's bias is left out: it is the same for all classes, so the softmax over them does not see it.

    Raises:
        ConfigError: `open_clip` is not installed, or does not know the architecture or the tag.
        BackboneError: the weights cannot be had, or are not the architecture's.
    """

    def __init__(self, name: str, names: Sequence[str], template: str, precision: Precision):
        super().__init__()
        self.model, encode = load_open_clip(name, precision.weights)
        # A buffer, so that it moves to the device along with the weights; the fingerprint need not know the classes.
        texts = [template.replace("{}", plain_name(each)) for each in names]
        check_length(name, encode, texts)
        self.register_buffer("tokens", encode(texts), persistent=False)
        preprocessing = self.model.visual.preprocess_cfg
        size = preprocessing["size"]
        height, width = (size, size) if isinstance(size, int) else size
        if height != width:
            raise ConfigError(
                f"{KEY} is {name!r}, whose images are {height} x {width}, expected square ones: take another"
            )
        self.size = height
        self.statistics = tuple(preprocessing["mean"]), tuple(preprocessing["std"])
        self.interpolation = "bilinear" if preprocessing["interpolation"] == "bilinear" else "bicubic"
        self.dtype = precision.weights

    def image_features(self, image: Tensor) -> Tensor:
        """See `Teacher`."""
        return F.normalize(at_least_float32(self.model.encode_image(image.to(self.dtype))), dim=-1)

    def _class_features(self) -> Tensor:
        parts = [self.model.encode_text(tokens) for tokens in self.tokens.split(64)]
        return F.normalize(at_least_float32(torch.cat(parts)), dim=-1)

    def scale(self) -> Tensor:
        """See `Teacher`."""
        return self.model.logit_scale.float().exp()


def load_teacher(name: str, names: Sequence[str], template: str, precision: Precision) -> Teacher:
    """The teacher of a value of `TRAINER.CASPL.TEACHER.BACKBONE`, frozen and in eval mode, on the CPU.

    Args:
        name: what `engine.load_clip` takes, or "open_clip:<architecture>/<tag or file>".
        names: the class names; template: the words around them, {} for the name.

    Raises:
        ConfigError, BackboneError: it cannot be had.
    """
    if "{}" not in template:
        raise ConfigError(
            f"TRAINER.CASPL.TEACHER.TEMPLATE is {template!r}, without {{}} for the class name: write 'a photo of a {{}}.'"
        )
    kind = OpenClipTeacher if name.startswith(OPEN_CLIP) else StockTeacher
    return kind(name, names, template, precision).requires_grad_(False).eval()


def load_open_clip(name: str, dtype: torch.dtype):
    """The model behind "open_clip:<architecture>/<tag or file>", and its tokenizer.

    The weights are read here, never by unpickling what may be code, and all of them must fit.
    """
    architecture, slash, source = name.removeprefix(OPEN_CLIP).partition("/")
    if not slash or not source:
        raise ConfigError(f"{KEY} is {name!r}, expected 'open_clip:<architecture>/<tag or file>'")
    try:
        import open_clip
    except ImportError as error:
        raise ConfigError(
            f"{KEY} is {name!r}, but open_clip cannot be imported ({error}): pip install open_clip_torch"
        ) from error
    if architecture not in open_clip.list_models():
        raise ConfigError(
            f"{KEY}: open_clip has no architecture {architecture!r}: {nearest(architecture, open_clip.list_models())}"
        )
    path = _weights_of(open_clip, architecture, source, name)
    precision = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype]
    with torch.random.fork_rng(devices=[]):  # the weights it draws are thrown away; nobody's seed shall notice
        model = open_clip.create_model(
            architecture, source, load_weights=False, precision=precision, pretrained_image=False, pretrained_text=False
        )
    _fill(model, path)
    logger.info("Loaded open_clip %s from %s: %s px", architecture, path, model.visual.preprocess_cfg["size"])
    return model, open_clip.get_tokenizer(architecture)


def check_length(name: str, encode, texts: Sequence[str]) -> None:
    """Refuse texts that the teacher's tokenizer would cut: with one more place, the cut ones would fill it.

    Raises:
        ConfigError: there is one.
    """
    longest = encode.context_length
    *last, empty = encode([*texts, ""], context_length=longest + 1)[:, longest].tolist()
    for text, token in zip(texts, last, strict=True):
        if token != empty:
            raise ConfigError(
                f"the text {text!r} has more than the {longest} tokens that {name} takes: shorten the class name, or "
                "TRAINER.CASPL.TEACHER.TEMPLATE"
            )


def _weights_of(open_clip, architecture: str, source: str, name: str) -> Path:
    """The file behind a tag (downloaded by open_clip, once) or a path."""
    settings = open_clip.get_pretrained_cfg(architecture, source)
    if not settings:
        if not Path(source).is_file():
            tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none"
            raise ConfigError(
                f"{KEY} is {name!r}, but {source!r} is neither a file nor a tag of {architecture}, which are: {tags}"
            )
        return Path(source)
    try:
        return Path(open_clip.download_pretrained(settings))
    except Exception as error:  # the hub's client has many kinds
        raise BackboneError(
            f"backbone {name!r} could not be downloaded ({type(error).__name__}: {error}): give the path of its file "
            f"instead, {OPEN_CLIP}{architecture}/<file>"
        ) from error


def _fill(model: nn.Module, path: Path) -> None:
    """Load a file of weights in open_clip's layout; a training checkpoint's wrapping is taken off.

    Raises:
        BackboneError: it cannot be read, or has other tensors than the model, or values that are not finite.
    """
    state = _read(path)
    state = {key.removeprefix("module."): value for key, value in state.items()}
    state.pop("text.transformer.embeddings.position_ids", None)  # older versions of transformers saved it
    if "logit_scale" in state and state["logit_scale"].numel() == 1:
        state["logit_scale"] = state["logit_scale"].reshape(model.logit_scale.shape)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise BackboneError(f"{path} does not hold the weights of its open_clip architecture: {error}") from error
    for key, weights in model.state_dict().items():
        if not torch.isfinite(weights).all() and not key.endswith("attn_mask"):
            raise BackboneError(f"{path}: {key} has values that are not finite numbers: copy the file again")


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".safetensors":
        return read_state_dict(str(path))
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise BackboneError(f"backbone file {path} cannot be read as safetensors ({error}): copy it again") from error


class View(nn.Module):
    """The student's batch as the teacher sees it: its size, its mean and deviation; untouched where both are the same.

    Args:
        teacher: the teacher.
        size: pixels of the student's square images; mean, std: what they were normalised with (0 and 1: they were not).
    """

    def __init__(self, teacher: Teacher, size: int, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.size, self.interpolation = teacher.size, teacher.interpolation
        theirs = teacher.statistics or (mean, std)
        same = torch.allclose(torch.tensor([*theirs[0], *theirs[1]]), torch.tensor([*mean, *std]), atol=1e-6)
        self.untouched = same and size == teacher.size
        for name, values in (("mean", mean), ("std", std), ("their_mean", theirs[0]), ("their_std", theirs[1])):
            self.register_buffer(name, torch.tensor(values).float().reshape(1, 3, 1, 1), persistent=False)

    def settings(self) -> dict:
        """What it does, in numbers and words."""
        return {"size": self.size, "interpolation": self.interpolation} | {
            name: values.flatten().tolist() for name, values in self.named_buffers()
        }

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, R, R) to (B, 3, size, size)."""
        if self.untouched:
            return image
        image = image.float() * self.std + self.mean
        if image.shape[-1] != self.size:
            image = F.interpolate(image, (self.size, self.size), mode=self.interpolation, antialias=True)
            image = image.clamp(0, 1)  # a bicubic kernel overshoots
        return (image - self.their_mean) / self.their_std
