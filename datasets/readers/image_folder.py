"""A user's own images in class folders; `DATASET.ROOT` is the folder with the images."""

from collections.abc import Sequence
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY

from ..class_folders import list_classes, list_images
from ..errors import DatasetError
from ..own_images import OwnImages
from ..splits import PARTS, Split
from ..text_files import read_pairs

_CLASSNAMES = 'classnames.txt (optional: "<class folder> <class name>" per line; a tab if folder names contain spaces)'
_KEPT = ("split_fewshot",)


@DATASET_REGISTRY.register()
class ImageFolder(OwnImages):
    """Class folders of a user's own images.

    They are in train/, test/ and optionally val/, or all in one folder, which is then divided.

    Labels count the class folders in alphabetical order. A class is named after its folder unless `classnames.txt`
    renames it. The division (50 % train, 20 % val, 30 % test of each class) is made once and saved.
    """

    layout = (
        "train/<class>/<image>, test/<class>/<image>, and optionally val/<class>/<image>, or <class>/<image>, to be divided "
        "into the three",
        _CLASSNAMES,
    )

    def list_split(self) -> tuple[Split, Path]:
        self.check_level()
        if not self._is_divided():
            names = self._names(list_classes(self.folder, skip=_KEPT))
            return {"all": list_images(self.folder, names, self.skipped)}, self.folder
        found = [part for part in PARTS if (self.folder / part).is_dir()]
        unused = set(list_classes(self.folder, skip=_KEPT)) - set(found)
        if unused:
            self.remark(f"{self.folder}: read {found}; did not read the other folders: {sorted(unused)}")
        names = self._names(sorted({name for part in found for name in list_classes(self.folder / part)}))
        return {part: list_images(self.folder, names, self.skipped, below=part) for part in found}, self.folder

    def _is_divided(self) -> bool:
        """Return whether train/ contains folders ("train" may also be a class); then test/ is required."""
        train = self.folder / "train"
        if not (train.is_dir() and any(path.is_dir() for path in train.iterdir())):
            return False
        self.require("test")
        return True

    def _names(self, folders: Sequence[str]) -> dict[str, str]:
        path = self.folder / "classnames.txt"
        if not path.exists():
            return {folder: folder for folder in folders}
        names = read_pairs(path)
        for folder in folders:
            if folder not in names:
                raise DatasetError(f'{path}: no class name for the folder "{folder}"; expected a line per class folder')
        owners: dict[str, str] = {}
        for folder in folders:
            if owners.setdefault(names[folder], folder) != folder:
                raise DatasetError(
                    f'{path}: the folders "{owners[names[folder]]}" and "{folder}" get the same class name '
                    f'"{names[folder]}"; expected distinct names'
                )
        return {folder: names[folder] for folder in folders}
