"""Class names that a model cannot tell apart."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

Tokenize = Callable[[list[str]], Iterable[Any]]


def indistinguishable(names: Sequence[str], tokenize: Tokenize) -> list[list[str]]:
    """Group class names whose token sequences are identical.

    Args:
        names: the class names; underscores count as spaces, as in prompts.
        tokenize: the backbone's tokenizer: a list of texts to a sequence of token sequences (lists, arrays or tensors).
    Returns:
        groups of two or more names; empty if all names differ.
    """
    groups: dict[tuple[int, ...], list[str]] = {}
    tokens = tokenize([name.replace("_", " ") for name in names])
    for name, sequence in zip(names, tokens, strict=True):
        groups.setdefault(tuple(int(token) for token in sequence), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def describe(groups: list[list[str]]) -> str:
    """Return groups of names in one line, at most three of them."""
    shown = "; ".join(" and ".join(f'"{name}"' for name in group) for group in groups[:3])
    return shown + (f"; and {len(groups) - 3} more" if len(groups) > 3 else "")
