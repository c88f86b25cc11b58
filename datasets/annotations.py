"""Helpers for the annotation files that come with datasets: space-separated fields, class lists, Matlab files."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import DatasetError
from .text_files import read_lines


def read_fields(path: Path, count: int) -> list[list[str]]:
    """Return the space-separated fields of every line.

    Args:
        path: a text file.
        count: the number of fields in every line.

    Raises:
        DatasetError: a line has another number of fields.
    """
    rows = [line.split() for line in read_lines(path)]
    for row in rows:
        if len(row) != count:
            raise DatasetError(f'{path}: "{" ".join(row)}" has {len(row)} fields; expected {count}')
    return rows


def label_number(text: str, path: Path) -> int:
    """Convert a label that counts from 1 to one that counts from 0.

    Raises:
        DatasetError: `text`, found in `path`, is not a positive whole number.
    """
    if not text.isdecimal() or not 0 < len(text) < 10 or int(text) < 1:
        raise DatasetError(f'{path}: label "{text[:20]}"; expected 1, 2, 3, …')
    return int(text) - 1


def look_up(labels: Mapping[str, int], name: str, path: Path, names: str) -> int:
    """Return the label of a class.

    Args:
        labels: {class name: label}, read from the file `names`.
        name: a class name, found in `path`.

    Raises:
        DatasetError: the class is unknown.
    """
    if name not in labels:
        raise DatasetError(f'{path}: class "{name}"; expected a class of {names}')
    return labels[name]


def read_matlab(path: Path, variable: str) -> Any:
    """Return a variable of a Matlab file.

    Raises:
        DatasetError: SciPy is not installed, or the file is not a Matlab file with such a variable.
    """
    try:
        from scipy.io import loadmat  # imported here: only needed if the published split is missing
    except ImportError as error:
        raise DatasetError(
            f"{path}: reading it needs SciPy. Run pip install scipy, or download the published split file"
        ) from error
    with parsing(path, f'a Matlab file with "{variable}"'):
        return loadmat(path)[variable]


@contextlib.contextmanager
def parsing(path: Path, expected: str) -> Iterator[None]:
    """Turn whatever a damaged file makes the block raise into one error.

    Raises:
        DatasetError: the block has raised an exception.
    """
    try:
        yield
    except (DatasetError, OSError):
        raise
    except Exception as error:  # SciPy and NumPy report damage with many exception types
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise DatasetError(f"{path}: not {expected} ({reason}). Download it again") from error
