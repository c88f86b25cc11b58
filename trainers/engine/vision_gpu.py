"""The vision tower with few kernel launches, for GPUs.

Prompt tokens that the next block replaces are appended to a block's input and dropped after its attention.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .blocks_gpu import attend, blocks_of, cast_stack, finish, keys_values, queries, run_inner_block, split_heads
from .kernels import StockModule
from .patches import embed_patches
from .prompts import Stack


def encode(visual: StockModule, images: Tensor, stacks: Sequence[Stack]) -> Tensor:
    """Encode images (B, 3, R, R) with prompt tokens, (n, d) per layer.

    Returns CLS after the last block, (B, d).
    """
    x = embed_patches(visual, images)  # (B, T, d)
    stacks = [cast_stack(stack, x.dtype) for stack in stacks]
    blocks = blocks_of(visual.transformer.resblocks, x.dtype)
    for i, block in enumerate(blocks):
        last = i + 1 == len(blocks)
        passing: list[Tensor] = []
        entering: list[Tensor] = []
        for stack in stacks:
            if i < len(stack):
                tokens = stack[i][None] if i else visual.ln_pre(stack[i])[None]  # (1, n, d)
                carried = i + 1 == len(stack) and not last
                (entering if carried else passing).append(tokens)
        if entering:
            x = torch.cat([x, *(tokens.expand(x.shape[0], -1, -1) for tokens in entering)], dim=1)  # (B, T, d), T grows
        if not last:
            x = run_inner_block(block, x, passing)
            continue
        cls = x[:, :1]  # only CLS is read
        k, v = split_heads(keys_values(block, x, passing), 2, block.heads)  # (B, H, T + n, e) each
        x = finish(block, cls, attend(queries(block, cls), k, v))
    return x[:, 0]
