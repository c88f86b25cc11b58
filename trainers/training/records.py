"""What happened in a run, as tables: a row an epoch, and a row an image of every evaluation.

`metrics.csv` in the run's folder has the means of each epoch. `evaluations/<dataset>_<classes>/` has `predictions.csv`
and `evaluation.json`, the result, of the last evaluation on these images.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..storage.atomic import replacing

METRICS = "metrics.csv"
EVALUATIONS = "evaluations"
PREDICTIONS, RESULT = "predictions.csv", "evaluation.json"
TOP = 5  # classes of an image that are kept


class TopClasses:
    """The most likely classes of each image of an evaluation, collected over its batches."""

    def __init__(self) -> None:
        self.indices: list[list[int]] = []
        self.probabilities: list[list[float]] = []
        self.labels: list[int] = []

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Take in a batch: logits (B, C) and labels (B,)."""
        values, indices = logits.float().softmax(dim=1).topk(min(TOP, logits.shape[1]), dim=1)
        self.indices += indices.tolist()
        self.probabilities += values.tolist()
        self.labels += labels.tolist()

    def per_class(self, names: Mapping[int, str]) -> dict[str, float]:
        """Return {class name: its images' accuracy in per cent} of the classes that have images.

        Args:
            names: {label: class name}.
        """
        hits: dict[int, list[bool]] = {}
        for label, order in zip(self.labels, self.indices, strict=True):
            hits.setdefault(label, []).append(order[0] == label)
        return {names[label]: 100.0 * sum(found) / len(found) for label, found in sorted(hits.items())}


def write_evaluation(
    folder: Path, paths: Sequence[str], names: Mapping[int, str], top: TopClasses, result: Mapping[str, Any]
) -> None:
    """Write the predictions and the result of one evaluation.

    Args:
        folder: of this evaluation; it is created.
        paths: the images, in the order of the evaluation.
        names: {label: class name}.
        top: the most likely classes of each image.
        result: what was evaluated, and its "metrics".
    """
    columns = [f"{what}_{n + 1}" for n in range(TOP) for what in ("class", "p")]
    with replacing(folder / PREDICTIONS) as aside, open(aside, "w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["path", "label", *columns])
        for path, label, order, values in zip(paths, top.labels, top.indices, top.probabilities, strict=True):
            pairs = [item for index, p in zip(order, values, strict=True) for item in (names[index], f"{p:.6g}")]
            table.writerow([path, names[label], *pairs])
    with replacing(folder / RESULT) as aside:
        aside.write_text(json.dumps(dict(result), indent=2) + "\n")


def evaluation_name(what: Mapping[str, Any]) -> str:
    """Return the folder's name of an evaluation.

    It is <dataset>_<classes>, with split and epoch where they are chosen.

    Args:
        what: "dataset", "classes", "split", and the chosen checkpoint's "epoch" or None.
    """
    split = "" if what["split"] == "test" else f"_{what['split']}"
    epoch = "" if what["epoch"] is None else f"_epoch_{what['epoch']}"
    return f"{what['dataset']}_{what['classes']}{split}{epoch}"


def append_epoch(folder: Path, row: Mapping[str, Any]) -> None:
    """Add an epoch to `metrics.csv`.

    Rows of this epoch and later ones, from before a resume, are replaced.

    Args:
        folder: the run's.
        row: {"epoch": counted from 1, column: value}.
    """
    path = folder / METRICS
    kept: list[dict[str, Any]] = []
    if path.is_file():
        kept = [old for old in read_rows(path) if _number(old.get("epoch")) < row["epoch"]]
    rows = [*kept, dict(row)]
    columns = list(dict.fromkeys(name for each in rows for name in each))
    with replacing(path) as aside, open(aside, "w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, columns, restval="")
        table.writeheader()
        table.writerows(rows)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a CSV file that a run wrote.

    Raises:
        ValueError: it is damaged.
    """
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); expected the table that a run wrote. Remove it") from error


def _number(text: object) -> float:
    return float(text) if isinstance(text, str) and text.isdigit() else float("inf")
