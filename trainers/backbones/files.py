"""From a backbone's name to its file and the weights in it. Nothing in a file is executed."""

import urllib.error
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..storage.tensors import RestrictedReadError, read_weights
from .errors import BackboneError
from .package import clip_package

WEIGHTS = Path(__file__).resolve().parent / "weights"
BUILT_IN = ("shapes-student", "shapes-student-tokens", "shapes-teacher")
CACHE = "~/.cache/clip"  # of the `clip` package

# OpenAI's models that the CoOp family's forks of `clip` do not list, the default teacher among them.
_NEWER = {
    "ViT-L/14": "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836/ViT-L-14.pt",
    "ViT-L/14@336px": "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02/ViT-L-14-336px.pt",
}


def read_state_dict(name: str) -> dict[str, Tensor]:
    """Read the weights of a backbone in the dtypes of its file.

    Args:
        name: what `load_clip` takes, or the path of any state dict, TorchScript archive or `.safetensors` file.

    Raises:
        BackboneError: the name is unknown, the download failed, or the file cannot be read as weights.
    """
    return read_backbone(name)[0]


def read_backbone(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a backbone's weights in the dtypes of its file, and whatever else the file records.

    Returns:
        The state dict, and the entries next to it (or a safetensors file's metadata).

    Raises:
        BackboneError: the name is unknown, the download failed, or the file cannot be read as weights.
    """
    path = find_weights(name)
    try:
        return _read_safetensors(path) if path.suffix == ".safetensors" else read_weights(path)
    except (RestrictedReadError, SafetensorError, OSError) as error:
        raise BackboneError(f"backbone file {path} cannot be read as a checkpoint ({error})") from error


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(path, framework="pt") as opened:
        state = {key: opened.get_tensor(key) for key in opened.keys()}
        return state, dict(opened.metadata() or {})


def find_weights(name: str) -> Path:
    """Return the file of a backbone's name.

    One of OpenAI's names is downloaded once, by the `clip` package.

    Raises:
        BackboneError: the name is unknown, or the download failed.
    """
    if name in BUILT_IN:
        return WEIGHTS / f"{name}.pt"
    if Path(name).is_file():
        return Path(name)
    clip, urls = clip_package("clip"), _urls()
    if name not in urls:
        raise BackboneError(
            f"backbone (MODEL.BACKBONE.NAME, or a teacher's key) {name!r}: neither a file nor a known name; expected one of "
            f"{', '.join(urls)}, {', '.join(BUILT_IN)}, the path of a checkpoint, open_clip:<architecture>/<tag or file>, or a "
            "Hugging Face folder"
        )
    try:
        return Path(clip._download(urls[name], str(Path(CACHE).expanduser())))
    except (urllib.error.URLError, OSError, RuntimeError) as error:  # RuntimeError: the checksum differs
        raise BackboneError(
            f"backbone {name!r} could not be downloaded ({error}); put the file from {urls[name]} into {CACHE}, or give "
            "the path of a checkpoint as MODEL.BACKBONE.NAME"
        ) from error


def _urls() -> dict[str, str]:
    models = clip_package("clip")._MODELS
    server = models["ViT-B/16"].rsplit("/", 2)[0]
    return {key: f"{server}/{path}" for key, path in _NEWER.items()} | models


def published_hashes() -> dict[str, tuple[Path, str]]:
    """Return {OpenAI's name: (file, SHA-256)}.

    The file is what a download writes, the hash that in its published address.
    """
    parts = {name: url.split("/")[-2:] for name, url in _urls().items()}
    return {name: (Path(CACHE).expanduser() / file, digest) for name, (digest, file) in parts.items()}


def is_published(name: str) -> bool:
    """Return whether a name is one of OpenAI's rather than a file.

    Their function is known.
    """
    return not Path(name).is_file() and (name in _NEWER or name in clip_package("clip")._MODELS)
