"""The text tower: a stock CLIP text transformer with groups of prompt tokens among the words."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .blocks import KeysValues, StockModule, attend, attend_once, finish, join, keys_values, queries_keys_values
from .layout import TextLayout
from .prompts import TextStack, check_stacks
from .rows import Rows, pick, spread

QueriesKeysValues = tuple[Tensor, Tensor, Tensor]


def encode_text(
    model: StockModule, layout: TextLayout, stacks: Sequence[TextStack] = (), chunk: int | None = None
) -> Tensor:
    """Encode the texts of all classes with a stock CLIP and prompt groups.

    Tokens of layer 0 get the positional embedding of their position. At the input of block i, 0 < i < depth, the tokens
    of a group are replaced by its layer i, without positional embedding. From block `depth` on they are carried like any
    other token (IVLP and MaPLe, github.com/muzairkhattak/multimodal-prompt-learning). A layer of None carries the tokens
    as well, so that tokens can be replaced at the input of any later block (TCP, arXiv 2311.18231).

    Under the causal mask the shared prefix does not depend on the class, so it is computed once and all suffixes attend
    to its keys and values. A common beginning of several suffixes is computed once, and tokens after EOT not at all.

    Args:
        model: `clip.model.CLIP`.
        layout: the sequences of C classes.
        stacks: the layers of each group, (n, d) each; or (b, c, n, d), where b is the number of images with separate
            tokens (CoCoOp) or 1, and c is C for separate tokens per class (CoOp's class-specific context) or 1. A layer
            other than the first may be None in a group that is `distinct` in the layout.
        chunk: number of classes to compute at once; None computes all. In training each chunk is recomputed in the
            backward pass, so peak memory is that of one chunk.

    Returns:
        (b, C, E), read at EOT, not normalised.

    Raises:
        ValueError: a stack is deeper or wider than the text tower, or its tokens do not match the layout.
    """
    stacks = [[None if tokens is None else _as_batch_class(tokens) for tokens in stack] for stack in stacks]
    check_stacks(stacks, len(model.transformer.resblocks), model.ln_final.weight.shape[0], "text")
    _check_slots(layout, stacks)
    if chunk is None:
        return _run(model, layout, stacks, layout.rows())
    pieces = [range(len(layout))[start : start + chunk] for start in range(0, len(layout), chunk)]
    return torch.cat([_run_again_in_backward(model, layout, stacks, layout.rows(piece)) for piece in pieces], dim=1)


def _run_again_in_backward(*work) -> Tensor:
    return checkpoint(_run, *work, use_reentrant=False) if torch.is_grad_enabled() else _run(*work)


def _as_batch_class(tokens: Tensor) -> Tensor:
    return tokens[None, None] if tokens.dim() == 2 else tokens


def _check_slots(layout: TextLayout, stacks: Sequence[TextStack]) -> None:
    for group, need in layout.needed.items():
        stack = stacks[group] if group < len(stacks) else []
        have = stack[0].shape[-2] if stack and stack[0] is not None else 0
        if need > have:
            raise ValueError(
                f"prompt group {group}: {have} text tokens; expected {need}, the slots of the text layout. Build the "
                "layout with the group's number of text tokens (0 for a text depth of 0)"
            )
        classes = max(tokens.shape[1] for tokens in stack if tokens is not None)
        distinct = group in layout.distinct
        if not distinct and any(tokens is None for tokens in stack):
            raise ValueError(
                f"prompt group {group}: a layer of None; expected tokens in all layers of a group that classes share. Build "
                "the layout with this group in `distinct`"
            )
        if classes > 1 and not (distinct and classes == len(layout)):
            raise ValueError(
                f"prompt group {group}: separate tokens for {classes} classes; expected "
                + (f"{len(layout)}, the classes of the text layout" if distinct else "tokens shared by all classes")
                + ". Build the layout for these classes, with this group in `distinct`"
            )


def _run(model: StockModule, layout: TextLayout, stacks: Sequence[TextStack], rows: Rows) -> Tensor:
    """Encode the classes of `rows`; returns (b, c, E).

    The prefix and all suffixes are rows of one tensor (b, P + N, d); only attention distinguishes them. The prefix part
    holds the tokens that a later block reads, at the positions `at`. Tokens that the next block replaces contribute
    keys and values only.
    """
    blocks = model.transformer.resblocks
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
            tokens = stacks[group][i][:, 0, index].to(x.dtype)  # (b, n, d)
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
            tokens, classes = stacks[group][layer].to(x.dtype), self.rows.classes  # (b, c, n, d), (N,)
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
