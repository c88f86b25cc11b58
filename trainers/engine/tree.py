"""The prefix tree of class suffixes: a common beginning of several suffixes is one path."""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from .symbols import Slot, Symbol


class Tree(NamedTuple):
    """The suffixes of some classes as a prefix tree with N nodes.

    Parents precede their children.

    Attributes:
        symbols: the symbol of each node.
        paths: for each class, its nodes from the first symbol to EOT.
    """

    symbols: list[Symbol]
    paths: list[list[int]]


def tree_of(suffixes: Sequence[Sequence[Symbol]], distinct: Collection[int], classes: Iterable[int]) -> Tree:
    """Build the prefix tree of some classes.

    Args:
        suffixes: the suffixes of all classes.
        distinct: groups with separate tokens for each class; a path that contains one is not shared from there on.
        classes: the classes to include.
    """
    nodes: dict[tuple, int] = {}  # (parent, symbol, class if distinct) -> node
    symbols: list[Symbol] = []
    paths: list[list[int]] = []
    for number in classes:
        path: list[int] = []
        for symbol in suffixes[number]:
            owner = number if isinstance(symbol, Slot) and symbol.group in distinct else None
            key = path[-1] if path else -1, symbol, owner
            if key not in nodes:
                nodes[key] = len(symbols)
                symbols.append(symbol)
            path.append(nodes[key])
        paths.append(path)
    return Tree(symbols, paths)
