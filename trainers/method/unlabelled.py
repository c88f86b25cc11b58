"""Unlabelled images that phase 1 learns from in addition to its dataset's (`TRAINER.CASPL.IMAGES`)."""

import hashlib
import os
import random
from collections.abc import Sequence
from pathlib import Path

from dassl.data.datasets import Datum
from PIL import Image

from ..config import ConfigError

KEY = "TRAINER.CASPL.IMAGES"


class UnlabelledImage(Datum):
    """An image without a label, decoded like a user's own images: upright, RGB, 8 bits."""

    def read(self) -> Image.Image:
        """Decode the image.

        Raises:
            ImageError: it is unreadable.
        """
        from ..deploy.images import open_image  # a program's part, above this package's methods

        return open_image(self.impath)


def share(items: Sequence[Datum], part: float, seed: int) -> list[Datum]:
    """Draw a share of a dataset's images, at least one, without reading their labels.

    Args:
        items: the images.
        part: above 0, at most 1.
        seed: of the draw; below 0: not fixed.
    """
    if part >= 1:
        return list(items)
    draw = random.Random(seed if seed >= 0 else None)
    return [items[place] for place in sorted(draw.sample(range(len(items)), max(1, round(part * len(items)))))]


def list_images(folders: Sequence[str]) -> list[Datum]:
    """List the images in folders and all folders below them.

    They are sorted by their paths within each folder.

    Raises:
        ConfigError: a folder does not exist or has no images, or an image occurs twice.
    """
    from ..deploy.images import find_images

    found: dict[str, str] = {}  # {path without links: path}
    for folder in map(_absolute, folders):
        if not Path(folder).is_dir():
            raise ConfigError(f"{KEY}: {folder} is not a folder; expected a folder of images")
        try:
            images = [str(path) for path in find_images([folder])]
        except OSError as error:
            raise ConfigError(f"{KEY}: {error}") from error
        for path in images:
            real = os.path.realpath(path)
            if real in found:
                raise ConfigError(
                    f"{KEY}: {path} is the same file as {found[real]}; expected each image once. Leave a folder out, or remove "
                    "the link"
                )
            found[real] = path
    return [UnlabelledImage(impath=path) for path in found.values()]


def check_images(items: Sequence[Datum], dataset: Sequence[Datum]) -> None:
    """Check the headers of added images before training.

    None of them may be one of the dataset's.

    Raises:
        ConfigError: an image of the dataset is among them.
        ImageError: a file is not an image.
    """
    from ..deploy.images import check_header

    own = [item.impath for item in dataset if not isinstance(item, UnlabelledImage)] if items else []
    known = {os.path.realpath(path): path for path in own}
    for item in items:
        if (first := known.get(os.path.realpath(item.impath))) is not None:
            raise ConfigError(
                f"{KEY}: {item.impath} is an image of the dataset ({first}); expected other images. Leave its folder out"
            )
        check_header(item.impath)


def _absolute(folder: str) -> str:
    return os.path.abspath(os.path.expanduser(folder))


def fingerprint(items: Sequence[Datum], folders: Sequence[str]) -> str:
    """Return the SHA-256 of a list of images: paths below their folders, and sizes.

    Empty for an empty list.
    """
    if not items:
        return ""
    digest = hashlib.sha256()
    roots = [_absolute(folder) for folder in folders]
    for item in items:
        root = next(root for root in roots if Path(item.impath).is_relative_to(root))
        line = f"{os.path.relpath(item.impath, root)}\t{os.stat(item.impath).st_size}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
