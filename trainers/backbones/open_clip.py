"""CLIPs of open_clip (github.com/mlfoundations/open_clip) as backbones of the engine.

The configuration of an architecture determines its function; nothing of the library computes.
"""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from ..engine import ClipSizes
from ..names import nearest
from .errors import BackboneError
from .files import read_state_dict
from .function import Function, ImageSettings, TowerFunction, check_activation, number
from .source import Source, check_settings

PREFIX = "open_clip"
VOCABULARY = 49408  # of CLIP's own tokenizer
_CONFIG = "open_clip_config.json"
_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")

# Settings that the engine computes, or that have no effect in evaluation (dropout, unused kinds of towers).
_BOTH = ("layers", "width", "mlp_ratio", "act_kwargs", "norm_kwargs", "output_tokens")
_VISION = frozenset((*_BOTH, "head_width", "patch_size", "image_size", "patch_dropout", "pos_embed_type"))
_TEXT = frozenset((*_BOTH, "heads", "context_length", "vocab_size", "pad_id", "eos_id", "hf_model_pretrained"))
_UNUSED = frozenset(("attn_pooler_queries", "attn_pooler_heads", "hf_proj_type", "hf_pooler_type"))
_UNUSED_TIMM = frozenset(("timm_pool", "timm_proj", "timm_drop", "timm_drop_path", "timm_model_pretrained"))
_TOP = frozenset(
    ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text", "init_logit_scale", "nonscalar_logit_scale")
)


