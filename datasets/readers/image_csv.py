"""A user's own images, listed in a CSV file; `DATASET.ROOT` is the folder with the file."""

import csv
import os
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY

from ..errors import DatasetError
from ..listed import ListedDataset
from ..splits import PARTS, Split
from ..text_files import read_text


@DATASET_REGISTRY.register()
class ImageCSV(ListedDataset):
    """`images.csv` with the columns path, classname and optionally split (train, val or test).

    Paths are absolute or relative to the CSV file's folder. Labels count the class names in alphabetical order. Without
    the column split, the images are divided as in ImageFolder.
    """

    split_in_use = "images.csv"
    layout = ("images.csv (comma-separated; first line: path,classname,split or path,classname)",)
    source = "your own images"

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
    reader = csv.DictReader(read_text(path).splitlines(), skipinitialspace=True)
    columns = {_plain(name): name for name in reader.fieldnames or ()}
    if not {"path", "classname"} <= set(columns):
        raise DatasetError(f"{path}: columns {list(columns.values())}; expected path,classname[,split]")
    rows = []
    for row in reader:
        values = [(row[columns[key]] or "").strip() for key in ("path", "classname", "split") if key in columns]
        image, name, part = values if "split" in columns else (*values, "all")
        valid = part in PARTS if "split" in columns else True
        if not image or not name or not valid or None in row:  # None: more fields than columns
            raise DatasetError(
                f"{path}, line {reader.line_num}: {values}; expected a path, a class name"
                + (" and one of train, val, test" if "split" in columns else "")
            )
        rows.append((os.path.normpath(image), name, part))
    return rows


def _plain(column: str) -> str:
    """Return a column's name without case, spaces and underscores: "Class name" becomes "classname"."""
    return column.lower().replace(" ", "").replace("_", "")
