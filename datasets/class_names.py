"""Class names: those that a model cannot tell apart, and other names from a file."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from .errors import DatasetError
from .text_files import read_json, read_pairs

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


def read_renaming(path: Path, names: Sequence[str]) -> dict[str, str]:
    """Read new class names.

    Args:
        path: a JSON file {old name: new name}, or a text file with an old name, a tab and a new name per line.
        names: the class names of the dataset.

    Returns:
        {old name: new name} of all classes; classes that the file does not contain keep their names.

    Raises:
        DatasetError: the file is invalid, contains a class that does not exist, or gives two classes the same name.
    """
    if not path.is_file():
        raise DatasetError(f"DATASET.CLASSNAMES: {path} is not a file; expected a file of old and new class names")
    new = read_json(path) if path.suffix == ".json" else read_pairs(path)
    if not isinstance(new, dict) or not all(isinstance(name, str) and name.strip() for name in new.values()):
        raise DatasetError(f"{path}: expected {{old class name: new class name}}")
    unknown = [name for name in new if name not in names]
    if unknown:
        raise DatasetError(f'{path}: no class has the name "{unknown[0]}"; expected names such as "{names[0]}"')
    renamed = {name: new.get(name, name).strip() for name in names}
    owners: dict[str, str] = {}
    for old, name in renamed.items():
        if owners.setdefault(name, old) != old:
            raise DatasetError(f'{path}: the classes "{owners[name]}" and "{old}" get the same name "{name}"')
    return renamed
