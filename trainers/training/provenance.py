"""Which data went where: for each phase of a run the images, whether their labels were read, and the class names given.

`ledger.json` beside a run is a list with one item a phase, as `item` makes it.
"""

import json
from pathlib import Path

from ..storage.atomic import replacing

FILE_NAME = "ledger.json"  # in a run's folder


def item(phase: str, dataset: str, images: int, labels: bool, classes: str, class_names: list[str]) -> dict:
    """One phase.

    Args:
        phase: "boosting" (phase 1) or "adapting" (phase 2, or a host alone).
        dataset: its registry name.
        images: how many different training images there were (0: not known).
        labels: whether any of their labels was read.
        classes: "all", "base" or "new"; class_names: the names that the text tower was given.
    """
    return {
        "phase": phase,
        "dataset": dataset,
        "images": images,
        "labels": labels,
        "classes": classes,
        "class_names": list(class_names),
    }


def training_item(trainer, phase: str = "adapting") -> dict:
    """What a Dassl trainer is about to see in `train()`.

    Its class attribute `reads_labels` says whether its batches have labels (a trainer that is not ours: yes). Choosing
    the best epoch on the validation images reads labels as well.
    """
    cfg, dataset = trainer.cfg, trainer.dm.dataset
    labels = getattr(trainer, "reads_labels", True) or cfg.TEST.FINAL_MODEL == "best_val"
    classes = getattr(trainer, "classes", cfg.DATASET.get("SUBSAMPLE_CLASSES", "all"))
    images = len(trainer.train_loader_x.dataset)
    return item(phase, cfg.DATASET.NAME, images, labels, classes, dataset.classnames)


def keep(folder: str | Path, items: list[dict]) -> None:
    """Write a run's ledger."""
    with replacing(Path(folder) / FILE_NAME) as aside:
        aside.write_text(json.dumps(items, indent=2) + "\n")


def kept(folder: str | Path) -> list[dict]:
    """Read a run's ledger.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    path = Path(folder) / FILE_NAME
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no ledger ({error}): give the run's command again, it writes it anew") from error
