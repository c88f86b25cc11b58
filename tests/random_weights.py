"""Deterministic CLIP weights and inputs, generated from names, so that tests need no weight files.

Every array is `numpy.random.RandomState(crc32(f"{seed}:{name}")).standard_normal(shape)` times a scale
(RandomState's stream is frozen by NumPy's compatibility policy).
"""

import zlib
from dataclasses import dataclass

import numpy as np
import torch


def randn(seed, name, shape, scale=1.0, shift=0.0):
    """Draw a float32 tensor of `shape` from N(shift, scale²), determined by (seed, name)."""
    rng = np.random.RandomState(zlib.crc32(f"{seed}:{name}".encode()))
    return torch.from_numpy((rng.standard_normal(shape) * scale + shift).astype(np.float32))


@dataclass(frozen=True)
class Spec:
    """Sizes of a CLIP ViT. The number of heads is width // 64, as in OpenAI's loader."""

    vision_width: int = 768
    text_width: int = 512
    embed_dim: int = 512
    vision_layers: int = 3
    text_layers: int = 3
    patch: int = 32
    grid: int = 2
    vocab: int = 49408
    context: int = 77

    @property
    def image(self):
        return self.patch * self.grid


STUDENT = Spec()
TEACHER = Spec(vision_width=256, text_width=128, embed_dim=192, vision_layers=2, text_layers=2)


def _block(prefix, width):
    return {
        f"{prefix}.attn.in_proj_weight": (3 * width, width),
        f"{prefix}.attn.in_proj_bias": (3 * width,),
        f"{prefix}.attn.out_proj.weight": (width, width),
        f"{prefix}.attn.out_proj.bias": (width,),
        f"{prefix}.ln_1.weight": (width,),
        f"{prefix}.ln_1.bias": (width,),
        f"{prefix}.mlp.c_fc.weight": (4 * width, width),
        f"{prefix}.mlp.c_fc.bias": (4 * width,),
        f"{prefix}.mlp.c_proj.weight": (width, 4 * width),
        f"{prefix}.mlp.c_proj.bias": (width,),
        f"{prefix}.ln_2.weight": (width,),
        f"{prefix}.ln_2.bias": (width,),
    }


def shapes(s: Spec):
    out = {
        "visual.class_embedding": (s.vision_width,),
        "visual.positional_embedding": (s.grid**2 + 1, s.vision_width),
        "visual.proj": (s.vision_width, s.embed_dim),
        "visual.conv1.weight": (s.vision_width, 3, s.patch, s.patch),
        "visual.ln_pre.weight": (s.vision_width,),
        "visual.ln_pre.bias": (s.vision_width,),
        "visual.ln_post.weight": (s.vision_width,),
        "visual.ln_post.bias": (s.vision_width,),
        "positional_embedding": (s.context, s.text_width),
        "text_projection": (s.text_width, s.embed_dim),
        "token_embedding.weight": (s.vocab, s.text_width),
        "ln_final.weight": (s.text_width,),
        "ln_final.bias": (s.text_width,),
        "logit_scale": (),
    }
    for i in range(s.vision_layers):
        out |= _block(f"visual.transformer.resblocks.{i}", s.vision_width)
    for i in range(s.text_layers):
        out |= _block(f"transformer.resblocks.{i}", s.text_width)
    return out


def _scale(name, shape, s: Spec):
    """Return (std, mean) of a weight, close to CLIP's initialisation for realistic numerics."""
    if name == "logit_scale":
        return 0.0, float(np.log(100.0))
    if ".ln_" in name or name.startswith("ln_final"):
        return (0.1, 1.0) if name.endswith("weight") else (0.1, 0.0)
    if name.endswith("bias"):
        return 0.02, 0.0
    width = s.vision_width if name.startswith("visual") else s.text_width
    layers = s.vision_layers if name.startswith("visual") else s.text_layers
    if name == "token_embedding.weight":
        return 0.02, 0.0
    if name == "positional_embedding":
        return 0.01, 0.0
    if name.endswith("conv1.weight"):
        return (3 * s.patch**2) ** -0.5, 0.0
    if name.endswith("out_proj.weight") or name.endswith("c_proj.weight"):
        return width**-0.5 * (2 * layers) ** -0.5, 0.0
    if name.endswith("c_fc.weight"):
        return (2 * width) ** -0.5, 0.0
    return width**-0.5, 0.0


def clip_state_dict(spec: Spec, seed: int, tokens=None):
    """Return a complete CLIP state dict in OpenAI's layout, in float32.

    Args:
        spec: the sizes.
        seed: the seed of all weights.
        tokens: ids whose embedding rows are drawn, one by one, so that all subsets agree; the other rows are 0.
    """
    out = {}
    for name, shape in shapes(spec).items():
        if name == "token_embedding.weight":
            table = torch.zeros(shape)
            for t in sorted(set(int(t) for t in tokens)):
                table[t] = randn(seed, f"{name}[{t}]", shape[1:], 0.02)
            out[name] = table
            continue
        std, mean = _scale(name, shape, spec)
        out[name] = randn(seed, name, shape, std, mean) if std else torch.full(shape, mean)
    return out
