"""Splits as lists of entries (path, label, class name): reading, validation and division.

A split is a dict from part to entries. Parts: "train", "val", "test"; before the division also "trainval" (val is
taken from it) or "all" (all three are).
"""

import os
import random
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from .class_folders import Entry
from .errors import DatasetError
from .few_shot import by_label
from .text_files import read_json

Split = dict[str, list[Entry]]

PARTS = ("train", "val", "test")
_FITTED = ("train", "trainval", "all")  # parts with images to train on
_SEED = 1  # of the division: independent of the run's seed


def read_split(path: str | os.PathLike[str]) -> Split:
    """Read a JSON split file of the CoOp family: {"train"|"val"|"test": [[path, label, class name], ...]}.

    Raises:
        DatasetError: a part is missing, or an entry is not such a triple.
    """
    content = read_json(path)
    parts: Split = {}
    for part in PARTS:
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise DatasetError(f'{path}: no list "{part}"; expected a split file. Download it again or delete it')
        for entry in content[part]:
            if not _is_entry(entry):
                raise DatasetError(f"{path}: {str(entry)[:200]} in {part}; expected [path, label, class name]")
        parts[part] = [(image, int(label), name) for image, label, name in content[part]]
    return parts


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, list)
        and [type(value) for value in entry] in ([str, int, str], [str, str, str])
        and str(entry[1])[:10].isdecimal()
        and len(str(entry[1])) < 10
    )


def check_split(
    parts: Mapping[str, list[Entry]], source: str | os.PathLike[str], image_dir: str | os.PathLike[str] = ""
) -> None:
    """Check that a split is consistent.

    Labels are 0, 1, 2, … without gaps, with one name and training images each, and no image is listed twice.

    Args:
        parts: a split.
        source: the file or folder that messages name.
        image_dir: the folder that relative paths start from.

    Raises:
        DatasetError: the first fault found.
    """
    entries = [entry for items in parts.values() for entry in items]
    fitted = {label for part in _FITTED for _, label, _ in parts.get(part, ())}
    names = {label: name for _, label, name in entries}
    if not entries or not fitted or parts.get("test") == []:
        raise DatasetError(f"{source}: no {'test' if fitted else 'training'} images; expected at least one per class")
    for expected, label in enumerate(sorted(names)):
        if label != expected:
            raise DatasetError(
                f'{source}: label {expected} is missing, "{names[label]}" has {label}; '
                "expected labels 0, 1, 2, … without a gap"
            )
        if label not in fitted:
            raise DatasetError(f'{source}: class "{names[label]}" (label {label}) has no training images')
    _check_names(entries, names, source)
    seen: dict[str, str] = {}
    for image, _, _ in entries:
        path = os.path.normpath(os.path.join(image_dir, image))
        if path in seen:
            other = "" if seen[path] == image else f' (also written "{seen[path]}")'
            raise DatasetError(f'{source}: image "{image}"{other} is listed more than once. Delete all entries but one')
        seen[path] = image


def _check_names(entries: list[Entry], names: dict[int, str], source: str | os.PathLike[str]) -> None:
    for image, label, name in entries:
        if names[label] != name:
            raise DatasetError(
                f'{source}: label {label} has the names "{names[label]}" and "{name}" (at {image}); expected one'
            )
    owners: dict[str, int] = {}
    for label, name in names.items():
        if owners.setdefault(name, label) != label:
            raise DatasetError(f'{source}: labels {owners[name]} and {label} have the same class name "{name}"')


class ImageFiles:
    """The files that a split lists.

    They are looked up with one listing per folder instead of a test per image.

    Args:
        parts: a split.
        image_dir: the folder that relative paths start from.

    Attributes:
        missing: paths of the images that do not exist.
    """

    def __init__(self, parts: Mapping[str, list[Entry]], image_dir: str | os.PathLike[str]) -> None:
        self._listings: dict[str, dict[str, bool]] = {}  # folder -> {name: whether it is a symbolic link}
        self._real: dict[str, str] = {}  # folder -> folder without symbolic links
        self._paths = [os.path.join(image_dir, image) for items in parts.values() for image, _, _ in items]
        self.missing = [path for path in self._paths if not self._exists(path)]

    def shared(self) -> tuple[str, str] | None:
        """Return two different paths of the same file through symbolic links or letter case, or None."""
        seen: dict[str, str] = {}
        for path in self._paths:
            location = self._location(path)
            if seen.setdefault(location, path) != path:
                return seen[location], path
        return None

    def hard_linked(self) -> tuple[str, str] | None:
        """Return two paths that are hard links of one file, or None; it reads the status of every file."""
        seen: dict[tuple[int, int], str] = {}
        for path in self._paths:
            status = os.stat(path)
            if status.st_nlink > 1 and seen.setdefault((status.st_dev, status.st_ino), path) != path:
                return seen[status.st_dev, status.st_ino], path
        return None

    def _listing(self, folder: str) -> dict[str, bool]:
        if folder not in self._listings:
            try:
                with os.scandir(folder) as entries:
                    self._listings[folder] = {e.name: e.is_symlink() for e in entries if e.is_file() or e.is_symlink()}
            except (OSError, ValueError):  # ValueError: a NUL character
                self._listings[folder] = {}
        return self._listings[folder]

    def _exists(self, path: str) -> bool:
        folder, name = os.path.split(path)
        is_link = self._listing(folder).get(name)
        return is_link is False or os.path.isfile(path)

    def _location(self, path: str) -> str:
        folder, name = os.path.split(path)
        is_link = self._listing(folder).get(name)
        if is_link:
            return os.path.realpath(path)
        if is_link is None:  # a file system that ignores case or normalises Unicode
            name = next((n for n in self._listing(folder) if _plain(n) == _plain(name)), name)
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder)
        return os.path.join(self._real[folder], name)


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def divide(parts: Mapping[str, list[Entry]], source: str | Path) -> Split:
    """Divide every class at random with a fixed seed.

    Other parts are returned unchanged.

    "all" becomes 50 % train, 20 % val, 30 % test; "trainval" 80 % train, 20 % val, as in the CoOp repository.

    Raises:
        DatasetError: a class has too few images for every part to get one.
    """
    rng = random.Random(_SEED)
    divided: Split = {"train": [], "val": []}
    if "all" in parts:
        divided["test"] = []
    groups = by_label(parts.get("all") or parts["trainval"], label=lambda entry: entry[1])
    for _, items in sorted(groups.items()):
        items = sorted(items)
        rng.shuffle(items)
        n_val = round(len(items) * 0.2)
        n_train = round(len(items) * 0.5) if "all" in parts else len(items) - n_val
        slices = {
            "train": items[:n_train],
            "val": items[n_train : n_train + n_val],
            "test": items[n_train + n_val :],
        }
        for part, entries in divided.items():
            if not slices[part]:
                raise DatasetError(
                    f'{source}: class "{items[0][2]}" has {len(items)} images; expected 4 or more to divide them into '
                    f"{', '.join(divided)}. Add images or remove the class"
                )
            entries.extend(slices[part])
    return {**{part: items for part, items in parts.items() if part not in _FITTED}, **divided}
