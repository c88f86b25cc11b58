"""The text tower: a stock CLIP text transformer with groups of prompt tokens among the words."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .blocks import StockModule, attend, attend_once, finish, join, keys_values, queries_keys_values
from .layout import TextLayout
from .prompts import Stack, check_stacks

KeysValues = tuple[Tensor, Tensor]


class Prefix(NamedTuple):
    """What the suffixes read of the prefix.

    Attributes:
        offers: keys and values (b, H, P, e) at every block but the last.
        tokens: (b, P, d) as they enter the last block.
    """

    offers: list[KeysValues]
    tokens: Tensor


def encode_text(
    model: StockModule, layout: TextLayout, stacks: Sequence[Stack] = (), chunk: int | None = None
) -> Tensor:
    """Text features of a stock CLIP with prompt groups, read at EOT.

    Tokens of layer 0 get the positional embedding of the place where they stand; at the input of block i, 0 < i <
    depth, a group's tokens are replaced by its layer i, without positional embedding; from block `depth` on they are
    carried like any other token (IVLP and MaPLe, github.com/muzairkhattak/multimodal-prompt-learning).

    The causal mask makes the shared prefix blind to the class, so it runs once; the suffixes attend to its keys and
    values. Nothing behind EOT can reach it, so nothing behind it is computed.

    Args:
        model: `clip.model.CLIP`.
        layout: where the tokens of C classes stand.
        stacks: for each group, its layers: (n, d); or (b, c, n, d), with b images that have tokens of their own (CoCoOp)
            and c classes that do (CoOp's class-specific context), each 1 where that is not so.
        chunk: how many classes to compute at a time; in training the chunks are computed again in the backward pass, so
            that the memory is that of one chunk. None: all at once.

    Returns:
        (b, C, E), not normalised.

    Raises:
        ValueError: the stacks do not fit the tower (see `check_stacks`) or the layout.
    """
    blocks = model.transformer.resblocks
    stacks = [[_as_batch_class(tokens) for tokens in stack] for stack in stacks]
    check_stacks(stacks, len(blocks), model.ln_final.weight.shape[0], "text")
    _check_slots(layout, stacks)
    prefix = _run_prefix(model, layout, stacks)
    features = []
    for number, length in enumerate(layout.lengths):
        for classes in layout.part(number).split(chunk or len(layout)):
            work = (model, layout, stacks, prefix, classes, length)
            if chunk and torch.is_grad_enabled():
                features.append(checkpoint(_run_suffix, *work, use_reentrant=False))
            else:
                features.append(_run_suffix(*work))
    return torch.cat(features, dim=1).index_select(1, layout.place) if len(features) > 1 else features[0]


def _as_batch_class(tokens: Tensor) -> Tensor:
    return tokens[None, None] if tokens.dim() == 2 else tokens


def _check_slots(layout: TextLayout, stacks: Sequence[Stack]) -> None:
    for group, need in layout.needed.items():
        have = stacks[group][0].shape[-2] if group < len(stacks) and len(stacks[group]) else 0
        if need > have:
            raise ValueError(
                f"the text layout has places for {need} tokens of prompt group {group}, but the group has {have}: build "
                "the layout with the number of text tokens that the group really has (0 if its text depth is 0)"
            )


def _embed(model: StockModule, words: Tensor) -> Tensor:
    return model.token_embedding(words).to(model.text_projection.dtype)


def _run_prefix(model: StockModule, layout: TextLayout, stacks: Sequence[Stack]) -> Prefix:
    """What the shared prefix offers at every block.

    Only tokens that somebody reads later pass through a block whole (`x`, at the positions `at`); tokens which the next
    block replaces give keys and values and are done.
    """
    blocks = model.transformer.resblocks
    at = layout.prefix_places
    x = _embed(model, layout.prefix_words)[None]
    position = model.positional_embedding.to(x.dtype)
    x = x + position[at]
    offers = []
    for i, block in enumerate(blocks):
        last = i + 1 == len(blocks)
        passing, passing_at = [], []
        for group in layout.prefix_groups:
            if i >= len(stacks[group]):
                continue
            index, places = layout.prefix_slots(group)
            tokens = stacks[group][i][:, 0, index].to(x.dtype)
            if i == 0:
                tokens = tokens + position[places]
            if i + 1 < len(stacks[group]) and not last:
                passing.append(tokens)
                passing_at.append(places)
            else:
                x, at = _append(x, tokens), torch.cat([at, places])
        if last:
            break
        q, *own = queries_keys_values(block, x)
        parts = [own, *(keys_values(block, tokens) for tokens in passing)]
        batch = max(len(k) for k, _ in parts)
        k, v = (join(list(part), batch) for part in zip(*parts, strict=True))
        offers.append((k, v))
        visible = at[:, None] >= torch.cat([at, *passing_at])[None]
        x = finish(block, x, attend(q.expand(batch, -1, -1, -1), k, v, visible))
    return Prefix(offers, x)


def _append(x: Tensor, tokens: Tensor) -> Tensor:
    batch = max(len(x), len(tokens))
    return torch.cat([x.expand(batch, -1, -1), tokens.expand(batch, -1, -1)], dim=1)


def _run_suffix(
    model: StockModule,
    layout: TextLayout,
    stacks: Sequence[Stack],
    prefix: Prefix,
    classes: Tensor,
    length: int,
) -> Tensor:
    """Features (b, c, E) of `classes` with at most `length` tokens, given what the prefix offers at every block."""
    words, eot = layout.words[classes, :length], layout.eot[classes]
    rows, steps = torch.arange(len(words), device=eot.device), torch.arange(length, device=eot.device)
    start = len(layout.prefix)
    x = _embed(model, words)[None]
    last = len(prefix.offers)
    for i, block in enumerate(model.transformer.resblocks):
        x = _replace(x, layout, stacks, i, classes)
        if i == 0:
            x = x + model.positional_embedding[start : start + length].to(x.dtype)
        if i < last:
            q, k, v = queries_keys_values(block, x)
            x = finish(block, x, _attend_both(q, k, v, prefix.offers[i], steps[:, None] >= steps))
    asking = x[:, rows, eot]
    seen = attend_once(block, asking, [prefix.tokens[:, None], x], eot[:, None] >= steps)
    x = finish(block, asking, seen)
    return model.ln_final(x).to(x.dtype) @ model.text_projection.to(x.dtype)


def _replace(x: Tensor, layout: TextLayout, stacks: Sequence[Stack], layer: int, classes: Tensor) -> Tensor:
    """Put the groups' tokens of one layer into x (b, c, S, d), where the suffix has places for them."""
    for group in layout.groups:
        if layer >= len(stacks[group]):
            continue
        slot, tokens = layout.slot(group)[classes, : x.shape[2]], stacks[group][layer].to(x.dtype)
        index = slot.clamp(min=0)
        if tokens.shape[1] == 1:
            tokens = tokens[:, 0, index]
        else:
            tokens = tokens[:, classes].take_along_dim(index[None, :, :, None], dim=2)
        x = torch.where((slot >= 0)[..., None], tokens, x)
    return x


def _attend_both(q: Tensor, k: Tensor, v: Tensor, offer: KeysValues, visible: Tensor) -> Tensor:
    """Attention of the suffixes over the prefix, which they share, and over themselves.

    The shared keys and values are multiplied as they are, never repeated for each class.

    Args:
        q: (b, c, H, Q, e); k, v: (b, c, H, S, e).
        offer: the prefix' keys and values, (b, H, P, e) each.
        visible: (Q, S), True where a query sees a key of its own suffix.

    Returns:
        (b, c, Q, d)
    """
    prefix_k, prefix_v = offer
    q = (q * q.shape[-1] ** -0.5).transpose(1, 2)
    k, v = k.transpose(1, 2), v.transpose(1, 2)
    shape = q.shape[2:4]
    shared = (q.flatten(2, 3) @ prefix_k.transpose(-2, -1)).unflatten(2, shape)
    own = (q @ k.transpose(-2, -1)).masked_fill(~visible, float("-inf"))
    batch = max(len(shared), len(own))
    scores = torch.cat([shared.expand(batch, *shared.shape[1:]), own.expand(batch, *own.shape[1:])], dim=-1)
    of_prefix, of_own = scores.softmax(dim=-1).to(v.dtype).split([shared.shape[-1], own.shape[-1]], dim=-1)
    out = (of_prefix.flatten(2, 3) @ prefix_v).unflatten(2, shape) + of_own @ v
    return out.permute(0, 2, 3, 1, 4).flatten(-2)
