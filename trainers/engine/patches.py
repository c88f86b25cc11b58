"""The input of a stock CLIP ViT: the class token and the patches of an image."""

import torch
from torch import Tensor

from .kernels import StockModule


def embed_patches(visual: StockModule, images: Tensor) -> Tensor:
    """Embed images (B, 3, R, R) as CLS and patches (B, 1 + N, d), normalised by `ln_pre`."""
    patches = visual.conv1(images.to(visual.conv1.weight.dtype)).flatten(2).transpose(1, 2)  # (B, N, d)
    cls = visual.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)  # (B, 1, d)
    x = torch.cat([cls, patches], dim=1) + visual.positional_embedding.to(patches.dtype)
    return visual.ln_pre(x)
