"""Few-shot draws on disk: ours as JSON, and the CoOp family's pickles, read without executing anything.

A draw is {"train": [[path, label, class name], ...], "val": [...]}; paths are relative to the dataset's
folder, so that the data may move. "val" is missing where the validation images are not drawn from (ImageNet).
"""

import logging
import os
import pickle
from pathlib import Path, PurePosixPath

from .errors import DatasetError
from .files import read_json

logger = logging.getLogger(__name__)


def draw_name(shots, seed):
    """The family's name of a draw, without its ending, relative to the dataset's folder."""
    return f"split_fewshot/shot_{shots}-seed_{seed}"


def save_draw(kept, name, drawn):
    """Keep {"train": list of Datum, ...} as JSON in `kept` (a KeptFiles)."""
    entries = {
        part: [[os.path.relpath(item.impath, kept.folder), item.label, item.classname] for item in items]
        for part, items in drawn.items()
    }
    logger.info("Few-shot draw kept in %s", kept.write(f"{name}.json", entries))


def load_draw(kept, name, pools):
    """The draw `name` from `kept` as {"train": list of Datum, ...}, or None where there is none.

    Args:
        pools: {"train": list of Datum, ...}: what can have been drawn from; its items are returned.
    Raises:
        DatasetError: the file is no draw, or one from other data than `pools`.
    """
    ours, family = kept.find(f"{name}.json"), kept.folder / f"{name}.pkl"
    if ours:
        if family.is_file():
            logger.warning("Both %s and %s exist: the first is used", ours, family)
        entries = _plain_entries(ours, read_json(ours))
    elif family.is_file():
        ours, entries = family, _read_pickle(family)
    else:
        return None
    logger.info("Few-shot draw read from %s", ours)
    return {part: _matched(ours, part, entries, pool, kept.folder) for part, pool in pools.items()}


def _plain_entries(path, content):
    try:
        return {part: [(str(image), int(label)) for image, label, _ in items] for part, items in content.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise DatasetError(f"{path} is not a few-shot draw ({error}): delete it to draw anew") from error


def _matched(path, part, entries, pool, folder):
    """The items of `pool` that `entries` name: there with the same label, and covering every class."""
    remedy = "delete it to draw anew, or bring back the split that it was drawn from"
    if not entries.get(part):
        raise DatasetError(f'{path} has no "{part}" images: {remedy}')
    known = {item.impath: item for item in pool}
    items = []
    for image, label in entries[part]:
        item = known.get(_located(image, folder, known))
        if item is None:
            raise DatasetError(f'{path}: "{image}" is not among the {part} images of {folder}: {remedy}')
        if item.label != label:
            raise DatasetError(f'{path}: "{image}" has label {label}, in the split it has {item.label}: {remedy}')
        items.append(item)
    missing = {item.label for item in pool} - {item.label for item in items}
    if missing:
        raise DatasetError(f"{path}: no {part} image of label {min(missing)}: {remedy}")
    return items


def _located(image, folder, known):
    """`image` as a path here; of an absolute path from another machine, what follows the folder counts."""
    here = os.path.normpath(os.path.join(folder, image))
    if here in known:
        return here
    parts = PurePosixPath(image.replace("\\", "/")).parts
    tails = (parts[i + 1 :] for i, name in enumerate(parts) if name == Path(folder).name)
    return next((path for path in (os.path.join(folder, *tail) for tail in tails) if path in known), here)


class _DatumFields:
    """Stands in for Dassl's Datum while a pickle is read: takes its attributes, runs nothing."""

    def __setstate__(self, state):
        self.entry = (str(state["_impath"]), int(state["_label"]))


class _DatumUnpickler(pickle.Unpickler):
    """Knows Datum and plain containers; whatever else a pickle asks for is refused before it is looked up."""

    def find_class(self, module, name):
        if (module, name) == ("dassl.data.datasets.base_dataset", "Datum"):
            return _DatumFields
        raise pickle.UnpicklingError(f'it asks for "{module}.{name}"')


def _read_pickle(path):
    try:
        with open(path, "rb") as file:
            content = _DatumUnpickler(file).load()
        return {part: [item.entry for item in items] for part, items in content.items()}
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise DatasetError(
            f"{path} is refused: a pickled few-shot draw holds nothing but lists of Datum ({error}). "
            "Delete it to draw anew"
        ) from error
