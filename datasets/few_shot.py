"""Few-shot sampling and base/new classes: pure functions on lists of images.

Both reproduce the picks of the CoOp repository (github.com/KaiyangZhou/CoOp).
"""

import logging
import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any, TypeVar

from dassl.data.datasets import Datum

from .errors import DatasetError

logger = logging.getLogger(__name__)

VAL_SHOTS = 4  # maximum number of validation images per class

Item = TypeVar("Item")


def by_label(items: Iterable[Item], label: Callable[[Any], int] = lambda item: item.label) -> dict[int, list[Item]]:
    """Return {label: items}, labels in the order of their first item."""
    groups: dict[int, list[Item]] = defaultdict(list)
    for item in items:
        groups[label(item)].append(item)
    return groups


def draw(items: Iterable[Datum], shots: int, rng: random.Random | ModuleType) -> list[Datum]:
    """Sample `shots` images per class; a class with fewer images keeps all of them.

    Args:
        items: the pool to draw from.
        rng: a `random.Random` or the module `random`; one `sample` per class, in order of first appearance.
    """
    drawn: list[Datum] = []
    for group in by_label(items).values():
        drawn.extend(rng.sample(group, shots) if len(group) >= shots else group)
    return drawn


def warn_shortage(part: str, drawn: Iterable[Datum], shots: int) -> None:
    """Log the classes of a draw that have fewer than `shots` images."""
    short = [group for group in by_label(drawn).values() if len(group) < shots]
    if short:
        names = ", ".join(f'"{group[0].classname}" ({len(group)})' for group in short[:5])
        logger.warning(
            "%d classes have fewer than %d %s images, so all of them are used: %s%s",
            *(len(short), shots, part, names, ", …" if len(short) > 5 else ""),
        )


def select_classes(parts: Sequence[list[Datum] | None], subsample: str) -> list[list[Datum] | None]:
    """Keep the base classes or the new classes, relabelled from 0.

    Base classes are the first ceil(n/2) labels, new ones the rest.

    Args:
        parts: (train, val, test); the labels are those of train; val may be None.
        subsample: "all", "base" or "new".

    Raises:
        DatasetError: no class is left.
    """
    if subsample == "all":
        return list(parts)
    labels = sorted({item.label for item in parts[0] or ()})
    half = math.ceil(len(labels) / 2)
    selected = labels[:half] if subsample == "base" else labels[half:]
    if not selected:
        raise DatasetError(f"DATASET.SUBSAMPLE_CLASSES: {subsample} selects no class; the dataset has {len(labels)}")
    logger.info("%s classes only: %d of %d", subsample.capitalize(), len(selected), len(labels))
    relabel = {old: new for new, old in enumerate(selected)}
    return [part if part is None else [_relabelled(i, relabel) for i in part if i.label in relabel] for part in parts]


def _relabelled(item: Datum, relabel: dict[int, int]) -> Datum:
    return type(item)(impath=item.impath, label=relabel[item.label], domain=item.domain, classname=item.classname)
