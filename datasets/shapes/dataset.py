"""The base class of datasets that are rendered on first use."""

import io
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from PIL import Image
from tqdm import tqdm

from ..base import Items
from ..class_folders import Entry
from ..errors import DatasetError
from ..facts import Facts
from ..listed import ListedDataset
from ..splits import PARTS, Split, read_split
from .rendering import TARGET, Domain, render

logger = logging.getLogger(__name__)

ABANDONED = 3600  # seconds after which a partly rendered folder is taken to belong to a killed run
QUALITY = 80  # of the JPEG files

Choices = tuple[Sequence[str], Sequence[str], Sequence[str]]  # possible fills, shapes and colours of a class


class RenderedDataset(ListedDataset):
    """Images of shapes.

    `<DATASET.ROOT>/<dataset_dir>` is rendered if it does not exist.

    Class attributes:
        classes: {class name: (fills, shapes, colours)} in the order of labels; the images of a class cycle through each
            of the three tuples.
        sizes: {"train"|"val"|"test": images per class}; without "train", the dataset is a test set whose images are
            also train_x, for the class names, and are not drawn from.
        domain: the images' appearance.
        seed: of all images.
    """

    facts = Facts(licence="Apache-2.0")
    classes: ClassVar[Mapping[str, Choices]] = {}
    sizes: ClassVar[Mapping[str, int]] = {}
    domain: ClassVar[Domain] = TARGET
    seed = 0
    split_in_use = "rendered"
    source = "this package: delete the folder, and `caspl data fetch` renders it again"

    def describe_layout(self) -> Sequence[str]:
        first = next(iter(self.classes)).replace(" ", "_")
        return self.split_file(), *(f"{part}/<class, such as {first}>/*.jpg" for part in self.sizes)

    @classmethod
    def expected_counts(cls) -> dict[str, int | None]:
        """Return the declared {"classes"|"train"|"val"|"test": number}."""
        return {"classes": len(cls.classes), **{part: n * len(cls.classes) for part, n in cls.sizes.items()}}

    def read(self, root: Path) -> tuple[Items, Items | None, Items]:
        self.render_folder(self.folder)
        if "train" in self.sizes:
            return super().read(root)
        images = self.make_items(read_split(self.require(self.split_file()))["test"], self.folder)
        return images, None, images

    def list_split(self) -> tuple[Split, Path]:
        path = self.require(self.split_file())
        return read_split(path), path

    @classmethod
    def split_file(cls) -> str:
        """Return the split's file name."""
        return f"split_zhou_{cls.__name__}.json"

    @classmethod
    def members(cls, part: str) -> list[Entry]:
        """Return (path, label, class name) of each image of "train", "val" or "test"."""
        return [
            (f"{part}/{name.replace(' ', '_')}/{number:03d}.jpg", label, name)
            for label, name in enumerate(cls.classes)
            for number in range(cls.sizes.get(part, 0))
        ]

    @classmethod
    def images(cls, part: str) -> Iterator[Image.Image]:
        """Render the images of `members(part)` one by one, in their order."""
        for label, possible in enumerate(cls.classes.values()):
            for number in range(cls.sizes.get(part, 0)):
                fill, shape, colour = (values[(number + 3 * label) % len(values)] for values in possible)
                seed = (cls.seed, PARTS.index(part), label, number)
                yield Image.fromarray(render(fill, shape, colour, cls.domain, seed))

    @classmethod
    def render_folder(cls, folder: Path) -> None:
        """Render the dataset into `folder` unless it exists.

        A hidden folder next to it is renamed to `folder` when all files are on disk: a killed run leaves nothing that
        looks complete, and the first of several concurrent runs wins.

        Raises:
            DatasetError: `folder` contains other files.
        """
        split = folder / cls.split_file()
        occupied = folder.exists() and any(folder.iterdir())
        if split.is_file():  # tested after `occupied`: a concurrent run may finish in between
            return
        if occupied:
            raise DatasetError(
                f"{folder}: contains files but no {split.name}; expected a folder rendered by {cls.__name__}. Move or "
                "delete it to render it again"
            )
        logger.info("%s: rendering the images into %s", cls.__name__, folder)
        _remove_abandoned(folder)
        hidden = folder.with_name(f".{folder.name}-rendering-{uuid.uuid4().hex}")
        try:
            cls._render(hidden)
            hidden.rename(folder)
        except OSError:
            if not split.is_file():  # a concurrent run has finished first, with the same images
                raise
        finally:
            shutil.rmtree(hidden, ignore_errors=True)

    @classmethod
    def _render(cls, folder: Path) -> None:
        entries = {part: cls.members(part) for part in PARTS}
        total = sum(map(len, entries.values()))
        with tqdm(total=total, desc=f"Rendering {cls.dataset_dir}", unit=" images", disable=None) as bar:
            for part, listed in entries.items():
                for (path, _, _), image in zip(listed, cls.images(part), strict=True):
                    (folder / path).parent.mkdir(parents=True, exist_ok=True)
                    (folder / path).write_bytes(encode(image))
                    bar.update()
        (folder / cls.split_file()).write_text(json.dumps(entries), encoding="utf-8")
        _flush(folder)


def _remove_abandoned(folder: Path) -> None:
    for left in folder.parent.glob(f".{folder.name}-rendering-*"):
        if time.time() - left.stat().st_mtime > ABANDONED:
            shutil.rmtree(left, ignore_errors=True)


def _flush(folder: Path) -> None:
    """Flush all files below a folder to disk: once at the end, which is faster than after every file."""
    if os.name != "posix":  # elsewhere, folders cannot be opened
        return
    for path in [folder, *folder.rglob("*")]:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def encode(image: Image.Image) -> bytes:
    """Return the JPEG file of an image."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
