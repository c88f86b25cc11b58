"""A stream of images from files and folders: decoded in workers, unreadable ones reported instead of raised."""

import functools
import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..experiments.places import datasets_package
from ..training.loaders import workers as workers_for


class ImageError(OSError):
    """An image file that cannot be read."""


@dataclass(frozen=True)
class Batch:
    """Some images of a stream.

    Attributes:
        paths: the files that could be read.
        images: (B, 3, R, R), preprocessed; None if none could be read.
        unreadable: {path: what is wrong} of the others.
    """

    paths: list[Path]
    images: Tensor | None
    unreadable: dict[Path, str]


def open_image(path: str | Path) -> Image.Image:
    """Decode an image file as in evaluation of a user's own images.

    The image is RGB and upright; more than 8 bits are scaled.

    Raises:
        ImageError: it is missing or unreadable, or the range of its values is not defined.
    """
    try:
        return _decoding().read_image(str(path), upright=True)
    except (OSError, ValueError) as error:
        raise ImageError(str(error)) from error


def as_rgb(image: Image.Image) -> Image.Image:
    """Convert an image in memory as `open_image` converts a file.

    Raises:
        ImageError: the range of its values is not defined.
    """
    try:
        return _decoding().to_rgb(image, "the image", upright=True)
    except ValueError as error:
        raise ImageError(str(error)) from error


def check_header(path: str | Path) -> None:
    """Check that a file is an image that `open_image` decodes, without reading its pixels.

    Raises:
        ImageError: it is missing or not an image, or the range of its values is not defined.
    """
    try:
        _decoding().inspect_image(str(path))
    except (OSError, ValueError) as error:
        raise ImageError(str(error)) from error


@functools.cache
def _decoding() -> ModuleType:
    return importlib.import_module(f"{datasets_package()}.images")


def find_images(paths: Sequence[str | Path]) -> list[Path]:
    """List the images among files and folders.

    Args:
        paths: a file is taken whatever its ending; of a folder, the files below it with an ending that Pillow reads, except
            for hidden ones and those in hidden folders.

    Returns:
        The files, in the order of `paths`, those of a folder sorted.

    Raises:
        FileNotFoundError: a path does not exist, or a folder has no images.
    """
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"{path}: does not exist; expected an image or a folder of images")
        below = sorted(_visible_files(path)) if path.is_dir() else [path]
        images = [file for file in below if file.suffix.lower() in endings or file == path]
        if not images:
            raise FileNotFoundError(f"{path}: none of its {len(below)} files has the ending of an image format")
        found += images
    return found


def _visible_files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.is_file():
            yield path


class _Files(Dataset):
    """(path, tensor or None, error or "") of each file."""

    def __init__(self, paths: Sequence[Path], preprocess: Callable[[Image.Image], Tensor]):
        self.paths, self.preprocess = paths, preprocess

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Path, Tensor | None, str]:
        path = self.paths[index]
        try:
            return path, self.preprocess(open_image(path)), ""
        except (ImageError, ValueError) as error:
            return path, None, str(error)


def _collate(items: list[tuple[Path, Tensor | None, str]]) -> Batch:
    read = [(path, image) for path, image, _ in items if image is not None]
    images = torch.stack([image for _, image in read]) if read else None
    return Batch([path for path, _ in read], images, {path: error for path, image, error in items if image is None})


def batches(
    paths: Sequence[Path],
    preprocess: Callable[[Image.Image], Tensor],
    batch_size: int = 100,
    num_workers: int = -1,
) -> Iterator[Batch]:
    """Yield the images of files in batches, in order.

    Args:
        paths: the files.
        preprocess: maps a PIL image to a tensor (3, R, R).
        batch_size: B.
        num_workers: processes that decode; -1 chooses by the machine's cores.
    """
    count = 0 if len(paths) <= batch_size else workers_for(num_workers)
    yield from DataLoader(_Files(paths, preprocess), batch_size, num_workers=count, collate_fn=_collate)
