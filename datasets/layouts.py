"""Find data that lie one level too high or too low, or have the folder names of another project."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

# Folder names that other projects and archives use, without case, hyphens and underscores.
_ALIASES = {
    "caltech-101": ("caltech101",),
    "oxford_pets": ("oxfordiiitpet", "pets", "oxfordiiitpets"),
    "stanford_cars": ("cars", "stanfordcars"),
    "oxford_flowers": ("flowers102", "flowers", "oxfordflowers102", "102flowers"),
    "food-101": ("food101",),
    "fgvc_aircraft": ("fgvcaircraft2013b", "aircraft", "fgvcaircraft2013bdata"),
    "sun397": ("sun",),
    "dtd": ("describabletextures", "describabletexturesdataset"),
    "eurosat": ("eurosatrgb",),
    "ucf101": ("ucf101midframes", "ucf"),
    "imagenet": ("imagenet1k", "ilsvrc2012", "ilsvrc"),
    "imagenetv2": ("imagenetv2matchedfrequency",),
    "imagenet-sketch": ("sketch",),
    "imagenet-adversarial": ("imageneta",),
    "imagenet-rendition": ("imagenetr",),
}


def suggest(root: Path, folder: Path, layout: Sequence[str]) -> str:
    """Return what fixes a wrong --data or a wrong layout, in one sentence; "" if nothing similar exists.

    Args:
        root: the folder given as --data.
        folder: the dataset's folder, `root` itself for a user's own images.
        layout: the expected content of `folder`.
    """
    wanted = paths_of_layout(layout)
    if folder == root or not root.is_dir():
        return ""
    similar = [path for path in _folders(root) if _same(path.name, folder.name) and path != folder]
    if has_layout(root, wanted) and not any(has_layout(path, wanted) for path in similar):
        if root.name == folder.name:
            return f"{root} seems to be the dataset's own folder: pass --data {shlex.quote(str(root.parent))}"
        return f"{root} seems to be the dataset's own folder: run ln -s {_quoted(root, root.parent / folder.name)}" + (
            f" and pass --data {shlex.quote(str(root.parent))}"
        )
    if folder.is_dir():
        doubled = next((folder / path / path for path in wanted if (folder / path / path).is_dir()), None)
        if doubled:
            return f"The files are one level too deep: run mv {shlex.quote(str(doubled))}/* {_quoted(doubled.parent)}/"
        inner = next((path for path in _folders(folder) if has_layout(path, wanted)), None)
        if inner and not has_layout(folder, wanted):
            return f"The files are one level too deep: run mv {_quoted(inner)}/* {_quoted(folder)}/"
        return _renamed_inside(folder, wanted)
    if similar:
        return f"{similar[0]} seems to be this dataset: run ln -s {_quoted(similar[0], folder)}"
    parent = next((path for path in _folders(root) if (path / folder.name).is_dir()), None)
    if parent:
        return f"{parent / folder.name} exists: pass --data {shlex.quote(str(parent))}"
    if (root.parent / folder.name).is_dir():
        return f"{root.parent / folder.name} exists: pass --data {shlex.quote(str(root.parent))}"
    return ""


def paths_of_layout(layout: Sequence[str]) -> list[str]:
    """Return the files and folders that lines of a layout begin with, without placeholders such as <class>."""
    first = [line.split(" ")[0].split("<")[0].rstrip("/") for line in layout]
    return [path for path in first if path]


def _renamed_inside(folder: Path, wanted: Sequence[str]) -> str:
    """Return how to rename a file or folder of the dataset whose name differs in case, hyphens or underscores."""
    for path in wanted:
        if (folder / path).exists() or not (folder / path).parent.is_dir():
            continue
        for other in sorted((folder / path).parent.iterdir()):
            if _plain(other.name) == _plain(Path(path).name):
                return f"Its name differs: run mv {_quoted(other, folder / path)}"
    return ""


def has_layout(folder: Path, wanted: Sequence[str]) -> bool:
    """Return whether a folder contains at least half of the expected files and folders, and one folder of them."""
    existing = [path for path in wanted if "*" not in path and (folder / path).exists()]
    return 2 * len(existing) >= len(wanted) and any((folder / path).is_dir() for path in existing)


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []


def _same(name: str, expected: str) -> bool:
    return _plain(name) in (_plain(expected), *_ALIASES.get(expected, ()))


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


def _quoted(*paths: str | os.PathLike[str]) -> str:
    return " ".join(shlex.quote(str(path)) for path in paths)
