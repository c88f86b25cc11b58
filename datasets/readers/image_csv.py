"""A user's own images, listed in a CSV file; `DATASET.ROOT` is the folder with the file."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY

from ..errors import DatasetError
from ..own_images import OwnImages
from ..splits import PARTS, Split
from ..text_files import read_text

_COLUMNS = ("path", "classname", "split")


@DATASET_REGISTRY.register()
class ImageCSV(OwnImages):
    """`images.csv` with the columns path, classname and optionally split (train, val or test).

    Paths are absolute or relative to the CSV file's folder. Labels count the class names in alphabetical order. Without
    the column split, the images are divided as in ImageFolder.
    """

    split_in_use = "images.csv"
    layout = ("images.csv (comma-separated; first line: path,classname,split or path,classname)",)

    def list_split(self) -> tuple[Split, Path]:
        path = self.require("images.csv")
        rows = _read_csv(path)
        labels = {name: label for label, name in enumerate(sorted({name for _, name, _ in rows}))}
        parts: Split = {}
        for image, name, part in rows:
            parts.setdefault(part, []).append((image, labels[name], name))
        if "all" not in parts:
            parts.setdefault("train", [])
            parts.setdefault("test", [])
        return parts, path


def _read_csv(path: Path) -> list[tuple[str, str, str]]:
    """Return rows (path, class name, part); part is "all" if the file has no column split."""
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), skipinitialspace=True, strict=True)
    try:
        columns = _columns(path, reader.fieldnames or ())
        return [_values(path, row, columns, reader.line_num) for row in reader]
    except csv.Error as error:
        raise DatasetError(
            f"{path}, line {reader.line_num}: {error}; expected comma-separated fields, quotes in pairs, and at most "
            f"{csv.field_size_limit()} characters per field"
        ) from error


def _columns(path: Path, header: Sequence[str]) -> dict[str, str]:
    """Return {column of this format: its name in the file}."""
    columns: dict[str, str] = {}
    for name in header:
        column = _plain(name)
        if column in columns and column in _COLUMNS:
            raise DatasetError(
                f'{path}: the columns "{columns[column]}" and "{name}" both mean {column}; expected one. Rename the other'
            )
        columns.setdefault(column, name)
    if not {"path", "classname"} <= set(columns):
        raise DatasetError(f"{path}: columns {list(header)}; expected path,classname[,split]")
    return {column: columns[column] for column in _COLUMNS if column in columns}


def _values(path: Path, row: dict[Any, Any], columns: dict[str, str], line: int) -> tuple[str, str, str]:
    values = {column: (row[name] or "").strip() for column, name in columns.items()}
    part = values.get("split", "all")
    valid = part in PARTS or "split" not in columns
    if not values["path"] or not values["classname"] or not valid or None in row:  # None: more fields than columns
        shown = [value[:60] for value in values.values()]
        split = " and one of train, val, test" if "split" in columns else ""
        raise DatasetError(f"{path}, line {line}: {shown}; expected a path, a class name{split}")
    return os.path.normpath(values["path"]), values["classname"], part


def _plain(column: str) -> str:
    """Return a column's name without case, spaces and underscores: "Class name" becomes "classname"."""
    return column.lower().replace(" ", "").replace("_", "")