def source(name: str) -> Source:
    """Return the source of a CLIP of open_clip.

    Args:
        name: "open_clip:<architecture>/<tag or file>", or "open_clip:<folder>" of a model that open_clip saved.

    Raises:
        BackboneError: open_clip is not installed, does not know the architecture or the tag, or the engine does not
            compute the architecture.
    """
    config, preprocessing, path = _found(name)
    vision, text, quick = config["vision_cfg"], config["text_cfg"], config.get("quick_gelu", False)
    resnet = isinstance(vision.get("layers", 12), list | tuple)
    size = vision.get("image_size", 224)
    if isinstance(size, list | tuple):
        raise BackboneError(f"backbone {name!r}: vision_cfg.image_size is {size}; expected one number, square images")
    width, heads = text.get("width", 512), text.get("heads", 8)
    if width % heads:
        raise BackboneError(f"backbone {name!r}: {heads} heads do not divide the text tower's width of {width}")
    function = Function(
        _tower(name, text, quick, width // heads), _tower(name, vision, quick, vision.get("head_width", 64)), size
    )
    sizes = ClipSizes(
        text_width=width,
        text_layers=text.get("layers", 12),
        vision_width=0 if resnet else vision.get("width", 768),
        vision_layers=0 if resnet else vision.get("layers", 12),
        embedding=config["embed_dim"],
        image=size,
        context=text.get("context_length", 77),
    )
    return Source(
        name=name,
        library="open_clip",
        files=(path,),
        function=function,
        images=_images(name, preprocessing, size),
        sizes=sizes,
        vocabulary=VOCABULARY,
        special_tokens=(VOCABULARY - 2, VOCABULARY - 1),
        read=lambda: _openai_layout(read_state_dict(str(path))),
    )


def split_name(name: str) -> tuple[str, str]:
    """Return the architecture and the tag or file in a name.

    Raises:
        BackboneError: the name has another form.
    """
    architecture, _, found = name.removeprefix(f"{PREFIX}:").partition("/")
    if not found:
        raise BackboneError(f"backbone {name!r}; expected 'open_clip:<architecture>/<tag or file>'")
    return architecture, found


def package(name: str) -> Any:
    """Import open_clip.

    Raises:
        BackboneError: it cannot be imported.
    """
    try:
        import open_clip
    except ImportError as error:
        raise BackboneError(
            f"backbone {name!r} needs open_clip, which cannot be imported ({error}); pip install open_clip_torch"
        ) from error
    return open_clip


def _architecture(name: str) -> tuple[Any, str, str]:
    """Return open_clip, and the architecture and the tag or file in a name.

    Raises:
        BackboneError: open_clip cannot be imported, or does not know the architecture.
    """
    open_clip, (architecture, found) = package(name), split_name(name)
    if architecture not in open_clip.list_models():
        raise BackboneError(
            f"backbone {name!r}: open_clip has no architecture {architecture!r}; "
            f"{nearest(architecture, open_clip.list_models())}"
        )
    return open_clip, architecture, found


def weights_of(name: str) -> Path:
    """Return the file of a tag, which open_clip downloads once, or of a path.

    Raises:
        BackboneError: open_clip does not know the architecture or the tag, or the download failed.
    """
    open_clip, architecture, found = _architecture(name)
    settings = open_clip.get_pretrained_cfg(architecture, found)
    if not settings:
        if not Path(found).is_file():
            tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none"
            raise BackboneError(
                f"backbone {name!r}; expected a file or a tag of {architecture} instead of {found!r}. Its tags: {tags}"
            )
        return Path(found)
    try:
        return Path(open_clip.download_pretrained(settings))
    except Exception as error:  # the hub's client raises exceptions of many types
        raise BackboneError(
            f"backbone {name!r} could not be downloaded ({type(error).__name__}: {error}); give the path of its file "
            f"instead, {PREFIX}:{architecture}/<file>"
        ) from error


def _found(name: str) -> tuple[dict, dict, Path]:
    """Return the model's configuration, that of its images, and the file of its weights.

    The configuration is checked before weights are downloaded.
    """
    folder = Path(name.removeprefix(f"{PREFIX}:"))
    if name != f"{PREFIX}:" and folder.is_dir():
        config, preprocessing, path = _saved(name, folder)
        _check(name, config)
        return config, preprocessing, path
    open_clip, architecture, tag = _architecture(name)
    config = open_clip.get_model_config(architecture)
    _check(name, config)
    trained = open_clip.get_pretrained_cfg(architecture, tag) or {}
    if trained and bool(trained.get("quick_gelu", False)) != bool(config.get("quick_gelu", False)):
        kind = "QuickGELU" if trained.get("quick_gelu", False) else "GELU"
        raise BackboneError(
            f"backbone {name!r}: these weights were trained with {kind}, the architecture {architecture} computes the "
            f"other; expected the architecture with {kind}. Use {_with_other_activation(architecture)}/{tag}"
        )
    return config, dict(trained), weights_of(name)


def _with_other_activation(architecture: str) -> str:
    ending = "-quickgelu"
    return architecture.removesuffix(ending) if architecture.endswith(ending) else architecture + ending


def _saved(name: str, folder: Path) -> tuple[dict, dict, Path]:
    """Return the contents of a folder that open_clip's `save_pretrained` or its hub writes."""
    try:
        content = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        config, preprocessing = content["model_cfg"], content.get("preprocess_cfg", {})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackboneError(f"backbone {name!r}: {_CONFIG} cannot be read ({error!r}); expected open_clip's") from error
    for file in _WEIGHTS:
        if (folder / file).is_file():
            return config, preprocessing, folder / file
    raise BackboneError(f"backbone {name!r}: no weights; expected {' or '.join(_WEIGHTS)} in the folder")


def _check(name: str, config: dict) -> None:
    """Check that the engine computes an architecture.

    Raises:
        BackboneError: it does not; the message names the setting.
    """
    vision, text = config["vision_cfg"], config["text_cfg"]
    if text.get("hf_tokenizer_name"):
        raise BackboneError(
            f"backbone {name!r}: text_cfg.hf_tokenizer_name is {text['hf_tokenizer_name']!r}, a tokenizer of Hugging Face; "
            f"expected CLIP's own with {VOCABULARY} tokens. Use another backbone, or caspl.inject into open_clip's model"
        )
    problem = (
        check_settings("vision_cfg.", vision, {"pool_type": ("tok",)}, _VISION | _UNUSED | _UNUSED_TIMM)
        or check_settings(
            "text_cfg.", text, {"pool_type": ("argmax", "eos"), "proj_type": ("linear",)}, _TEXT | _UNUSED
        )
        or check_settings("", config, {}, _TOP)
    )
    for tower, kind in ((vision, "vision_cfg"), (text, "text_cfg")):
        for key, known in (("act_kwargs", "approximate"), ("norm_kwargs", "eps")):
            others = set(tower.get(key) or {}) - {known}
            if not problem and others:
                problem = f"{kind}.{key} has {', '.join(sorted(others))}; expected {known} alone"
    if not problem and text.get("vocab_size", VOCABULARY) != VOCABULARY:
        problem = f"text_cfg.vocab_size is {text['vocab_size']}; expected {VOCABULARY}, CLIP's own vocabulary"
    if not problem and text.get("pool_type") == "eos" and text.get("eos_id", 2) != VOCABULARY - 1:
        problem = f"text_cfg.eos_id is {text.get('eos_id', 2)}; expected {VOCABULARY - 1}, CLIP's end of text"
    if not problem and isinstance(vision.get("layers"), list | tuple) and vision.get("head_width", 64) != 64:
        problem = f"vision_cfg.head_width of a ResNet is {vision['head_width']}; expected 64"
    if problem:
        raise BackboneError(
            f"backbone {name!r}: {problem}; the engine computes towers of CLIP's structure. Use another backbone"
        )


def _tower(name: str, config: dict, quick: bool, head_width: int) -> TowerFunction:
    activation = (
        "quick_gelu"
        if quick
        else {"tanh": "gelu_tanh"}.get((config.get("act_kwargs") or {}).get("approximate", "none"), "gelu")
    )
    epsilon = number(f"backbone {name!r}", "eps", (config.get("norm_kwargs") or {}).get("eps", 1e-5))
    return TowerFunction(check_activation(f"backbone {name!r}", activation), head_width, epsilon)


def _images(name: str, config: dict, size: int) -> ImageSettings:
    """Return the images of a model; open_clip's defaults are OpenAI's."""
    mode = config.get("resize_mode", "shortest")
    if mode != "shortest":
        raise BackboneError(
            f"backbone {name!r}: resize_mode is {mode!r}; expected 'shortest', the shorter side resized and the centre cut "
            "out. Use another backbone"
        )
    mean = config.get("mean") or (0.48145466, 0.4578275, 0.40821073)
    std = config.get("std") or (0.26862954, 0.26130258, 0.27577711)
    interpolation = config.get("interpolation", "bicubic")
    if interpolation not in ("bicubic", "bilinear"):
        raise BackboneError(f"backbone {name!r}: interpolation is {interpolation!r}; expected bicubic or bilinear")
    red, green, blue = map(float, mean)
    return ImageSettings(size, (red, green, blue), tuple(map(float, std)), interpolation)  # type: ignore[arg-type]


def _openai_layout(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of open_clip's `CLIP` or `CustomTextCLIP`, also as training with DataParallel writes them."""
    renamed = {key.removeprefix("module.").removeprefix("text."): value for key, value in state.items()}
    if "logit_scale" in renamed:
        renamed["logit_scale"] = renamed["logit_scale"].reshape(())
    return renamed
