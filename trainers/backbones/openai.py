"""Stock CLIP models from OpenAI's names, from checkpoint files, or from the two small models that come with this package.

The model classes and the tokenizer are those of whichever `clip` package is importable, OpenAI's own or one of the
family's forks; what is built is always the stock model.
"""

import functools
import hashlib
import importlib
import inspect
import logging
import urllib.error
import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from ..engine.blocks import StockModule

logger = logging.getLogger(__name__)

WEIGHTS = Path(__file__).resolve().parent / "weights"
BUILT_IN = ("shapes-student", "shapes-teacher")

# Constants that OpenAI's archives carry along.
_NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")
# OpenAI's models that the CoOp family's forks of `clip` are too old to know, the default teacher among them.
_NEWER = {
    "ViT-L/14": "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836/ViT-L-14.pt",
    "ViT-L/14@336px": "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02/ViT-L-14-336px.pt",
}
# What MaPLe's and PromptSRC's forks of `clip` want to hear for the stock blocks.
_STOCK_DESIGN = {
    "trainer": "CoOp",
    "vision_depth": 0,
    "language_depth": 0,
    "vision_ctx": 0,
    "language_ctx": 0,
}


class BackboneError(ValueError):
    """A backbone that cannot be had: an unknown name, or a file that is no CLIP."""


def load_clip(name: str) -> StockModule:
    """A frozen stock CLIP in float32 and eval mode, on the CPU.

    Args:
        name: a name of OpenAI's ("ViT-B/16"; downloaded by the `clip` package into ~/.cache/clip), a path to an
            OpenAI-layout checkpoint (TorchScript archive or state dict), or "shapes-student" or "shapes-teacher".

    Returns:
        `clip.model.CLIP`; a ViT's `fingerprint` is an attribute of it.

    Raises:
        BackboneError: see there.
    """
    state = read_state_dict(name)
    try:
        model = build_clip(state)
    except BackboneError:
        raise
    except Exception as error:  # sizes are read off the tensors, so wrong ones fail in every imaginable way
        raise BackboneError(
            f"backbone {name!r} is no CLIP in OpenAI's layout ({type(error).__name__}: {error}): expected a state dict "
            "with the keys of clip.model.CLIP (visual.*, transformer.*, token_embedding.weight, ...)"
        ) from error
    for key, weights in model.state_dict().items():
        if not torch.isfinite(weights).all():
            raise BackboneError(f"backbone {name!r}: {key} has values that are not finite numbers: copy the file again")
    if hasattr(model.visual, "proj"):
        model.fingerprint = fingerprint(model.visual.proj, model.text_projection)  # before anybody casts the weights
    logger.info("Loaded CLIP %s: %s", name, describe(model))
    return model


