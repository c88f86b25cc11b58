"""Your own images: a class-folder tree, or a CSV. `DATASET.ROOT` is the folder with the images."""

import csv
import logging
import os

from dassl.data.datasets import DATASET_REGISTRY

from .errors import DatasetError
from .files import read_pairs, read_text
from .folders import class_folders, list_classes
from .listed import ListedDataset

logger = logging.getLogger(__name__)

PARTS = ("train", "val", "test")
_CLASSNAMES = 'classnames.txt (optional: "<class folder> <class name>" a line; a tab where folder names have spaces)'


@DATASET_REGISTRY.register()
class ImageFolder(ListedDataset):
    """Class folders: in train/, test/ and, if you like, val/; or all in one folder, which is then divided.

    Labels count the class folders in alphabetical order. A class is called like its folder, or as
    `classnames.txt` says. The division (50 % train, 20 % val, 30 % test of each class) is made once and
    kept in `split_own.json`.
    """

    layout = (
        "train/<class>/<image>, test/<class>/<image>, and val/<class>/<image> if you like,",
        "or <class>/<image>, to be divided into the three",
        _CLASSNAMES,
    )
    source = "your own images"

    def list_images(self):
        """See ListedDataset."""
        if not self._is_divided():
            names = self._names(list_classes(self.folder, skip=("split_fewshot",)))
            return {"all": class_folders(self.folder, names)}, self.folder
        found = [part for part in PARTS if (self.folder / part).is_dir()]
        unused = set(list_classes(self.folder, skip=("split_fewshot",))) - set(found)
        if unused:
            logger.warning("%s: beside %s, these folders are not read: %s", self.folder, found, sorted(unused))
        names = self._names(sorted({name for part in found for name in list_classes(self.folder / part)}))
        return {part: class_folders(self.folder, names, below=part) for part in found}, self.folder

    def _is_divided(self):
        """Whether there are train/ and test/ with class folders in them ("train" may also be a class)."""
        train = self.folder / "train"
        if not (train.is_dir() and any(path.is_dir() for path in train.iterdir())):
            return False
        self.require("test")
        return True

    def _names(self, folders):
        path = self.folder / "classnames.txt"
        if not path.is_file():
            return {folder: folder for folder in folders}
        names = read_pairs(path)
        for folder in folders:
            if folder not in names:
                raise DatasetError(f'{path} has no class name for the folder "{folder}"')
        return {folder: names[folder] for folder in folders}


@DATASET_REGISTRY.register()
class ImageCSV(ListedDataset):
    """`images.csv` with the columns path, classname and, if you like, split (train, val or test).

    Paths are relative to the CSV's folder, or absolute. Labels count the class names in alphabetical order.
    Without the column split the images are divided like ImageFolder's.
    """

    split_in_use = "images.csv"
    layout = ("images.csv (comma-separated; first line: path,classname,split or path,classname)",)
    source = "your own images"

    def list_images(self):
        """See ListedDataset."""
        path = self.require("images.csv")
        rows = _read_csv(path)
        labels = {name: label for label, name in enumerate(sorted({name for _, name, _ in rows}))}
        parts = {}
        for image, name, part in rows:
            parts.setdefault(part, []).append((image, labels[name], name))
        if "all" not in parts:
            parts.setdefault("train", [])
            parts.setdefault("test", [])
        return parts, path


def _read_csv(path):
    """Rows (path, class name, part); part is "all" where the file has no column split."""
    reader = csv.DictReader(read_text(path).splitlines(), skipinitialspace=True)
    columns = {_plain(name): name for name in reader.fieldnames or ()}
    if not {"path", "classname"} <= set(columns):
        raise DatasetError(f"{path} has the columns {list(columns.values())}: expected path,classname[,split]")
    rows = []
    for row in reader:
        values = [(row[columns[key]] or "").strip() for key in ("path", "classname", "split") if key in columns]
        image, name, part = values if "split" in columns else (*values, "all")
        fitting = part in PARTS if "split" in columns else True
        if not image or not name or not fitting or None in row:  # None: more fields than columns
            raise DatasetError(
                f"{path}, line {reader.line_num}: {values} should be a path, a class name"
                + (" and one of train, val, test" if "split" in columns else "")
            )
        rows.append((os.path.normpath(image), name, part))
    return rows


def _plain(column):
    """A column's name without case, spaces and underscores: "Class name" is "classname"."""
    return column.lower().replace(" ", "").replace("_", "")
