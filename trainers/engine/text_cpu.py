"""The text tower with few operations, for CPUs.

The keys and values of the prefix are multiplied with the queries of all suffixes without being repeated, and each
suffix attends to its own tokens only.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from .blocks import KeysValues, attend, attend_once, finish, join, keys_values, queries_keys_values
from .kernels import StockModule
from .layout import TextLayout
from .prompts import TextStack
from .rows import Rows, pick, spread

QueriesKeysValues = tuple[Tensor, Tensor, Tensor]


def encode(model: StockModule, layout: TextLayout, stacks: Sequence[TextStack], classes: range | None) -> Tensor:
    """Encode some of the classes.

    The prefix and all suffixes are rows of one tensor (b, P + N, d); only attention distinguishes them. The prefix part
    holds the tokens that a later block reads, at the positions `at`. Tokens that the next block replaces contribute
    keys and values only.

    Args:
        model: `clip.model.CLIP`.
        layout: the sequences of C classes.
        stacks: the layers of each group, (b, c, n, d) each (see `text.encode_text`).
        classes: the classes to encode; None encodes all.

    Returns:
        (b, c, E), not normalised.
    """
    blocks, rows = model.transformer.resblocks, layout.rows(classes)
    suffixes = _Suffixes(rows, len(layout.prefix))
    position = model.positional_embedding.to(model.text_projection.dtype)
    at = layout.prefix_places
    batch = max([1, *(len(tokens) for stack in stacks for tokens in stack if tokens is not None)])
    words = _embed(model, layout.prefix_words)[None] + position[at]  # (1, P, d)
    x = join([words, suffixes.enter(model, stacks)], batch)  # (b, P + N, d)
    for i, block in enumerate(blocks):
        last = i + 1 == len(blocks)
        passing, passing_at = [], []
        for group in layout.prefix_groups:
            if i >= len(stacks[group]):
                continue
            index, places = layout.prefix_slots(group)
            tokens = cast(Tensor, stacks[group][i])[:, 0, index].to(x.dtype)  # (b, n, d)
            if i == 0:
                tokens = tokens + position[places]
            if i + 1 < len(stacks[group]) and not last:
                passing.append(tokens)
                passing_at.append(places)
            else:
                x, at = join([x[:, : len(at)], tokens, x[:, len(at) :]], batch), torch.cat([at, places])
        x = suffixes.replace(x, stacks, i)
        if last:
            break
        visible = at[:, None] >= torch.cat([at, *passing_at])[None]
        offers = [keys_values(block, tokens) for tokens in passing]
        x = finish(block, x, suffixes.attend(queries_keys_values(block, x), offers, visible))
    x = suffixes.read_eot(block, x)  # (b, c, d)
    return model.ln_final(x).to(x.dtype) @ model.text_projection.to(x.dtype)


def _embed(model: StockModule, words: Tensor) -> Tensor:
    return model.token_embedding(words).to(model.text_projection.dtype)


def _has_tokens(stack: TextStack, layer: int) -> bool:
    return layer < len(stack) and stack[layer] is not None


class _Suffixes:
    """Operations on the suffixes, which are the last N rows.

    Args:
        rows: the suffixes' rows.
        start: P, the position of the first suffix token.
    """

    def __init__(self, rows: Rows, start: int):
        self.rows, self.start, self.count = rows, start, len(rows.words)

    def enter(self, model: StockModule, stacks: Sequence[TextStack]) -> Tensor:
        """Embed words and layer-0 tokens at their positions; returns (b, N, d)."""
        position = model.positional_embedding.to(model.text_projection.dtype)
        return self._put(_embed(model, self.rows.words)[None], stacks, 0) + position[self.start + self.rows.steps]

    def replace(self, x: Tensor, stacks: Sequence[TextStack], layer: int) -> Tensor:
        """Replace the suffixes' prompt tokens in x (b, P + N, d) by those of a layer."""
        if layer == 0 or not any(_has_tokens(stacks[group], layer) for group in self.rows.slots):
            return x
        prefix, own = self.split(x)
        return join([prefix, self._put(own, stacks, layer)], len(x))

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """Split (..., P + N, d) into the prefix (..., P, d) and the suffixes (..., N, d)."""
        return x.split([x.shape[-2] - self.count, self.count], dim=-2)

    def _put(self, x: Tensor, stacks: Sequence[TextStack], layer: int) -> Tensor:
        for group, slot in self.rows.slots.items():
            if not _has_tokens(stacks[group], layer):
                continue
            tokens, classes = cast(Tensor, stacks[group][layer]).to(x.dtype), self.rows.classes  # (b, c, n, d), (N,)
            of_class = classes if tokens.shape[1] > 1 else torch.zeros_like(classes)
            x = torch.where((slot >= 0)[:, None], tokens[:, of_class, slot.clamp(min=0)], x)  # (b, N, d)
        return x

    def attend(self, all_rows: QueriesKeysValues, offers: list[KeysValues], visible: Tensor) -> Tensor:
        """Compute attention of the prefix over itself, and of each suffix over the prefix and itself.

        Args:
            all_rows: queries, keys and values, (b, H, P + N, e) each.
            offers: keys and values of the prefix tokens that are not rows.
            visible: (P, U), True where a query of the prefix sees a key of the prefix, including those of `offers`.

        Returns:
            (b, P + N, d)
        """
        (q, own_q), (k, own_k), (v, own_v) = map(self.split, all_rows)
        k, v = (join([one, *others], len(q)) for one, *others in zip((k, v), *offers, strict=True))  # (b, H, U, e)
        own_q, own_k, own_v = (spread(x, self.rows) for x in (own_q * own_q.shape[-1] ** -0.5, own_k, own_v))
        own = pick(self._attend_both(own_q, own_k, own_v, k, v), self.rows)  # (b, H, N, e)
        return torch.cat([attend(q, k, v, visible), own.transpose(1, 2).flatten(-2)], dim=1)

    def _attend_both(self, q: Tensor, k: Tensor, v: Tensor, prefix_k: Tensor, prefix_v: Tensor) -> Tensor:
        """Compute attention of the suffixes over the shared prefix and, causally, over themselves.

        The prefix keys and values are not repeated for each class.

        Args:
            q, k, v: (b, H, c, S, e); q is scaled.
            prefix_k, prefix_v: (b, H, U, e)

        Returns:
            (b, H, c, S, e)
        """
        length = q.shape[-2]
        hidden = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
        own = (q @ k.transpose(-2, -1)).masked_fill(hidden, float("-inf"))  # (b, H, c, S, S)
        shared = (q.flatten(2, 3) @ prefix_k.transpose(-2, -1)).unflatten(2, (-1, length))  # (b, H, c, S, U)
        weights = torch.cat([shared, own], dim=-1).softmax(dim=-1).to(v.dtype)
        of_prefix, of_own = weights.split([shared.shape[-1], length], dim=-1)
        return (of_prefix.flatten(2, 3) @ prefix_v).view_as(q) + of_own @ v

    def read_eot(self, block: StockModule, x: Tensor) -> Tensor:
        """Compute the last block for the EOT tokens only.

        Args:
            block: the last block.
            x: (b, P + N, d), all rows at its input.

        Returns:
            (b, c, d)
        """
        prefix, own = self.split(x)
        eot, sources = own.index_select(1, self.rows.eot), spread(own, self.rows)  # (b, c, d), (b, c, S, d)
        visible = torch.arange(sources.shape[-2], device=x.device) <= self.rows.last[:, None]  # (c, S)
        return finish(block, eot, attend_once(block, eot, [prefix[:, None], sources], visible))
