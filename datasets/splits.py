"""Splits as lists of entries (path, label, class name): reading, checking, dividing.

A split is a dict from part to entries. Parts: "train", "val", "test"; and, before they are divided,
"trainval" (val is to be taken from it) or "all" (all three are).
"""

import os
import random

from .errors import DatasetError
from .fewshot import by_label
from .files import read_json

TRAINING = ("train", "trainval", "all")
_SEED = 1  # of our own divisions: the same for every run, whatever the run's seed


def read_split(path):
    """The split in a JSON file of the CoOp family: {"train"|"val"|"test": [[path, label, class name], ...]}.

    Raises:
        DatasetError: a part is missing or an entry is no such triple.
    """
    content = read_json(path)
    parts = {}
    for part in ("train", "val", "test"):
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise DatasetError(f'{path} is not a split: it has no list "{part}"')
        for entry in content[part]:
            if not _is_entry(entry):
                raise DatasetError(f"{path}: {entry!r} in {part} is not [path, label, class name]")
        parts[part] = [(image, int(label), name) for image, label, name in content[part]]
    return parts


def _is_entry(entry):
    return (
        isinstance(entry, list)
        and [type(value) for value in entry] in ([str, int, str], [str, str, str])
        and str(entry[1]).isdecimal()
    )


def check_split(parts, source):
    """Labels 0, 1, 2, … without gaps, one name each, every one trained on; no image twice.

    Args:
        source: the file or folder that a message should name.
    Raises:
        DatasetError: the first fault found.
    """
    entries = [entry for items in parts.values() for entry in items]
    trained = {label for part in TRAINING for _, label, _ in parts.get(part, ())}
    names = {label: name for _, label, name in entries}
    labels = sorted(names)
    if not entries or not trained or parts.get("test") == []:
        raise DatasetError(f"{source}: no {'test' if trained else 'training'} images")
    for expected, label in enumerate(labels):
        if label != expected:
            raise DatasetError(
                f"{source}: labels have to count 0, 1, 2, … without a gap; {expected} is missing, "
                f'"{names[label]}" has {label}'
            )
    for label in labels:
        if label not in trained:
            raise DatasetError(f'{source}: class "{names[label]}" (label {label}) has no training images')
    _check_names(entries, names, source)
    seen = set()
    for image, _, _ in entries:
        if image in seen:
            raise DatasetError(f'{source}: the image "{image}" is listed more than once')
        seen.add(image)


def _check_names(entries, names, source):
    for image, label, name in entries:
        if names[label] != name:
            raise DatasetError(f'{source}: label {label} is both "{names[label]}" and "{name}" (at {image})')
    owners = {}
    for label, name in names.items():
        if owners.setdefault(name, label) != label:
            raise DatasetError(f'{source}: the class name "{name}" stands for labels {owners[name]} and {label}')


def missing_images(parts, image_dir):
    """Paths of listed images that do not exist; each folder is listed once, not each image asked for."""
    listings, missing = {}, []
    for items in parts.values():
        for image, _, _ in items:
            path = os.path.join(image_dir, image)
            folder, name = os.path.split(path)
            if folder not in listings:
                listings[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
            if name not in listings[folder] and not os.path.isfile(path):
                missing.append(path)
    return missing


def divide(parts, source):
    """Divide class by class, at random but always in the same way; other parts stay.

    "all" becomes 50 % train, 20 % val, 30 % test; "trainval" 80 % train, 20 % val, as in CoOp's.

    Raises:
        DatasetError: a class has too few images for each part to get one.
    """
    rng = random.Random(_SEED)
    divided = {"train": [], "val": []}
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
                    f'{source}: class "{items[0][2]}" has {len(items)} images, too few to divide into '
                    f"{', '.join(divided)}; 4 are enough"
                )
            entries.extend(slices[part])
    return {**{part: items for part, items in parts.items() if part not in TRAINING}, **divided}
