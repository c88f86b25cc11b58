"""The text tower: a stock CLIP text transformer with groups of prompt tokens among the words."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .blocks import KeysValues, StockModule, attend, attend_once, finish, join, keys_values, queries_keys_values
from .layout import TextLayout
from .prompts import Stack, check_stacks
from .rows import Rows, pick, spread

QueriesKeysValues = tuple[Tensor, Tensor, Tensor]


def encode_text(
    model: StockModule, layout: TextLayout, stacks: Sequence[Stack] = (), chunk: int | None = None
) -> Tensor:
    """Text features of a stock CLIP with prompt groups, read at EOT.

    Tokens of layer 0 get the positional embedding of the place where they stand; at the input of block i, 0 < i <
    depth, a group's tokens are replaced by its layer i, without positional embedding; from block `depth` on they are
    carried like any other token (IVLP and MaPLe, github.com/muzairkhattak/multimodal-prompt-learning).

    The causal mask makes the shared prefix blind to the class, so all suffixes attend to one prefix' keys and values; and
    what several suffixes begin with is the same for them. Nothing behind EOT can reach it, so nothing behind it is computed.

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
    stacks = [[_as_batch_class(tokens) for tokens in stack] for stack in stacks]
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


def _check_slots(layout: TextLayout, stacks: Sequence[Stack]) -> None:
    for group, need in layout.needed.items():
        have = stacks[group][0].shape[-2] if group < len(stacks) and len(stacks[group]) else 0
        if need > have:
            raise ValueError(
                f"the text layout has places for {need} tokens of prompt group {group}, but the group has {have}: build "
                "the layout with the number of text tokens that the group really has (0 if its text depth is 0)"
            )
        classes, distinct = max(tokens.shape[1] for tokens in stacks[group]), group in layout.distinct
        if classes > 1 and not (distinct and classes == len(layout)):
            raise ValueError(
                f"prompt group {group} has tokens for {classes} classes of its own, but the text layout has "
                f"{len(layout)} classes, which {'differ' if distinct else 'do not differ'} in it: build the "
                "layout for these classes, and name the group in its `distinct`"
            )


def _run(model: StockModule, layout: TextLayout, stacks: Sequence[Stack], rows: Rows) -> Tensor:
    """Features (b, c, E) of the classes whose suffixes are `rows`.

    The prefix and all suffixes are rows of one tensor, (b, P + N, d): only attention tells them apart. Of the prefix
    there are only those tokens that somebody reads later (at the positions `at`); tokens which the next block replaces
    give keys and values and are done.
    """
    blocks = model.transformer.resblocks
    suffixes = _Suffixes(rows, len(layout.prefix))
    position = model.positional_embedding.to(model.text_projection.dtype)
    at = layout.prefix_places
    batch = max([1, *(len(tokens) for stack in stacks for tokens in stack)])
    x = join([_embed(model, layout.prefix_words)[None] + position[at], suffixes.enter(model, stacks)], batch)
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
                x, at = join([x[:, : len(at)], tokens, x[:, len(at) :]], batch), torch.cat([at, places])
        x = suffixes.replace(x, stacks, i)
        if last:
            break
        visible = at[:, None] >= torch.cat([at, *passing_at])[None]
        offers = [keys_values(block, tokens) for tokens in passing]
        x = finish(block, x, suffixes.attend(queries_keys_values(block, x), offers, visible))
    x = suffixes.ask(block, x)
    return model.ln_final(x).to(x.dtype) @ model.text_projection.to(x.dtype)


def _embed(model: StockModule, words: Tensor) -> Tensor:
    return model.token_embedding(words).to(model.text_projection.dtype)


