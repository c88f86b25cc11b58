"""Class-folder trees: one folder a class, images directly in it."""

import os

from .errors import DatasetError

IMAGE_ENDINGS = ("jpg", "jpeg", "png", "bmp", "gif", "webp", "tif", "tiff", "ppm")


def list_classes(folder, skip=()):
    """Names of the class folders in `folder`, sorted, without hidden ones and those in `skip`.

    Raises:
        DatasetError: there is none.
    """
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith(".") and e.name not in skip)
    if not names:
        raise DatasetError(f"{folder} has no class folders: expected {os.path.join(folder, '<class>', '<image>')}")
    return names


def class_folders(image_dir, names, below=""):
    """Entries (path, label, class name) of a class-folder tree, images sorted within each class.

    Args:
        names: {class folder: class name}; labels count its keys from 0. No folder: no entries.
        below: the folder in `image_dir` that holds the class folders; paths are relative to `image_dir`.
    Raises:
        DatasetError: a class folder holds no images.
    """
    entries = []
    for label, (folder, name) in enumerate(names.items()):
        relative = os.path.join(below, folder)
        path = os.path.join(image_dir, relative)
        if not os.path.isdir(path):
            continue
        images = sorted(image for image in os.listdir(path) if _is_image(image))
        if not images:
            raise DatasetError(f"{path} holds no images (endings: {', '.join(IMAGE_ENDINGS)})")
        entries.extend((os.path.join(relative, image), label, name) for image in images)
    return entries


def _is_image(name):
    return name.rpartition(".")[2].lower() in IMAGE_ENDINGS and not name.startswith(".")
