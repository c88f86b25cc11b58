"""Hugging Face CLIP folders (`CLIPModel.save_pretrained`) as backbones of the engine, read without transformers.

The folder has config.json, the weights, preprocessor_config.json (or processor_config.json) and the tokenizer
(tokenizer.json, or vocab.json and merges.txt).
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..engine import ClipSizes
from .errors import BackboneError
from .files import read_state_dict
from .function import Function, ImageSettings, TowerFunction, check_activation, number
from .source import Source
from .vocabulary import read_tokenizer

LIBRARY = "Hugging Face"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_LEGACY_EOS = 2  # configurations with this id read the features at the largest token id

# Defaults of transformers' CLIPTextConfig and CLIPVisionConfig, which its files may leave out.
_TEXT: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": 49407,
}
_VISION: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
_SCALE = 1 / 255
_RESAMPLE = {2: "bilinear", 3: "bicubic", "bilinear": "bilinear", "bicubic": "bicubic"}  # Pillow's constants
_TOWERS = {"text_model": ("", "final_layer_norm", "ln_final"), "vision_model": ("visual.", "post_layernorm", "ln_post")}
_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_NAMES = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
}


def source(name: str) -> Source:
    """Return the source of a Hugging Face CLIP folder.

    Args:
        name: the folder.

    Raises:
        BackboneError: a file is missing or damaged, or the engine does not compute the model.
    """
    folder = Path(name)
    config = _json(name, folder / "config.json")
    for key, expected in (("model_type", "clip"), ("auto_map", None), ("quantization_config", None)):
        if config.get(key) != expected:
            raise BackboneError(
                f"backbone {name!r}: {key} in config.json is {config.get(key)!r}; expected {expected or 'none'}, as in "
                "transformers' CLIPModel. Use another backbone"
            )
    text, vision = _TEXT | _part(config, "text"), _VISION | _part(config, "vision")
    if vision["num_channels"] != 3:
        raise BackboneError(f"backbone {name!r}: num_channels is {vision['num_channels']}; expected 3")
    tokenizer, special_tokens, of_tokenizer = read_tokenizer(name, folder)
    _check_end_of_text(name, text, special_tokens)
    images, of_images = _images(name, folder, vision["image_size"])
    weights = _weights(name, folder)
    return Source(
        name=name,
        library=LIBRARY,
        files=(folder / "config.json", *of_images, *of_tokenizer, *weights),
        function=Function(_tower(name, "text", text), _tower(name, "vision", vision), vision["image_size"]),
        images=images,
        sizes=ClipSizes(
            text_width=text["hidden_size"],
            text_layers=text["num_hidden_layers"],
            vision_width=vision["hidden_size"],
            vision_layers=vision["num_hidden_layers"],
            embedding=config.get("projection_dim", 512),
            image=vision["image_size"],
            context=text["max_position_embeddings"],
        ),
        vocabulary=text["vocab_size"],
        special_tokens=special_tokens,
        read=lambda: _openai_layout(name, weights),
        tokenizer=tokenizer,
    )


def _json(name: str, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BackboneError(
            f"backbone {name!r}: {path.name} cannot be read ({error}); expected a folder of Hugging Face's CLIPModel"
        ) from error
    if not isinstance(content, dict):
        raise BackboneError(f"backbone {name!r}: {path.name} is not a JSON object; expected Hugging Face's")
    return content


def _part(config: dict, tower: str) -> dict[str, Any]:
    """Return a tower's settings; older files repeat them under another key, which has priority."""
    return {**(config.get(f"{tower}_config") or {}), **(config.get(f"{tower}_config_dict") or {})}