class _Suffixes:
    """What happens to the suffixes: the last N rows of all.

    Args:
        rows: which they are.
        start: P, the position where they begin.
    """

    def __init__(self, rows: Rows, start: int):
        self.rows, self.start, self.count = rows, start, len(rows.words)

    def enter(self, model: StockModule, stacks: Sequence[Stack]) -> Tensor:
        """(b, N, d): words and layer-0 tokens, at their positions."""
        position = model.positional_embedding.to(model.text_projection.dtype)
        return self._put(_embed(model, self.rows.words)[None], stacks, 0) + position[self.start + self.rows.steps]

    def replace(self, x: Tensor, stacks: Sequence[Stack], layer: int) -> Tensor:
        """Put the groups' tokens of one layer into all rows x (b, P + N, d), where the suffixes have places for them."""
        if layer == 0 or not any(layer < len(stacks[group]) for group in self.rows.slots):
            return x
        prefix, own = self.split(x)
        return join([prefix, self._put(own, stacks, layer)], len(x))

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """(..., P + N, d) -> (..., P, d), (..., N, d)"""
        return x.split([x.shape[-2] - self.count, self.count], dim=-2)

    def _put(self, x: Tensor, stacks: Sequence[Stack], layer: int) -> Tensor:
        for group, slot in self.rows.slots.items():
            if layer >= len(stacks[group]):
                continue
            tokens, classes = stacks[group][layer].to(x.dtype), self.rows.classes
            of_class = classes if tokens.shape[1] > 1 else torch.zeros_like(classes)
            x = torch.where((slot >= 0)[:, None], tokens[:, of_class, slot.clamp(min=0)], x)
        return x

    def attend(self, all_rows: QueriesKeysValues, offers: list[KeysValues], visible: Tensor) -> Tensor:
        """The prefix attends to itself, each suffix to the prefix and to itself.

        Args:
            all_rows: queries, keys and values, (b, H, P + N, e) each.
            offers: keys and values of the prefix' other tokens.
            visible: (P, U), True where a query of the prefix sees a key of the prefix, those of `offers` included.

        Returns:
            (b, P + N, d)
        """
        (q, own_q), (k, own_k), (v, own_v) = map(self.split, all_rows)
        k, v = (join([one, *others], len(q)) for one, *others in zip((k, v), *offers, strict=True))
        own_q, own_k, own_v = (spread(x, self.rows) for x in (own_q * own_q.shape[-1] ** -0.5, own_k, own_v))
        own = pick(self._attend_both(own_q, own_k, own_v, k, v), self.rows)
        return torch.cat([attend(q, k, v, visible), own.transpose(1, 2).flatten(-2)], dim=1)

    def _attend_both(self, q: Tensor, k: Tensor, v: Tensor, prefix_k: Tensor, prefix_v: Tensor) -> Tensor:
        """Attention of the suffixes over the prefix, which they share, and over themselves (causal).

        The shared keys and values are multiplied as they are, never repeated for each class.

        Args:
            q, k, v: (b, H, c, S, e), q scaled.
            prefix_k, prefix_v: (b, H, P, e)

        Returns:
            (b, H, c, S, e)
        """
        length = q.shape[-2]
        hidden = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
        own = (q @ k.transpose(-2, -1)).masked_fill(hidden, float("-inf"))
        shared = (q.flatten(2, 3) @ prefix_k.transpose(-2, -1)).unflatten(2, (-1, length))
        weights = torch.cat([shared, own], dim=-1).softmax(dim=-1).to(v.dtype)
        of_prefix, of_own = weights.split([shared.shape[-1], length], dim=-1)
        return (of_prefix.flatten(2, 3) @ prefix_v).view_as(q) + of_own @ v

    def ask(self, block: StockModule, x: Tensor) -> Tensor:
        """(b, c, d): the tokens at EOT behind the last block, for all rows x (b, P + N, d)."""
        prefix, own = self.split(x)
        asking, sources = own.index_select(1, self.rows.eot), spread(own, self.rows)
        visible = torch.arange(sources.shape[-2], device=x.device) <= self.rows.last[:, None]
        return finish(block, asking, attend_once(block, asking, [prefix[:, None], sources], visible))
