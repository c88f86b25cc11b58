"""A class's text as *symbols*: the id of a word's token, or a `Slot` that a prompt group fills; and their order."""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple, TypeGuard

ORDERS = ("boosting_first", "host_first")


class Slot(NamedTuple):
    """Place of token `token` of prompt group `group`."""

    group: int
    token: int


Symbol = int | Slot


class ClassText(NamedTuple):
    """One class's sequence, without SOS, cut just ahead of the class name.

    Attributes:
        name: the class name, for messages.
        head: what stands ahead of the class name.
        tail: the class name and all that follows, EOT included.
    """

    name: str
    head: tuple[Symbol, ...]
    tail: tuple[Symbol, ...]


def slots(group: int, tokens: int) -> tuple[Slot, ...]:
    """The slots of all `tokens` tokens of a group, in order."""
    return tuple(Slot(group, token) for token in range(tokens))


def arrange(text: ClassText, boosting: Sequence[Slot], order: str) -> tuple[Symbol, ...]:
    """Put the boosting prompt into a host's sequence (without SOS).

    `boosting_first`: ahead of everything the host has, where phase 1 trained it. `host_first`: right ahead of the class
    name, behind whatever the host has there (the published code's layout, github.com/Martinser/CasPL).

    Raises:
        ValueError: another order.
    """
    if order == "boosting_first":
        return (*boosting, *text.head, *text.tail)
    if order == "host_first":
        return (*text.head, *boosting, *text.tail)
    raise ValueError(f"TRAINER.CASPL.TEXT_ORDER is {order!r}, expected one of {', '.join(ORDERS)}")


def groups_of(symbols: Iterable[Symbol]) -> list[int]:
    """The groups that have slots there."""
    return sorted({symbol.group for symbol in symbols if isinstance(symbol, Slot)})


def is_in(symbol: Symbol, groups: Collection[int]) -> TypeGuard[Slot]:
    """Whether the symbol is a slot of one of those groups."""
    return isinstance(symbol, Slot) and symbol.group in groups
