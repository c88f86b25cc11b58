"""Few-shot draws and base/new classes: functions from lists of images to lists of images.

Both follow the CoOp repository (github.com/KaiyangZhou/CoOp), whose picks they reproduce.
"""

import logging
import math
from collections import defaultdict

from dassl.data.datasets import Datum

from .errors import DatasetError

logger = logging.getLogger(__name__)

VAL_SHOTS = 4  # at most so many validation images a class


def by_label(items, label=lambda item: item.label):
    """{label: items}, labels in the order of their first item."""
    groups = defaultdict(list)
    for item in items:
        groups[label(item)].append(item)
    return groups


def draw(items, shots, rng):
    """`shots` images of each class, or all where there are fewer.

    Args:
        items: list of Datum.
        rng: a `random.Random` (or the module `random`); one `sample` a class, in order of first appearance.
    """
    drawn = []
    for group in by_label(items).values():
        drawn.extend(rng.sample(group, shots) if len(group) >= shots else group)
    return drawn


def tell_shortage(part, drawn, shots):
    """Say which classes of a draw, new or read from disk, have fewer than `shots` images."""
    short = [group for group in by_label(drawn).values() if len(group) < shots]
    if short:
        names = ", ".join(f'"{group[0].classname}" ({len(group)})' for group in short[:5])
        logger.warning(
            "%d classes have fewer than %d %s images, so all of them are taken: %s%s",
            *(len(short), shots, part, names, ", …" if len(short) > 5 else ""),
        )


def select_classes(parts, subsample):
    """Restrict lists of Datum to the base classes (the first ceil(n/2) labels) or the new ones (the others).

    Args:
        parts: (train, val, test); train decides which labels there are; a part may be None.
        subsample: "all", "base" or "new". The labels that stay are counted from 0 again.
    Raises:
        DatasetError: no class would be left.
    """
    if subsample == "all":
        return list(parts)
    labels = sorted({item.label for item in parts[0]})
    half = math.ceil(len(labels) / 2)
    selected = labels[:half] if subsample == "base" else labels[half:]
    if not selected:
        raise DatasetError(f'DATASET.SUBSAMPLE_CLASSES "{subsample}" leaves no class: there are {len(labels)}')
    logger.info("%s classes only: %d of %d", subsample.capitalize(), len(selected), len(labels))
    relabel = {old: new for new, old in enumerate(selected)}
    return [part if part is None else [_relabelled(i, relabel) for i in part if i.label in relabel] for part in parts]


def _relabelled(item, relabel):
    return Datum(impath=item.impath, label=relabel[item.label], domain=item.domain, classname=item.classname)
