"""Texts as sequences of symbols: the id of a word token, or a `Slot` that a prompt group fills."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

ORDERS = ("boosting_first", "host_first")


class Slot(NamedTuple):
    """The placeholder for token `token` of prompt group `group`."""

    group: int
    token: int


Symbol = int | Slot


class ClassText(NamedTuple):
    """The sequence of one class without SOS, split before the class name.

    Attributes:
        name: the class name, for error messages.
        head: the symbols before the class name.
        tail: the class name and all following symbols, including EOT.
    """

    name: str
    head: tuple[Symbol, ...]
    tail: tuple[Symbol, ...]


def slots(group: int, tokens: int) -> tuple[Slot, ...]:
    """Return the slots of the tokens 0 to `tokens` - 1 of a group."""
    return tuple(Slot(group, token) for token in range(tokens))


def arrange(text: ClassText, boosting: Sequence[Slot], order: str) -> tuple[Symbol, ...]:
    """Insert the boosting prompt into a host's sequence (without SOS).

    Args:
        text: the host's sequence.
        boosting: the boosting prompt's slots.
        order: "boosting_first" inserts them at the start, where phase 1 trained them; "host_first" inserts them right
            before the class name, as the published code does (github.com/Martinser/CasPL).

    Raises:
        ValueError: the order is unknown.
    """
    if order == "boosting_first":
        return (*boosting, *text.head, *text.tail)
    if order == "host_first":
        return (*text.head, *boosting, *text.tail)
    raise ValueError(f"order: {order!r}; expected one of {', '.join(ORDERS)}")


def groups_of(symbols: Iterable[Symbol]) -> list[int]:
    """Return the sorted numbers of the groups that have slots among the symbols."""
    return sorted({symbol.group for symbol in symbols if isinstance(symbol, Slot)})


def group_of(symbol: Symbol) -> int | None:
    """Return the group of a slot; None for a word."""
    return symbol.group if isinstance(symbol, Slot) else None
