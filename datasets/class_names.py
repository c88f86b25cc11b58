"""Class names that a model cannot tell apart."""

from collections.abc import Callable, Iterable, Sequence

Encode = Callable[[str], Iterable[int]]  # a text to its token ids


def indistinguishable(names: Sequence[str], encode: Encode) -> list[list[str]]:
    """Group class names whose token sequences are identical.

    Args:
        names: the class names; underscores count as spaces, as in prompts.
        encode: the tokenizer of the backbone, for one text.
    Returns:
        groups of two or more names; empty if all names differ.
    """
    groups: dict[tuple[int, ...], list[str]] = {}
    for name in names:
        groups.setdefault(tuple(map(int, encode(name.replace("_", " ")))), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def describe(groups: list[list[str]]) -> str:
    """Return groups of names in one line, at most three of them."""
    shown = "; ".join(" and ".join(f'"{name}"' for name in group) for group in groups[:3])
    return shown + (f"; and {len(groups) - 3} more" if len(groups) > 3 else "")
