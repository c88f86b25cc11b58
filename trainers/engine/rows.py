"""Suffixes of classes as rows without duplicates, and the mapping between rows and the positions of each class."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .symbols import Slot, Symbol, groups_of
from .tree import tree_of


class Rows(NamedTuple):
    """The suffixes of c classes as N rows.

    A common beginning of several suffixes is stored once.

    In a causal transformer a token depends only on the tokens before it. Classes that begin with the same words ("2012
    Audi A5", "2012 Audi TT") therefore share the rows of these words. Only attention, where each token sees the tokens of
    its class, uses the *grid*: c classes times S positions, where S is the length of the longest suffix. Positions after
    EOT are not computed.

    Attributes:
        words: (N,), word ids; 0 at slots.
        slots: for each group, (N,), the index of its token in this row; -1 in rows of other symbols.
        classes: (N,), the first class that contains the row.
        steps: (N,), the row's position in that class's suffix.
        of: (c * S,), the row at each position of the grid; the EOT's row after EOT.
        first: (N,), the first grid position of each row.
        again: the other grid positions of all rows, without those after EOT.
        eot: (c,), the row of each class's EOT.
        last: (c,), the EOT's position in the suffix.
    """

    words: Tensor
    slots: dict[int, Tensor]
    classes: Tensor
    steps: Tensor
    of: Tensor
    first: Tensor
    again: Tensor
    eot: Tensor
    last: Tensor


def rows_of(
    suffixes: Sequence[Sequence[Symbol]], distinct: Collection[int], classes: range, device: torch.device
) -> Rows:
    """Build the rows of some classes.

    Args:
        suffixes: the suffixes of all classes.
        distinct: groups with separate tokens for each class; their rows are never shared.
        classes: the classes to include.
        device: the device of the index tensors.
    """
    tree = tree_of(suffixes, distinct, classes)
    length = max(map(len, tree.paths))
    of = [row for path in tree.paths for row in (*path, *path[-1:] * (length - len(path)))]
    places = [number * length + step for number, path in enumerate(tree.paths) for step in range(len(path))]
    first_place = {of[place]: place for place in reversed(places)}
    first = [first_place[row] for row in range(len(tree.symbols))]
    again = sorted(set(places) - set(first))

    def tensor(values: Iterable[int]) -> Tensor:
        return torch.tensor(list(values), dtype=torch.long, device=device)

    return Rows(
        words=tensor(0 if isinstance(symbol, Slot) else symbol for symbol in tree.symbols),
        slots={group: tensor(_tokens(tree.symbols, group)) for group in groups_of(tree.symbols)},
        classes=tensor(classes[place // length] for place in first),
        steps=tensor(place % length for place in first),
        of=tensor(of),
        first=tensor(first),
        again=tensor(again),
        eot=tensor(path[-1] for path in tree.paths),
        last=tensor(len(path) - 1 for path in tree.paths),
    )


def _tokens(symbols: Sequence[Symbol], group: int) -> list[int]:
    return [symbol.token if isinstance(symbol, Slot) and symbol.group == group else -1 for symbol in symbols]


def spread(x: Tensor, rows: Rows) -> Tensor:
    """Scatter rows (..., N, d) to all their grid positions (..., c, S, d).

    Positions after EOT repeat the EOT's row; the caller must mask them.
    """
    length = len(rows.of) // len(rows.eot)
    return _Spread.apply(x, rows.of, rows.first, rows.again).unflatten(-2, (-1, length))


def pick(x: Tensor, rows: Rows) -> Tensor:
    """Gather rows (..., N, d) from their first grid positions in x (..., c, S, d).

    All positions of a row are equal.
    """
    return _Pick.apply(x.flatten(-3, -2), rows.first)


class _Spread(torch.autograd.Function):
    """Scatter rows to the grid.

    Nearly every row has a single position, so the backward pass is a copy plus a few additions; PyTorch's backward pass
    of `index_select` performs one addition per position.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, of: Tensor, first: Tensor, again: Tensor) -> Tensor:
        ctx.save_for_backward(of, first, again)
        return x.index_select(-2, of)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        of, first, again = ctx.saved_tensors
        total = grad.index_select(-2, first)
        if len(again):
            total.index_add_(-2, of[again], grad.index_select(-2, again))
        return total, None, None, None


class _Pick(torch.autograd.Function):
    """Gather rows from the grid; every position is read at most once, so the backward pass copies into zeros."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, first: Tensor) -> Tensor:
        ctx.save_for_backward(first)
        ctx.shape = x.shape
        return x.index_select(-2, first)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (first,) = ctx.saved_tensors
        return grad.new_zeros(ctx.shape).index_copy_(-2, first, grad), None
