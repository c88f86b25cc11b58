"""Class-folder trees: one folder per class, images directly in it."""

import os
from collections.abc import Collection, Mapping

from .errors import DatasetError

Entry = tuple[str, int, str]  # (path, label, class name)

IMAGE_ENDINGS = ("jpg", "jpeg", "png", "bmp", "gif", "webp", "tif", "tiff", "ppm")


def list_classes(folder: str | os.PathLike[str], skip: Collection[str] = ()) -> list[str]:
    """Return the sorted names of the class folders in `folder`, without hidden ones and those in `skip`.

    Raises:
        DatasetError: there is no class folder.
    """
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith(".") and e.name not in skip)
    if not names:
        raise DatasetError(f"{folder}: no class folders; expected {os.path.join(folder, '<class>', '<image>')}")
    return names


def list_images(image_dir: str | os.PathLike[str], names: Mapping[str, str], below: str = "") -> list[Entry]:
    """List a class-folder tree, images sorted within each class.

    Args:
        image_dir: the folder that the returned paths are relative to.
        names: {class folder: class name}; labels count its keys from 0. Absent folders have no entries.
        below: the folder in `image_dir` that contains the class folders.
    Returns:
        (path, label, class name) of every image.
    Raises:
        DatasetError: a class folder contains no images.
    """
    entries: list[Entry] = []
    for label, (folder, name) in enumerate(names.items()):
        relative = os.path.join(below, folder)
        path = os.path.join(image_dir, relative)
        if not os.path.isdir(path):
            continue
        images = sorted(image for image in os.listdir(path) if _is_image(image))
        if not images:
            raise DatasetError(f"{path}: no images; expected files that end in {', '.join(IMAGE_ENDINGS)}")
        entries.extend((os.path.join(relative, image), label, name) for image in images)
    return entries


def _is_image(name: str) -> bool:
    return name.rpartition(".")[2].lower() in IMAGE_ENDINGS and not name.startswith(".")
