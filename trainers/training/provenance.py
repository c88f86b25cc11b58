"""Provenance: which data each phase of a run used, how many images, whether it read their labels, and its class names.

`ledger.json` in a run's folder is a list with one item per phase, as returned by `item`. An item has "added_images" if
phase 1 also learned from unlabelled images of other folders; their number is not part of "images".
"""

import json
from pathlib import Path
from typing import Any

from ..storage.atomic import replacing

FILE_NAME = "ledger.json"  # in a run's folder


def item(phase: str, dataset: str, images: int, labels: bool, classes: str, class_names: list[str]) -> dict:
    """Return the item of one phase.

    Args:
        phase: "boosting" (phase 1) or "adapting" (phase 2, or a host alone).
        dataset: its registered name.
        images: number of training images (0: unknown).
        labels: whether labels were read.
        classes: "all", "base" or "new".
        class_names: the names that the text tower encoded, in the order of the labels.
    """
    return {
        "phase": phase,
        "dataset": dataset,
        "images": images,
        "labels": labels,
        "classes": classes,
        "class_names": list(class_names),
    }


def training_item(trainer: Any, phase: str = "adapting") -> dict:
    """Return the item of what a Dassl trainer will use in `train()`.

    Its class attribute `reads_labels` is False if its batches have no labels; selecting the best epoch on validation
    images reads labels too.
    """
    cfg, dataset = trainer.cfg, trainer.dm.dataset
    labels = getattr(trainer, "reads_labels", True) or cfg.TEST.FINAL_MODEL == "best_val"
    classes = getattr(trainer, "classes", cfg.DATASET.get("SUBSAMPLE_CLASSES", "all"))
    images = len(trainer.train_loader_x.dataset)
    return item(phase, cfg.DATASET.NAME, images, labels, classes, dataset.classnames)


def keep(folder: str | Path, items: list[dict]) -> None:
    """Write a run's provenance."""
    with replacing(Path(folder) / FILE_NAME) as aside:
        aside.write_text(json.dumps(items, indent=2) + "\n")


def kept(folder: str | Path) -> list[dict]:
    """Read a run's provenance.

    Raises:
        ValueError: the file is missing or damaged.
    """
    path = Path(folder) / FILE_NAME
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not readable ({error}). Repeat the run's command, which writes it") from error
