"""Unlabelled images and a list of class names; `DATASET.ROOT` is their folder."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY

from ..base import Items
from ..class_folders import list_tree
from ..class_names import read_renaming
from ..errors import DatasetError
from ..own_images import OwnImages
from ..text_files import read_lines

_NAMES = "classnames.txt"


@DATASET_REGISTRY.register()
class UnlabelledFolder(OwnImages):
    """Images in a folder and all folders below it, for phase 1.

    `classnames.txt` has one class name per line.

    Class attributes:
        labelled: False: nothing can be trained with labels or tested on it.

    Raises:
        DatasetError: `DATASET.SUBSAMPLE_CLASSES` is not "all", there are no images, or an image or a class name
            is listed twice.
    """

    labelled = False
    split_in_use = "no split: unlabelled images"
    place = "in this folder or below"
    layout = ("<image>, also in folders below", f"{_NAMES} (one class name per line)")

    def __init__(self, cfg: Any) -> None:
        chosen = getattr(cfg.DATASET, "SUBSAMPLE_CLASSES", "all")
        if chosen != "all":
            raise DatasetError(
                f"DATASET.SUBSAMPLE_CLASSES (TRAINER.CASPL.CLASSES): {chosen}; expected all. Unlabelled images have no classes"
            )
        super().__init__(cfg)
        self._num_classes = len(self.names)
        self._lab2cname, self._classnames = dict(enumerate(self.names)), list(self.names)

    def read(self, root: Path) -> tuple[Items, Items | None, Items]:
        path = self.require(_NAMES)
        self.names = read_lines(path)
        if len(self.names) < 2 or len(set(self.names)) < len(self.names):
            raise DatasetError(f"{path}: {len(self.names)} names; expected two or more, each once, one per line")
        images = list_tree(self.folder, self.skipped, skip=(_NAMES,))
        if not images:
            raise DatasetError(f"{self.folder}: no images; expected files that Pillow reads, such as .jpg or .png")
        known: dict[str, str] = {}
        for image in images:
            if (first := known.setdefault(os.path.realpath(self.folder / image), image)) != image:
                raise DatasetError(
                    f"{self.folder}: {first} and {image} are the same file; expected each image once. Remove the link"
                )
        items = self.make_items(((image, 0, "") for image in images), self.folder)
        return items, None, items

    def read_all(self) -> tuple[Items, Items | None, Items]:
        """Return `read(root)`; the fingerprint covers the images and the class names."""
        parts = super().read_all()
        content = json.dumps([self.data_fingerprint, self.names])
        self.data_fingerprint = hashlib.sha256(content.encode()).hexdigest()
        return parts

    def _renamed(self, train: Items, val: Items | None, test: Items) -> tuple[Items, Items | None, Items]:
        new = read_renaming(Path(self.renaming_file).expanduser(), self.names)
        self.names = [new[name] for name in self.names]
        return train, val, test
