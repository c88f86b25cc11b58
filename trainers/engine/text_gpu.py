"""The text tower with few kernel launches, for GPUs.

All rows of a bin (see `plan`) attend to each other under a cached mask, in one call per block. Prefix tokens that the
next block replaces are appended to a block's input and dropped after its attention.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from .blocks_gpu import (
    Block,
    attend,
    blocks_of,
    cast_stack,
    finish,
    keys_values,
    project,
    queries,
    run_inner_block,
    split_heads,
)
from .kernels import StockModule
from .layout import TextLayout
from .plan import Filled, Passing, Plan
from .prompts import TextStack


def encode(model: StockModule, layout: TextLayout, stacks: Sequence[TextStack], classes: range | None) -> Tensor:
    """Encode some of the classes.

    Args:
        model: `clip.model.CLIP`.
        layout: the sequences of C classes.
        stacks: the layers of each group, (b, c, n, d) each (see `text.encode_text`).
        classes: the classes to encode; None encodes all.

    Returns:
        (b, c, E), not normalised.
    """
    dtype = model.text_projection.dtype
    blocks = blocks_of(model.transformer.resblocks, dtype)
    plan = layout.plan(tuple(map(len, stacks)), len(blocks), classes)
    stacks = [cast_stack(stack, dtype) for stack in stacks]
    images = max([1, *(len(tokens) for stack in stacks for tokens in stack if tokens is not None)])
    position = model.positional_embedding.to(dtype)
    x = model.token_embedding(plan.words).to(dtype) + position[plan.positions]  # (K G R, d)
    x = x.expand(images, *x.shape).reshape(images * plan.copies, -1, x.shape[-1])  # (b K, G R, d)
    masks = plan.masks(dtype, images)
    for i, block in enumerate(blocks):
        x = _fill(x, plan, stacks, i, position)
        passing = [
            _passing(each, plan, cast(Tensor, stacks[each.group][i]), None if i else position)
            for each in plan.passing(i)
        ]
        if i + 1 == len(blocks):
            x = _read(block, x, passing, plan, masks[i])  # (b, c, d)
        elif plan.groups == 1:
            x = run_inner_block(block, x, passing, masks[i])
        else:
            rows, width = plan.groups * plan.size, x.shape[-1]
            q, kv = project(block, x, passing).split([width, 2 * width], dim=-1)  # (b, G R + n, d), (b, G R + n, 2 d)
            q = q[:, :rows].unflatten(1, (plan.groups, plan.size)).flatten(0, 1).unflatten(-1, (block.heads, -1))
            k, v = split_heads(_grouped(kv, plan), 2, block.heads)  # (b G, H, U, e) each
            x = finish(block, x, attend(q.transpose(1, 2), k, v, masks[i]).view_as(x))
    return model.ln_final(x).to(x.dtype) @ model.text_projection.to(x.dtype)


def _rows(x: Tensor, images: int) -> Tensor:
    """View (b K, G R, d) as (b, K G R, d)."""
    return x.reshape(images, -1, x.shape[-1])


def _grouped(kv: Tensor, plan: Plan) -> Tensor:
    """Put the keys and values (b, G R + n, 2 d) of the shared prefix before those of each group; (b G, U, 2 d)."""
    rows = plan.groups * plan.size
    prefix = kv[:, None, rows - plan.held :].expand(-1, plan.groups, -1, -1)  # (b, G, H + n, 2 d)
    own = kv[:, :rows].unflatten(1, (plan.groups, plan.size))  # (b, G, R, 2 d)
    return torch.cat([prefix, own], dim=2).flatten(0, 1)  # (b G, U, 2 d)


def _read(block: Block, x: Tensor, passing: Sequence[Tensor], plan: Plan, mask: Tensor) -> Tensor:
    """Compute the last block of x (b K, G R, d) for the EOT rows only; returns (b, c, d)."""
    images, width = len(x) // plan.copies, x.shape[-1]
    kv = keys_values(block, x, passing)  # (b K, G R + n, 2 d)
    k, v = split_heads(kv if plan.groups == 1 else _grouped(kv, plan), 2, block.heads)  # (b K G, H, U, e) each
    x = _rows(x, images)[:, plan.read].reshape(len(k), -1, width)  # (b K G, E, d)
    x = finish(block, x, attend(queries(block, x), k, v, mask))
    return _rows(x, images)[:, plan.eot]


def _fill(x: Tensor, plan: Plan, stacks: Sequence[TextStack], layer: int, position: Tensor) -> Tensor:
    """Put the tokens of a layer into their rows of x (b K, G R, d): in the suffixes, and where prefix tokens enter."""
    for group, rows in plan.prefix.items():
        if plan.enters(group, layer):
            tokens = _passing(
                plan.token_of(group), plan, cast(Tensor, stacks[group][layer]), None if layer else position
            )
            x = x.index_copy(1, rows, tokens.expand(len(x), -1, -1))
    for group, filled in plan.suffix.items():
        new = stacks[group][layer] if layer < len(stacks[group]) else None
        if new is not None:
            images = len(x) // plan.copies
            tokens = _tokens(new, filled)  # (b or 1, m, d)
            tokens = tokens if layer else tokens + position[filled.positions]
            x = _rows(x, images).index_copy(1, filled.rows, tokens.expand(images, -1, -1)).view_as(x)
    return x


def _tokens(tokens: Tensor, filled: Filled) -> Tensor:
    """Select the token of each filled row from (b, c, n, d); returns (b, m, d)."""
    of_class = filled.classes if tokens.shape[1] > 1 else torch.zeros_like(filled.classes)
    return tokens[:, of_class, filled.tokens]


def _passing(passing: Passing, plan: Plan, tokens: Tensor, position: Tensor | None) -> Tensor:
    """Select a group's prefix tokens from (b, 1, n, d), for each copy of the prefix; returns (b K or 1, n, d).

    Args:
        passing: which tokens.
        plan: the plan.
        tokens: the layer's tokens.
        position: the positional embedding (77, d) to add; None in all blocks but the first.
    """
    tokens = tokens.squeeze(1)  # (b, n, d)
    if passing.tokens is not None:
        tokens = tokens[:, passing.tokens]
    if position is not None:
        tokens = tokens + position[passing.positions]
    if len(tokens) == 1 or plan.copies == 1:
        return tokens
    return tokens[:, None].expand(-1, plan.copies, -1, -1).flatten(0, 1)  # (b K, n, d)
