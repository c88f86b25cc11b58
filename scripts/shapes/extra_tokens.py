"""Random tokens in the image sequence while a small CLIP is trained.

A large ViT hardly notices an untrained prompt among its hundreds of tokens. In a tower with 36 patches and 3 blocks, one
random token costs a host such as MaPLe a point of accuracy on new classes before it has learned anything. A CLIP that has
met random tokens in training tolerates them.
"""

import math

import torch
from clip.model import VisionTransformer

MOST = 4  # tokens in a batch's sequences
SCALES = (0.03, 1.0)  # of their entries: from N(0, 0.02)'s to those of trained prompts
SEED = 5
FRESH = 0.5  # probability that a later block gets other tokens, like the layers of a deep prompt


def encode_image(visual: VisionTransformer, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Encode images whose sequences are followed by 1 to 4 random tokens.

    Args:
        visual: the image tower.
        images: (n, 3, 48, 48), model input.
        generator: of the tokens.
    Returns:
        Features (n, width).
    """
    patches = visual.conv1(images).flatten(2).permute(0, 2, 1)
    x = torch.cat([visual.class_embedding.expand(len(patches), 1, -1), patches], 1) + visual.positional_embedding
    x = visual.ln_pre(x)  # (n, 37, width)
    length, number = x.shape[1], int(torch.randint(1, MOST + 1, (), generator=generator))
    x = torch.cat([x, _tokens(number, x, generator)], 1).permute(1, 0, 2)
    for index, block in enumerate(visual.transformer.resblocks):
        if index and torch.rand((), generator=generator) < FRESH:
            fresh = _tokens(number, x.permute(1, 0, 2), generator).permute(1, 0, 2)
            x = torch.cat([x[:length], fresh])
        x = block(x)
    return visual.ln_post(x[0]) @ visual.proj


def _tokens(number: int, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return random tokens (n, number, width) for sequences (n, length, width); each image's have one scale."""
    n, _, width = x.shape
    low, high = map(math.log, SCALES)
    scale = torch.empty(n, 1, 1).uniform_(low, high, generator=generator).exp()
    return torch.randn(n, number, width, generator=generator) * scale
