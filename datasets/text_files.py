"""Readers of text lists and JSON files."""

import json
import os
from pathlib import Path
from typing import Any

from .errors import DatasetError


def read_text(path: str | os.PathLike[str]) -> str:
    """Return the content of a UTF-8 text file, with or without a byte order mark.

    Raises:
        DatasetError: the file is not a regular file or not UTF-8.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise DatasetError(f"{path}: not a regular file; expected a text file. Replace it")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not UTF-8 ({error}); expected a text file. Save it as UTF-8") from error


def read_json(path: str | os.PathLike[str]) -> Any:
    """Return the content of a JSON file.

    Raises:
        DatasetError: the file is not JSON, for example truncated or an HTML error page, or is nested too deeply.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DatasetError(
            f"{path}: not JSON ({error}); expected a JSON file. Download it again or delete it"
        ) from error


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    """Return the stripped lines of a text file, without empty lines and comments (#)."""
    lines = (line.strip() for line in read_text(path).splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def read_pairs(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return {first word: rest of the line} of every line, in order ("n01440764 tench").

    A line that contains a tab is divided at the tab instead of the first space.

    Raises:
        DatasetError: a line does not have two parts, or a first part occurs twice.
    """
    pairs: dict[str, str] = {}
    for line in read_lines(path):
        key, _, value = (part.strip() for part in line.partition("\t" if "\t" in line else " "))
        if not value:
            raise DatasetError(f'{path}: line "{line[:80]}"; expected a folder name, a space or tab, and a class name')
        if key in pairs:
            raise DatasetError(f'{path}: "{key}" occurs twice; expected each folder name once. Delete one of the lines')
        pairs[key] = value
    return pairs
