"""Few-shot draws on disk: JSON files written here, and pickles of the CoOp family, read without executing code.

A draw is {"train": [[path, label, class name], ...], "val": [...]}; paths are relative to the dataset's folder, so that
the data can be moved. "val" is absent if no validation images are drawn (ImageNet).
"""

import logging
import os
import pickle
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from dassl.data.datasets import Datum

from .errors import DatasetError
from .few_shot import by_label
from .kept_files import KeptFiles
from .text_files import read_json

logger = logging.getLogger(__name__)

Picks = dict[str, list[tuple[str, int]]]  # part -> (path, label)


def draw_name(shots: int, seed: int) -> str:
    """Return the family's file name of a draw.

    It is relative to the dataset's folder and has no ending.
    """
    return f"split_fewshot/shot_{shots}-seed_{seed}"


def save_draw(kept: KeptFiles, name: str, drawn: Mapping[str, list[Datum]]) -> None:
    """Save a draw {"train": list of Datum, ...} as JSON."""
    entries = {
        part: [[os.path.relpath(item.impath, kept.folder), item.label, item.classname] for item in items]
        for part, items in drawn.items()
    }
    path = kept.write(f"{name}.json", entries)
    if path:
        logger.info("Saved the few-shot draw to %s", path)


def load_draw(
    kept: KeptFiles, name: str, pools: Mapping[str, list[Datum]], sizes: Mapping[str, int]
) -> dict[str, list[Datum]] | None:
    """Load the draw `name`.

    None if there is none, or if one in the output folder does not match the data.

    Args:
        kept: where draws are kept.
        name: see `draw_name`.
        pools: {"train": list of Datum, ...}, the images that a draw can contain; the result consists of these items.
        sizes: {"train": images per class, ...}; a class with fewer images must be complete.

    Raises:
        DatasetError: a file in the data folder is not a draw, or does not match `pools` and `sizes`.
    """
    path, pickled = kept.find(f"{name}.json"), kept.folder / f"{name}.pkl"
    if path:
        if pickled.is_file():
            logger.warning("Both %s and %s exist: using the first", path, pickled)
    elif pickled.is_file():
        path = pickled
    else:
        return None
    try:
        picks = _read_pickle(path) if path == pickled else _picks_of(path, read_json(path))
        drawn = {part: _matched(path, part, picks, pool, kept.folder) for part, pool in pools.items()}
        for part, items in drawn.items():
            _check_sizes(path, part, items, pools[part], sizes[part])
    except DatasetError as error:
        if not kept.replaceable(path):
            raise
        logger.warning("Drawing again: %s", error)
        return None
    logger.info("Loaded the few-shot draw %s", path)
    return drawn


def _check_sizes(path: Path, part: str, items: list[Datum], pool: list[Datum], shots: int) -> None:
    """Check that every class has `shots` different images, or all that exist."""
    drawn, existing = by_label(items), by_label(pool)
    for label, group in drawn.items():
        expected = min(shots, len(existing[label]))
        found = len({item.impath for item in group})
        if found != len(group) or found != expected:
            repeated = f", {len(group) - found} of them repeated" if found != len(group) else ""
            raise DatasetError(
                f'{path}: class "{group[0].classname}" has {len(group)} {part} images{repeated}; expected {expected} '
                f"of {len(existing[label])} existing ones. Delete the file to draw again"
            )


def _picks_of(path: Path, content: Any) -> Picks:
    try:
        return {part: [(str(image), int(label)) for image, label, _ in items] for part, items in content.items()}
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise DatasetError(f"{path}: not a few-shot draw ({error}). Delete it to draw again") from error


def _matched(path: Path, part: str, picks: Picks, pool: list[Datum], folder: Path) -> list[Datum]:
    """Return the items of `pool` that `picks` names, after a check that labels agree and every class is covered."""
    remedy = "Delete the file to draw again, or restore the split that it was drawn from"
    if not picks.get(part):
        raise DatasetError(f'{path}: no "{part}" images. {remedy}')
    known = {item.impath: item for item in pool}
    items = []
    for image, label in picks[part]:
        item = known.get(_located(image, folder, known))
        if item is None:
            raise DatasetError(f'{path}: "{image}" is not one of the {part} images of {folder}. {remedy}')
        if item.label != label:
            raise DatasetError(f'{path}: "{image}" has label {label}; expected {item.label} as in the split. {remedy}')
        items.append(item)
    missing = {item.label for item in pool} - {item.label for item in items}
    if missing:
        raise DatasetError(f"{path}: no {part} image of label {min(missing)}; expected every class. {remedy}")
    return items


def _located(image: str, folder: Path, known: Mapping[str, Datum]) -> str:
    """Return the path of `image` here; of another machine's absolute path, only the part below `folder` is used."""
    here = os.path.normpath(os.path.join(folder, image))
    if here in known:
        return here
    parts = PurePosixPath(image.replace("\\", "/")).parts
    tails = (parts[i + 1 :] for i, name in enumerate(parts) if name == Path(folder).name)
    return next((path for path in (os.path.join(folder, *tail) for tail in tails) if path in known), here)


class _DatumFields:
    """Placeholder for Dassl's Datum in a pickle: takes its attributes and runs no code."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.entry = (str(state["_impath"]), int(state["_label"]))


class _DatumUnpickler(pickle.Unpickler):
    """Unpickles Datum and plain containers; every other global is rejected before it is imported."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("dassl.data.datasets.base_dataset", "Datum"):
            return _DatumFields
        raise pickle.UnpicklingError(f'it imports "{module}.{name}"')


def _read_pickle(path: Path) -> Picks:
    try:
        with open(path, "rb") as file:
            content = _DatumUnpickler(file).load()
        return {part: [item.entry for item in items] for part, items in content.items()}
    except Exception as error:  # a damaged pickle can raise almost any exception
        raise DatasetError(
            f"{path}: not a safe few-shot pickle ({error}); expected only lists of Datum. Delete it to draw again"
        ) from error
