"""The suffixes of some classes as rows to compute, and the way from them to every class's own places and back."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .symbols import Slot, Symbol, groups_of, is_in


class Rows(NamedTuple):
    """The suffixes of c classes as N rows to compute: what several of them begin with is there once.

    A token of a causal transformer depends on what stands ahead of it, and on nothing else. So classes that begin alike
    ("2012 Audi A5", "2012 Audi TT") share these tokens' rows; only attention, where each token sees those of its own
    class, needs the *grid*: every class with its own S places, S being the longest suffix. Behind EOT nothing is computed.

    Attributes:
        words: (N,) ids of the words, 0 at slots.
        slots: for each group, (N,) index of its token that stands there, -1 where another does.
        classes: (N,) the class where the row first stands; steps: (N,) its place in that class's suffix.
        of: (c * S,) the row at each place of the grid; behind a class's EOT, that of the EOT.
        first: (N,) the first place of each row; again: its other places, those behind EOT left out.
        eot: (c,) the row of each class's EOT; last: (c,) its place in the suffix.
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
    """The rows of some of the classes whose suffixes these are; tokens of the groups `distinct` are never shared."""
    length = max(len(suffixes[number]) for number in classes)
    known: dict[tuple, int] = {}  # the row of a symbol that stands behind a row
    symbols: list[Symbol] = []
    of: list[int] = []
    first: list[int] = []
    again: list[int] = []
    eot: list[int] = []
    for number in classes:
        row = -1
        for symbol in suffixes[number]:
            key = row, symbol, number if is_in(symbol, distinct) else None
            (again if key in known else first).append(len(of))
            if key not in known:
                known[key] = len(known)
                symbols.append(symbol)
            row = known[key]
            of.append(row)
        of.extend([row] * (-len(of) % length))
        eot.append(row)

    def tensor(values: Iterable[int]) -> Tensor:
        return torch.tensor(list(values), dtype=torch.long, device=device)

    return Rows(
        words=tensor(0 if isinstance(symbol, Slot) else symbol for symbol in symbols),
        slots={g: tensor(s.token if is_in(s, [g]) else -1 for s in symbols) for g in groups_of(symbols)},
        classes=tensor(classes[place // length] for place in first),
        steps=tensor(place % length for place in first),
        of=tensor(of),
        first=tensor(first),
        again=tensor(again),
        eot=tensor(eot),
        last=tensor(len(suffixes[number]) - 1 for number in classes),
    )


def spread(x: Tensor, rows: Rows) -> Tensor:
    """(..., N, d) rows -> (..., c, S, d), each in all of its places; behind EOT, where nobody may look, stands EOT again."""
    length = len(rows.of) // len(rows.eot)
    return _Spread.apply(x, rows.of, rows.first, rows.again).unflatten(-2, (-1, length))


def pick(x: Tensor, rows: Rows) -> Tensor:
    """(..., c, S, d) -> (..., N, d): each row from the first of its places, which are all alike."""
    return _Pick.apply(x.flatten(-3, -2), rows.first)


class _Spread(torch.autograd.Function):
    """Nearly every row has one place, so the gradient is a copy and a few sums (PyTorch's own is a sum for every place)."""

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
    """No place is picked twice, so the gradient is a copy among zeros."""

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