def read_state_dict(name: str) -> dict[str, Tensor]:
    """The weights behind a backbone's name (see `load_clip`), as they are stored."""
    path = _find(name)
    try:
        if _is_torchscript(path):
            return torch.jit.load(path, map_location="cpu").state_dict()
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files fail in every imaginable way
        raise BackboneError(
            f"backbone file {path} cannot be read as a CLIP checkpoint ({type(error).__name__}: {error}): copy it again"
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise BackboneError(f"backbone file {path} holds a {type(state).__name__}, expected a state dict of tensors")
    return state


def build_clip(state: dict[str, Tensor]) -> StockModule:
    """A frozen stock `clip.model.CLIP` in float32 with these weights, its sizes read off them.

    OpenAI's own `build_model` rounds everything to float16 first; this does not.

    Raises:
        KeyError, RuntimeError: keys are missing, too many, or of other shapes.
    """
    CLIP = _clip("model").CLIP
    state = {key: value for key, value in state.items() if key not in _NOT_WEIGHTS}
    sizes = _vision_sizes(state) | {
        "embed_dim": state["text_projection"].shape[1],
        "context_length": state["positional_embedding"].shape[0],
        "vocab_size": state["token_embedding.weight"].shape[0],
        "transformer_width": state["ln_final.weight"].shape[0],
        "transformer_heads": max(1, state["ln_final.weight"].shape[0] // 64),
        "transformer_layers": _count(state, "transformer.resblocks."),
    }
    if "design_details" in inspect.signature(CLIP.__init__).parameters:
        sizes["design_details"] = _STOCK_DESIGN
    with torch.random.fork_rng(devices=[]):  # the weights it draws are thrown away; nobody's seed shall notice
        model = CLIP(**sizes).float()
    more = sorted(state.keys() - model.state_dict().keys())
    if more:  # PyTorch up to 2.3 takes "visual.proj.more" for a part of "visual.proj", and drops it in silence
        raise RuntimeError(f"unexpected tensors: {', '.join(more[:5])}")
    model.load_state_dict({key: value.float() for key, value in state.items()})
    return model.requires_grad_(False).eval()


def _clip(module: str):
    """A module of the importable `clip` package (imported late: a toolbox may put its own fork on the path first)."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="pkg_resources is deprecated")  # openai-clip still imports it
            return importlib.import_module(f"clip.{module}")
    except ModuleNotFoundError as error:
        raise BackboneError(
            f"no module named {error.name!r}: CLIP's own package is needed; pip install openai-clip 'setuptools<81', or run in "
            "a checkout that has a folder clip/"
        ) from error


def _vision_sizes(state: dict[str, Tensor]) -> dict:
    layers: int | tuple[int, ...]
    if "visual.proj" in state:
        width, _, patch, _ = state["visual.conv1.weight"].shape
        grid = round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5)
        layers = _count(state, "visual.transformer.resblocks.")
    else:
        width = state["visual.layer1.0.conv1.weight"].shape[0]
        patch, grid = 32, round((state["visual.attnpool.positional_embedding"].shape[0] - 1) ** 0.5)
        layers = tuple(_count(state, f"visual.layer{stage}.") for stage in (1, 2, 3, 4))
    return {
        "vision_width": width,
        "vision_layers": layers,
        "vision_patch_size": patch if isinstance(layers, int) else None,
        "image_resolution": patch * grid,
    }


def _count(state: dict[str, Tensor], prefix: str) -> int:
    """How many numbered modules stand behind `prefix`."""
    return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})


def _find(name: str) -> Path:
    if name in BUILT_IN:
        return WEIGHTS / f"{name}.pt"
    if Path(name).is_file():
        return Path(name)
    clip = _clip("clip")
    urls = {key: f"{clip._MODELS['ViT-B/16'].rsplit('/', 2)[0]}/{path}" for key, path in _NEWER.items()} | clip._MODELS
    if name not in urls:
        raise BackboneError(
            f"backbone {name!r} is neither a file nor a known name: expected one of {', '.join(urls)}, "
            f"{', '.join(BUILT_IN)}, or the path of a checkpoint"
        )
    try:
        return Path(clip._download(urls[name], str(Path.home() / ".cache" / "clip")))
    except (urllib.error.URLError, OSError, RuntimeError) as error:  # RuntimeError: another checksum
        raise BackboneError(
            f"backbone {name!r} could not be downloaded ({error}): put the file from {urls[name]} into "
            "~/.cache/clip, or give the path of a checkpoint as MODEL.BACKBONE.NAME"
        ) from error


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(member.split("/")[1:2] == ["code"] for member in archive.namelist())


def fingerprint(visual_projection: Tensor, text_projection: Tensor) -> str:
    """SHA-256 of a CLIP's two projections in float16, which is how OpenAI's weights are stored."""
    digest = hashlib.sha256()
    for weights in (visual_projection, text_projection):
        digest.update(weights.detach().to("cpu", torch.float16).contiguous().numpy().tobytes())
    return digest.hexdigest()


def describe(model: StockModule) -> str:
    """A CLIP's sizes in a line, for logs."""
    vision = getattr(model.visual, "transformer", None)
    kind = f"ViT {vision.layers} x {vision.width}" if vision is not None else "ResNet"
    return (
        f"{kind}, {image_size(model)} px; text {model.transformer.layers} x {model.transformer.width}; "
        f"embedding {model.text_projection.shape[1]}"
    )


def image_size(model: StockModule) -> int:
    """The side in pixels of the images that this CLIP takes."""
    return model.visual.input_resolution


@functools.cache
def tokenizer():
    """CLIP's byte-pair tokenizer; `tokenizer().encode(text)` gives token ids without SOS and EOT."""
    return _clip("simple_tokenizer").SimpleTokenizer()
