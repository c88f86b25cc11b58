"""Class-folder trees: one folder per class, images directly in it."""

import os
from collections import Counter
from collections.abc import Collection, Mapping

from .errors import DatasetError
from .images import image_endings

Entry = tuple[str, int, str]  # (path, label, class name)


class Skipped:
    """Files and folders in class folders that are not read.

    Attributes:
        endings: {file ending: number of files}; "" for files without an ending.
        folders: sub-folders.
    """

    def __init__(self) -> None:
        self.endings: Counter[str] = Counter()
        self.folders: list[str] = []

    def __bool__(self) -> bool:
        return bool(self.endings or self.folders)

    def __str__(self) -> str:
        kinds = ", ".join(f"{ending or 'no ending'} {count}" for ending, count in sorted(self.endings.items()))
        parts = [f"{self.endings.total()} files ({kinds})"] if self.endings else []
        if self.folders:
            more = ", …" if len(self.folders) > 3 else ""
            parts.append(f"{len(self.folders)} sub-folders ({', '.join(self.folders[:3])}{more})")
        return " and ".join(parts)


def list_classes(folder: str | os.PathLike[str], skip: Collection[str] = ()) -> list[str]:
    """Return the sorted names of the class folders in `folder`.

    Hidden ones and those in `skip` are left out.

    Raises:
        DatasetError: no class folder exists.
    """
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith(".") and e.name not in skip)
    if not names:
        raise DatasetError(f"{folder}: no class folders; expected {os.path.join(folder, '<class>', '<image>')}")
    return names


def list_images(
    image_dir: str | os.PathLike[str], names: Mapping[str, str], skipped: Skipped, below: str = ""
) -> list[Entry]:
    """List a class-folder tree, images sorted within each class.

    Args:
        image_dir: the folder that the returned paths are relative to.
        names: {class folder: class name}; labels count its keys from 0. Absent folders have no entries.
        skipped: is extended by the files and folders that are not read.
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
        images, others = list_folder(path)
        if not images:
            found = f"only {others}" if others else "an empty folder"
            raise DatasetError(f"{path}: no images but {found}; expected files that Pillow reads, such as .jpg or .png")
        skipped.endings += others.endings
        skipped.folders += [os.path.join(relative, other) for other in others.folders]
        entries.extend((os.path.join(relative, image), label, name) for image in images)
    return entries


def list_tree(folder: str | os.PathLike[str], skipped: Skipped, skip: Collection[str] = ()) -> list[str]:
    """Return the paths of all images in a folder and in the folders below it.

    They are relative to `folder`, sorted folder by folder.

    Args:
        folder: where to look.
        skipped: is extended by the files that are not read.
        skip: names of files that are neither read nor counted.
    """
    images, others = list_folder(folder, skip)
    skipped.endings += others.endings
    below = [(name, list_tree(os.path.join(folder, name), skipped, skip)) for name in others.folders]
    return images + [os.path.join(name, image) for name, paths in below for image in paths]


def list_folder(folder: str | os.PathLike[str], skip: Collection[str] = ()) -> tuple[list[str], Skipped]:
    """Return the sorted names of the images in a folder, and everything else in it.

    Hidden files and `skip` are left out.
    """
    images, others = [], Skipped()
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            ending = os.path.splitext(entry.name)[1].lower()
            if entry.name.startswith(".") or entry.name in skip:
                continue
            if entry.is_dir():
                others.folders.append(entry.name)
            elif ending in image_endings() and (entry.is_file() or entry.is_symlink()):  # not a named pipe
                images.append(entry.name)
            else:
                others.endings[ending] += 1
    return images, others
