"""The vision tower with few operations, for CPUs."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .blocks import KeysValues, attend, attend_once, finish, join, keys_values, queries_keys_values
from .kernels import StockModule
from .patches import embed_patches
from .paths import is_exporting
from .prompts import Stack

AT_A_TIME = 8  # images whose hidden units fit into a processor's cache; a sixth faster than 100 (ViT-B/16)


def encode(visual: StockModule, images: Tensor, stacks: Sequence[Stack]) -> Tensor:
    """Encode images (B, 3, R, R) with prompt tokens, (n, d) per layer.

    Returns CLS after the last block, (B, d).
    """
    blocks = visual.transformer.resblocks
    prompts = [_at_block(visual, stacks, i) for i in range(len(blocks))]
    offers = [_offer(block, passing) for block, (passing, _) in zip(blocks[:-1], prompts[:-1], strict=True)]
    parts = [images] if is_exporting() else images.split(AT_A_TIME)
    return torch.cat([_run(blocks, embed_patches(visual, part), prompts, offers) for part in parts])


def _at_block(visual: StockModule, stacks: Sequence[Stack], layer: int) -> tuple[list[Tensor], list[Tensor]]:
    """Split the groups' tokens at the input of a block into those that pass and those that enter, (1, n, d) each.

    Passing tokens contribute keys and values to this block only, because the next block replaces them or there is no
    next block. Entering tokens are carried from this block on.
    """
    passing: list[Tensor] = []
    entering: list[Tensor] = []
    for stack in stacks:
        if layer < len(stack):
            tokens = stack[layer].to(visual.conv1.weight.dtype)[None]
            carried = layer + 1 == len(stack) < len(visual.transformer.resblocks)
            (entering if carried else passing).append(visual.ln_pre(tokens) if layer == 0 else tokens)
    return passing, entering


def _offer(block: StockModule, passing: list[Tensor]) -> list[KeysValues]:
    """Compute keys and values of the passing tokens, which are the same for all images."""
    return [keys_values(block, torch.cat(passing, dim=1))] if passing else []


def _run(
    blocks: nn.Sequential,
    x: Tensor,
    prompts: list[tuple[list[Tensor], list[Tensor]]],
    offers: list[list[KeysValues]],
) -> Tensor:
    """Run `x` (B, T, d) and the groups' tokens through the blocks; returns the CLS token after the last one, (B, d).

    Attention does not depend on the order of keys, so tokens can be appended in any order. In the last block all tokens
    but CLS contribute keys and values only.
    """
    *most, block = blocks
    for other, (_, entering), offer in zip(most, prompts[:-1], offers, strict=True):
        x = join([x, *(tokens.to(x.dtype) for tokens in entering)], x.shape[0])  # (B, T, d), T grows
        q, *own = queries_keys_values(other, x)  # (B, H, T, e) each
        k, v = (join(list(parts), x.shape[0]) for parts in zip(own, *offer, strict=True))  # (B, H, U, e) each
        x = finish(other, x, attend(q, k, v))
    cls = x[:, 0]  # (B, d)
    passing = [tokens.to(x.dtype) for tokens in prompts[-1][0]]
    return finish(block, cls, attend_once(block, cls, [*passing, x]))