def _tower(name: str, tower: str, config: dict) -> TowerFunction:
    where = f"backbone {name!r}: {tower}_config"
    width, heads = config["hidden_size"], config["num_attention_heads"]
    if width % heads:
        raise BackboneError(f"{where}: {heads} heads do not divide the width of {width}")
    epsilon = number(where, "layer_norm_eps", config["layer_norm_eps"])
    return TowerFunction(check_activation(where, config["hidden_act"]), width // heads, epsilon)


def _check_end_of_text(name: str, text: dict, special_tokens: tuple[int, int]) -> None:
    """Check that the model reads its text features at the tokenizer's end of text.

    Raises:
        BackboneError: it reads them elsewhere, or the tokenizer has more tokens than the model.
    """
    end, wanted = special_tokens[1], text["eos_token_id"]
    wanted = text["vocab_size"] - 1 if wanted == _LEGACY_EOS else wanted
    if end != wanted:
        raise BackboneError(
            f"backbone {name!r}: the tokenizer ends a text with token {end}, the model reads its features at token {wanted}; "
            "expected the same. Save model and tokenizer together"
        )


def _images(name: str, folder: Path, size: int) -> tuple[ImageSettings, list[Path]]:
    """Return the model's images, and the file that describes them.

    Raises:
        BackboneError: the file is missing, or describes images that this package does not make.
    """
    path, whole = folder / "preprocessor_config.json", folder / "processor_config.json"
    if not path.is_file() and whole.is_file():
        path, config = whole, _json(name, whole).get("image_processor", {})
    else:
        config = _json(name, path)
    scale = number(f"backbone {name!r}", "rescale_factor", config.get("rescale_factor", _SCALE))
    side = _side(config.get("crop_size", size))
    expected = {
        "do_resize": (True, config.get("do_resize", True)),
        "do_center_crop": (True, config.get("do_center_crop", True)),
        "do_rescale": (True, config.get("do_rescale", True)),
        "do_normalize": (True, config.get("do_normalize", True)),
        "size": (size, _side(config.get("size", size))),
        "crop_size": (size, side),
        "rescale_factor": (_SCALE, _SCALE if math.isclose(scale, _SCALE, rel_tol=1e-6) else scale),
    }
    for key, (wanted, found) in expected.items():
        if found != wanted:
            raise BackboneError(
                f"backbone {name!r}: {key} in {path.name} is {config.get(key)!r}; expected {wanted}: the shorter side resized, "
                f"the centre of {size} pixels cut out, values from 0 to 1, normalised"
            )
    interpolation = _RESAMPLE.get(config.get("resample", 3))
    try:
        (red, green, blue), (a, b, c) = config["image_mean"], config["image_std"]
    except (KeyError, TypeError, ValueError) as error:
        raise BackboneError(
            f"backbone {name!r}: no image_mean and image_std of three channels in {path.name}"
        ) from error
    if interpolation is None:
        raise BackboneError(
            f"backbone {name!r}: resample is {config['resample']!r}; expected 2 (bilinear) or 3 (bicubic)"
        )
    return ImageSettings(size, (red, green, blue), (a, b, c), interpolation), [path]


def _side(size: Any) -> int | None:
    """Return the side of a square, which files give as a number or as a mapping."""
    if isinstance(size, Mapping):
        sides = set(size.values())
        return sides.pop() if len(sides) == 1 else None
    return size


def _weights(name: str, folder: Path) -> tuple[Path, ...]:
    for file in _WEIGHTS:
        if (folder / file).is_file():
            return (folder / file,)
        index = folder / f"{file}.index.json"
        if index.is_file():
            return tuple(folder / shard for shard in sorted(set(_json(name, index).get("weight_map", {}).values())))
    raise BackboneError(f"backbone {name!r}: no weights; expected {' or '.join(_WEIGHTS)} in the folder")


def _openai_layout(name: str, paths: tuple[Path, ...]) -> dict[str, Tensor]:
    """Read the weights and rename them.

    Raises:
        BackboneError: a file cannot be read, or has tensors that CLIP has not.
    """
    state = {key: value for path in paths for key, value in read_state_dict(str(path)).items()}
    state = {key: value for key, value in state.items() if not key.endswith("position_ids")}
    found: dict[str, Tensor] = {}
    try:
        found["logit_scale"] = state.pop("logit_scale").reshape(())
        found["text_projection"] = state.pop("text_projection.weight").t()
        found["visual.proj"] = state.pop("visual_projection.weight").t()
        for theirs, ours in _NAMES.items():
            found[ours] = state.pop(theirs)
        for tower, (prefix, last, ours) in _TOWERS.items():
            for kind in ("weight", "bias"):
                found[f"{prefix}{ours}.{kind}"] = state.pop(f"{tower}.{last}.{kind}")
                for layer in _layers(state, f"{tower}.encoder.layers."):
                    _move_layer(
                        state, found, f"{tower}.encoder.layers.{layer}", f"{prefix}transformer.resblocks.{layer}", kind
                    )
    except KeyError as error:
        raise BackboneError(f"backbone {name!r}: tensor {error} is missing; expected those of CLIPModel") from error
    if state:
        raise BackboneError(
            f"backbone {name!r}: tensors {', '.join(sorted(state)[:5])}; expected those of CLIPModel alone"
        )
    return found


def _layers(state: dict[str, Tensor], prefix: str) -> list[str]:
    return sorted({key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)})


def _move_layer(state: dict[str, Tensor], found: dict[str, Tensor], theirs: str, ours: str, kind: str) -> None:
    """Move one block's weights or biases; OpenAI's layout has queries, keys and values in one tensor."""
    parts = [state.pop(f"{theirs}.self_attn.{part}_proj.{kind}") for part in "qkv"]
    found[f"{ours}.attn.in_proj_{kind}"] = torch.cat(parts)
    for name, other in _LAYER.items():
        found[f"{ours}.{other}.{kind}"] = state.pop(f"{theirs}.{name}.{kind}")
