"""Datasets that are rendered on first use: a subclass declares classes, sizes, domain and seed."""

import io
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from .errors import DatasetError
from .listed import ListedDataset, datums
from .render import TARGET, draw
from .splits import read_split

logger = logging.getLogger(__name__)

PARTS = ("train", "val", "test")
ABANDONED = 3600  # seconds after which a folder that is being rendered belongs to a run that was killed
QUALITY = 80  # of the JPEG files


class RenderedDataset(ListedDataset):
    """Pictures of shapes; `<DATASET.ROOT>/<dataset_dir>` is rendered if it is missing.

    Class attributes:
        classes: {class name: (fill, shape, colour)} in the order of labels. A picture of the class takes each of
            these from the tuple of possibilities that stands there, in turn.
        sizes: {"train"|"val"|"test": pictures a class}; without "train" it is a test set only, whose pictures also
            stand as train_x, for the class names, and are not drawn from.
        domain: what the pictures look like, a `render.Domain`.
        seed: of all pictures.
    """

    classes = {}
    sizes = {}
    domain = TARGET
    seed = 0
    split_in_use = "rendered"
    source = "delete the folder, and it is rendered again (a few seconds)"

    @property
    def layout(self):
        """See FewShotDataset."""
        first = next(iter(self.classes)).replace(" ", "_")
        return self.split_file(), *(f"{part}/<class, such as {first}>/*.jpg" for part in self.sizes)

    def read(self, root):
        """See FewShotDataset.read; renders the pictures first if they are not there."""
        self.render_folder(self.folder)
        if "train" in self.sizes:
            return super().read(root)
        images = datums(read_split(self.require(self.split_file()))["test"], self.folder)
        return images, None, images

    def list_images(self):
        """See ListedDataset.list_images."""
        path = self.require(self.split_file())
        return read_split(path), path

    @classmethod
    def split_file(cls) -> str:
        """The split's file name."""
        return f"split_zhou_{cls.__name__}.json"

    @classmethod
    def members(cls, part: str) -> list[tuple[str, int, str]]:
        """(path, label, class name) of each picture of "train", "val" or "test"."""
        return [
            (f"{part}/{name.replace(' ', '_')}/{number:03d}.jpg", label, name)
            for label, name in enumerate(cls.classes)
            for number in range(cls.sizes.get(part, 0))
        ]

    @classmethod
    def pictures(cls, part: str) -> Iterator[Image.Image]:
        """The pictures of `members(part)`, in their order, rendered one by one."""
        for label, possible in enumerate(cls.classes.values()):
            for number in range(cls.sizes.get(part, 0)):
                fill, shape, colour = (values[(number + 3 * label) % len(values)] for values in possible)
                seed = (cls.seed, PARTS.index(part), label, number)
                yield Image.fromarray(draw(fill, shape, colour, cls.domain, seed))

    @classmethod
    def render_folder(cls, folder: Path) -> None:
        """Render the dataset into `folder`, unless it is there already.

        It is rendered into a hidden folder beside it, which gets the name `folder` when everything is on disk: a
        killed run leaves nothing that looks complete, and of several runs at the same time the first one wins.

        Raises:
            DatasetError: `folder` exists and holds something else.
        """
        split = folder / cls.split_file()
        occupied = folder.exists() and any(folder.iterdir())
        if split.is_file():  # asked second: another run may be finishing just now
            return
        if occupied:
            raise DatasetError(
                f"{folder} exists but has no {split.name}: move or delete it, and {cls.__name__} is rendered in its place"
            )
        logger.info("%s: rendering the pictures into %s", cls.__name__, folder)
        for left in folder.parent.glob(f".{folder.name}-rendering-*"):
            if time.time() - left.stat().st_mtime > ABANDONED:
                shutil.rmtree(left, ignore_errors=True)
        aside = folder.with_name(f".{folder.name}-rendering-{uuid.uuid4().hex}")
        try:
            cls._render(aside)
            aside.rename(folder)
        except OSError:
            if not split.is_file():  # else another run was faster, with the same pictures
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    @classmethod
    def _render(cls, folder):
        entries = {part: cls.members(part) for part in PARTS}
        total = sum(map(len, entries.values()))
        with tqdm(total=total, desc=f"Rendering {cls.dataset_dir}", unit=" pictures", disable=None) as bar:
            for part, listed in entries.items():
                for (path, _, _), picture in zip(listed, cls.pictures(part), strict=True):
                    (folder / path).parent.mkdir(parents=True, exist_ok=True)
                    (folder / path).write_bytes(encode(picture))
                    bar.update()
        (folder / cls.split_file()).write_text(json.dumps(entries), encoding="utf-8")
        for path in [folder, *folder.rglob("*")]:  # at the end, when most is on the disk anyway: this is faster
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)


def encode(picture: Image.Image) -> bytes:
    """The JPEG file of a picture."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
