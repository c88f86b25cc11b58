"""The text tower: a stock CLIP text transformer with groups of prompt tokens among the words."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .blocks import KeysValues, StockModule, attend, attend_once, finish, join, keys_values, queries_keys_values
from .layout import Parts, TextLayout
from .prompts import Stack, check_stacks

QueriesKeysValues = tuple[Tensor, Tensor, Tensor]


def encode_text(
    model: StockModule, layout: TextLayout, stacks: Sequence[Stack] = (), chunk: int | None = None
) -> Tensor:
    """Text features of a stock CLIP with prompt groups, read at EOT.

    Tokens of layer 0 get the positional embedding of the place where they stand; at the input of block i, 0 < i <
    depth, a group's tokens are replaced by its layer i, without positional embedding; from block `depth` on they are
    carried like any other token (IVLP and MaPLe, github.com/muzairkhattak/multimodal-prompt-learning).

    The causal mask makes the shared prefix blind to the class, so all suffixes attend to one prefix' keys and values.
    Nothing behind EOT can reach it, so nothing behind it is computed.

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
        features = [_run(model, layout, stacks, layout.parts)]
    else:
        pieces = [[(classes, length)] for part, length in layout.parts for classes in part.split(chunk)]
        features = [_run_again_in_backward(model, layout, stacks, piece) for piece in pieces]
    return torch.cat(features, dim=1).index_select(1, layout.place)


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


def _run(model: StockModule, layout: TextLayout, stacks: Sequence[Stack], parts: Parts) -> Tensor:
    """Features (b, C', E) of the classes of `parts`, one part behind the other.

    The prefix and all suffixes are rows of one tensor, (b, P + N, d): only attention tells them apart. Of the prefix
    there are only those tokens that somebody reads later (at the positions `at`); tokens which the next block replaces
    give keys and values and are done.
    """
    blocks = model.transformer.resblocks
    suffixes = _Suffixes(layout, parts)
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
        x = suffixes.replace(x, len(at), stacks, i)
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
    """The suffixes of some classes, one behind the other: N tokens, those included that pad each part to its longest.

    In all that follows they are the last N of the rows.
    """

    def __init__(self, layout: TextLayout, parts: Parts):
        self.layout, self.parts = layout, parts
        self.sizes = [len(classes) * length for classes, length in parts]
        device = layout.eot.device
        self.classes = torch.cat([classes.repeat_interleave(length) for classes, length in parts])
        self.steps = torch.cat([torch.arange(length, device=device).repeat(len(classes)) for classes, length in parts])

    def enter(self, model: StockModule, stacks: Sequence[Stack]) -> Tensor:
        """(b, N, d): words and layer-0 tokens, at their positions."""
        position = model.positional_embedding.to(model.text_projection.dtype)
        x = _embed(model, self.layout.words[self.classes, self.steps])[None]
        return self._put(x, stacks, 0) + position[len(self.layout.prefix) + self.steps]

    def replace(self, x: Tensor, start: int, stacks: Sequence[Stack], layer: int) -> Tensor:
        """Put the groups' tokens of one layer into x (b, start + N, d), where the suffixes have places for them."""
        if layer == 0 or not any(layer < len(stacks[group]) for group in self.layout.groups):
            return x
        return join([x[:, :start], self._put(x[:, start:], stacks, layer)], len(x))

    def _put(self, x: Tensor, stacks: Sequence[Stack], layer: int) -> Tensor:
        for group in self.layout.groups:
            if layer >= len(stacks[group]):
                continue
            slot, tokens = self.layout.slot(group)[self.classes, self.steps], stacks[group][layer].to(x.dtype)
            of_class = self.classes if tokens.shape[1] > 1 else torch.zeros_like(self.classes)
            x = torch.where((slot >= 0)[:, None], tokens[:, of_class, slot.clamp(min=0)], x)
        return x

    def attend(self, own: QueriesKeysValues, offers: list[KeysValues], visible: Tensor) -> Tensor:
        """The prefix attends to itself, each suffix to the prefix and to itself.

        Args:
            own: queries, keys and values of the P + N rows, (b, H, P + N, e) each.
            offers: keys and values of the prefix' other tokens.
            visible: (P, U), True where a query of the prefix sees a key of the prefix, those of `offers` included.

        Returns:
            (b, P + N, d)
        """
        sizes = [len(visible), sum(self.sizes)]
        (q, q_own), (k, k_own), (v, v_own) = (rows.split(sizes, dim=-2) for rows in own)
        k, v = (join([one, *others], len(q)) for one, *others in zip((k, v), *offers, strict=True))
        return torch.cat([attend(q, k, v, visible), self._attend_both(q_own, k_own, v_own, k, v)], dim=1)

    def _attend_both(self, q: Tensor, k: Tensor, v: Tensor, prefix_k: Tensor, prefix_v: Tensor) -> Tensor:
        """Attention of the suffixes over the prefix, which they share, and over themselves (causal).

        The shared keys and values are multiplied as they are, never repeated for each class.

        Args:
            q, k, v: (b, H, N, e)
            prefix_k, prefix_v: (b, H, P, e)

        Returns:
            (b, N, d)
        """
        q = q * q.shape[-1] ** -0.5
        shared = q @ prefix_k.transpose(-2, -1)
        by_part = (rows.split(self.sizes, dim=2) for rows in (q, k, v, shared))
        of_prefix, seen = [], []
        for (_, length), *rows in zip(self.parts, *by_part, strict=True):
            weights, own = _attend_own(*(part.unflatten(2, (-1, length)) for part in rows))
            of_prefix.append(weights.flatten(2, 3))
            seen.append(own.flatten(2, 3))
        out = torch.cat(of_prefix, dim=2) @ prefix_v + torch.cat(seen, dim=2)
        return out.transpose(1, 2).flatten(-2)

    def ask(self, block: StockModule, x: Tensor) -> Tensor:
        """(b, C', d): the tokens at EOT behind the last block, for rows x (b, P + N, d)."""
        prefix, *own = x.split([x.shape[1] - sum(self.sizes), *self.sizes], dim=1)
        asking, seen = [], []
        for (classes, length), rows in zip(self.parts, own, strict=True):
            rows, eot = rows.unflatten(1, (-1, length)), self.layout.eot[classes]
            visible = torch.arange(length, device=eot.device) <= eot[:, None]
            asking.append(rows[:, torch.arange(len(eot), device=eot.device), eot])
            seen.append(attend_once(block, asking[-1], [prefix[:, None], rows], visible))
        return finish(block, torch.cat(asking, dim=1), torch.cat(seen, dim=1))


def _attend_own(q: Tensor, k: Tensor, v: Tensor, shared: Tensor) -> tuple[Tensor, Tensor]:
    """Attention of one part, where the scores of the prefix are known.

    Args:
        q, k, v: (b, H, c, S, e), q scaled.
        shared: (b, H, c, S, P), scores of the prefix.

    Returns:
        the prefix' weights (b, H, c, S, P), and what is seen of the own suffix (b, H, c, S, e).
    """
    length = q.shape[-2]
    hidden = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
    own = (q @ k.transpose(-2, -1)).masked_fill(hidden, float("-inf"))
    weights = torch.cat([shared, own], dim=-1).softmax(dim=-1).to(v.dtype)
    of_prefix, of_own = weights.split([shared.shape[-1], length], dim=-1)
    return of_prefix, of_own @ v
