"""Write a small CLIP as Hugging Face's `CLIPModel.save_pretrained` and its processor do, without transformers."""

import json

import pytest
import torch
from clip.simple_tokenizer import bytes_to_unicode
from safetensors.torch import save_file

MERGES = [("t", "h"), ("th", "e</w>"), ("o", "x</w>"), ("e", "e</w>")]
PARTS = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
PLACES = {
    "vision_model": {
        "class_embedding": "embeddings.class_embedding",
        "conv1.weight": "embeddings.patch_embedding.weight",
        "positional_embedding": "embeddings.position_embedding.weight",
        **{f"ln_pre.{kind}": f"pre_layrnorm.{kind}" for kind in ("weight", "bias")},
        **{f"ln_post.{kind}": f"post_layernorm.{kind}" for kind in ("weight", "bias")},
    },
    "text_model": {
        "token_embedding.weight": "embeddings.token_embedding.weight",
        "positional_embedding": "embeddings.position_embedding.weight",
        **{f"ln_final.{kind}": f"final_layer_norm.{kind}" for kind in ("weight", "bias")},
    },
}


def renamed(state):
    """Return OpenAI's weights under Hugging Face's names."""
    out = {"logit_scale": state["logit_scale"]}
    out["visual_projection.weight"] = state["visual.proj"].t().contiguous()
    out["text_projection.weight"] = state["text_projection"].t().contiguous()
    for tower, prefix in (("vision_model", "visual."), ("text_model", "")):
        for ours, theirs in PLACES[tower].items():
            out[f"{tower}.{theirs}"] = state[prefix + ours]
        numbers = {key.split("resblocks.")[1].split(".")[0] for key in state if key.startswith(f"{prefix}transformer.")}
        for i in sorted(numbers):
            block, layer = f"{prefix}transformer.resblocks.{i}.", f"{tower}.encoder.layers.{i}."
            for kind in ("weight", "bias"):
                for name, part in zip("qkv", state[f"{block}attn.in_proj_{kind}"].chunk(3), strict=True):
                    out[f"{layer}self_attn.{name}_proj.{kind}"] = part.clone()
                for ours, theirs in PARTS.items():
                    out[f"{layer}{theirs}.{kind}"] = state[f"{block}{ours}.{kind}"]
    return out


def vocabulary():
    """Return {token: id} of all bytes, `MERGES` and the special tokens, with ids in CLIP's order."""
    symbols = list(bytes_to_unicode().values())
    words = [*symbols, *(f"{symbol}</w>" for symbol in symbols), *(a + b for a, b in MERGES)]
    return {word: index for index, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}


def save(folder, state, text, vision, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3)):
    """Write model, image processor and tokenizer.

    Args:
        folder: where to write.
        state: weights in OpenAI's layout, with the vocabulary of `vocabulary`.
        text, vision: settings of the towers, by Hugging Face's names.
        mean, std: of the images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokens = vocabulary()
    text = {"vocab_size": len(tokens), "bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1} | text
    width = state["text_projection"].shape[1]
    config = {"model_type": "clip", "projection_dim": width, "text_config": text, "vision_config": vision}
    size = vision["image_size"]
    images = {
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
        "image_processor_type": "CLIPImageProcessor",
    }
    files = {
        "config.json": config,
        "preprocessor_config.json": images,
        "vocab.json": tokens,
        "tokenizer_config.json": {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": text["max_position_embeddings"],
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in MERGES)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    save_file({key: value.contiguous() for key, value in renamed(state).items()}, folder / "model.safetensors")
    return folder


def hugging_face():
    """The package transformers; the test is skipped if it is missing or does not support the installed PyTorch."""
    package = pytest.importorskip("transformers", exc_type=ImportError)
    if not package.is_torch_available():
        pytest.skip(f"transformers {package.__version__} does not support PyTorch {torch.__version__}")
    return package
