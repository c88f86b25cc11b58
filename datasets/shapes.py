"""`Shapes`: the embedded default, rendered on first use; 36 classes, each a fill and a shape ("wavy star").

In the order of labels (alphabetical) the base half has the fills checkered, dotted and hollow, the new half
plain, striped and wavy; every shape is in both.
"""

import io
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY
from PIL import Image
from tqdm import tqdm

from .errors import DatasetError
from .listed import ListedDataset
from .render import COLOURS, TARGET, draw
from .splits import read_split

logger = logging.getLogger(__name__)

FILLS = ("checkered", "dotted", "hollow", "plain", "striped", "wavy")
SHAPES = ("circle", "cross", "heart", "square", "star", "triangle")
CLASSES = tuple(f"{fill} {shape}" for fill in FILLS for shape in SHAPES)  # the index is the label
SIZES = {"train": 60, "val": 8, "test": 60}  # pictures a class
SPLIT_FILE = "split_zhou_Shapes.json"
ABANDONED = 3600  # seconds after which a folder that is being rendered belongs to a run that was killed
SEED = 2024
QUALITY = 80  # of the JPEG files


@DATASET_REGISTRY.register()
class Shapes(ListedDataset):
    """Filled shapes in clutter, noise and odd light; `<DATASET.ROOT>/shapes` is rendered if it is missing."""

    dataset_dir = "shapes"
    layout = (SPLIT_FILE, "train/<fill>_<shape>/*.jpg, and so for val and test")
    source = "delete the folder, and it is rendered again (a few seconds)"

    def read(self, root):
        """See FewShotDataset.read; renders the pictures first if they are not there."""
        render_folder(self.folder)
        return super().read(root)

    def list_images(self):
        """See ListedDataset.list_images."""
        path = self.require(SPLIT_FILE)
        return read_split(path), path


def members(part: str) -> list[tuple[str, int, str]]:
    """(path, label, class name) of each picture of "train", "val" or "test"."""
    return [
        (f"{part}/{name.replace(' ', '_')}/{number:03d}.jpg", label, name)
        for label, name in enumerate(CLASSES)
        for number in range(SIZES[part])
    ]


def pictures(part: str) -> Iterator[Image.Image]:
    """The pictures of `members(part)`, in their order, rendered one by one."""
    colours = list(COLOURS)
    for label, name in enumerate(CLASSES):
        fill, shape = name.split()
        for number in range(SIZES[part]):
            colour = colours[(number + 3 * label) % len(colours)]
            seed = (SEED, list(SIZES).index(part), label, number)
            yield Image.fromarray(draw(fill, shape, colour, TARGET, seed))


def encode(picture: Image.Image) -> bytes:
    """The JPEG file of a picture."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def render_folder(folder: Path) -> None:
    """Render the dataset into `folder`, unless it is there already.

    It is rendered into a hidden folder beside it, which gets the name `folder` when everything is on disk: a
    killed run leaves nothing that looks complete, and of several runs at the same time the first one wins.

    Raises:
        DatasetError: `folder` exists and holds something else.
    """
    occupied = folder.exists() and any(folder.iterdir())
    if (folder / SPLIT_FILE).is_file():  # asked second: another run may be finishing just now
        return
    if occupied:
        raise DatasetError(
            f"{folder} exists but has no {SPLIT_FILE}: move or delete it, and Shapes is rendered in its place"
        )
    logger.info("Shapes: rendering the pictures into %s", folder)
    for left in folder.parent.glob(f".{folder.name}-rendering-*"):
        if time.time() - left.stat().st_mtime > ABANDONED:
            shutil.rmtree(left, ignore_errors=True)
    aside = folder.with_name(f".{folder.name}-rendering-{uuid.uuid4().hex}")
    try:
        _render(aside)
        aside.rename(folder)
    except OSError:
        if not (folder / SPLIT_FILE).is_file():  # else another run was faster, with the same pictures
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _render(folder):
    entries = {part: members(part) for part in SIZES}
    with tqdm(total=sum(map(len, entries.values())), desc="Rendering shapes", unit=" pictures", disable=None) as bar:
        for part, listed in entries.items():
            for (path, _, _), picture in zip(listed, pictures(part), strict=True):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(encode(picture))
                bar.update()
    (folder / SPLIT_FILE).write_text(json.dumps(entries), encoding="utf-8")
    for path in [folder, *folder.rglob("*")]:  # at the end, when most is on the disk anyway: this is faster
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
