"""Splits as lists of entries (path, label, class name): reading, validation and division.

A split is a dict from part to entries. Parts: "train", "val", "test"; before the division also "trainval" (val is
taken from it) or "all" (all three are).
"""

import os
import random
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


def check_split(parts: Mapping[str, list[Entry]], source: str | os.PathLike[str]) -> None:
    """Check labels 0, 1, 2, … without gaps, one name per label, training images for each, and no image twice.

    Args:
        parts: a split.
        source: the file or folder that messages name.
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
    seen: set[str] = set()
    for image, _, _ in entries:
        if image in seen:
            raise DatasetError(f'{source}: image "{image}" is listed more than once. Delete all entries but one')
        seen.add(image)


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


def missing_images(parts: Mapping[str, list[Entry]], image_dir: str | os.PathLike[str]) -> list[str]:
    """Return the paths of listed images that do not exist; every folder is listed once instead of testing each file."""
    listings: dict[str, set[str]] = {}
    missing = []
    for items in parts.values():
        for image, _, _ in items:
            path = os.path.join(image_dir, image)
            folder, name = os.path.split(path)
            if folder not in listings:
                listings[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
            if name not in listings[folder] and not os.path.isfile(path):
                missing.append(path)
    return missing


def divide(parts: Mapping[str, list[Entry]], source: str | Path) -> Split:
    """Divide every class at random with a fixed seed; other parts are returned unchanged.

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
