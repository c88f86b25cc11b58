"""The base class of readers of a user's own images."""

from pathlib import Path
from typing import ClassVar

from dassl.data.datasets import Datum

from .base import Items
from .class_folders import list_folder
from .errors import DatasetError
from .images import UprightDatum, inspect_image
from .listed import ListedDataset

_DEEPEST = 3  # folder levels that are searched for images to explain a wrong --data


class OwnImages(ListedDataset):
    """A user's own images.

    Their folder is not written to, and they are shown upright (EXIF orientation).

    Splits and few-shot draws depend only on the images and the seed; they are saved in the output folder. Files of an
    earlier version next to the images are still read.
    """

    own_images = True
    datum: ClassVar[type[Datum]] = UprightDatum
    source = "your own images"

    def inspect(self, parts: dict[str, Items | None]) -> None:
        """Check the headers of all images that are used.

        Log how many have an EXIF orientation.

        Raises:
            OSError: a file is not an image.
            DatasetError: the range of an image's values is not defined.
        """
        turned = [path for path in paths_of(parts) if inspect_image(path)]
        if turned:
            self.remark(f"{self.folder}: applied the EXIF orientation of {len(turned)} images, such as {turned[0]}")

    def check_level(self) -> None:
        """Check that `DATASET.ROOT` is the folder of the class folders (or of train/ and test/).

        Raises:
            DatasetError: it is one level too high or too low; the message names the right folder if there is one.
        """
        folder = self.require()
        images, others = list_folder(folder)
        if images and not others.folders:
            raise DatasetError(
                f"{folder}: no class folders but {len(images)} images; expected {self._layout()}. If {folder.name} is one "
                f"of the classes, pass --data {folder.parent}"
            )
        below = [folder / name for name in others.folders]
        deeper = [] if any(list_folder(path)[0] for path in below) else [p for p in map(_with_classes, below) if p]
        if len(deeper) == 1 and deeper[0] != folder / "train":
            found = deeper[0].parent if deeper[0].name == "train" else deeper[0]
            raise DatasetError(
                f"{folder}: no images in its folders; expected {self._layout()}. --data (--root, DATASET.ROOT) is the "
                f"folder of the class folders itself: pass --data {found}"
            )
        if folder.name == "train" and (folder.parent / "test").is_dir():
            self.remark(
                f"{folder}: divided at random although {folder.parent / 'test'} exists; --data may be {folder.parent}"
            )

    def _layout(self) -> str:
        return " ".join(self.describe_layout()[:2])


def paths_of(parts: dict[str, Items | None]) -> list[str]:
    """Return the sorted paths of all images in lists of Datum."""
    return sorted({item.impath for items in parts.values() for item in items or ()})


def _with_classes(folder: Path) -> Path | None:
    """Return the nearest folder, `folder` or one below it, whose folders contain images."""
    level = [folder]
    for _ in range(_DEEPEST):
        below = []
        for path in level:
            inner = [path / name for name in sorted(list_folder(path)[1].folders, key=lambda name: name != "train")]
            if any(list_folder(other)[0] for other in inner):
                return path
            below += inner
        level = below
    return None
