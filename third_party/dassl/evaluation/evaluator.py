"""Evaluators: `reset`, then `process` each batch, then `evaluate`."""

import logging
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from yacs.config import CfgNode

from .build import EVALUATOR_REGISTRY

logger = logging.getLogger(__name__)


class EvaluatorBase:
    """The interface of an evaluator."""

    def __init__(self, cfg: CfgNode):
        self.cfg = cfg

    def reset(self) -> None:
        """Start a new evaluation."""
        raise NotImplementedError

    def process(self, mo: Tensor, gt: Tensor) -> None:
        """Take in the model's output `mo` and the ground truth `gt` of a batch."""
        raise NotImplementedError

    def evaluate(self) -> OrderedDict[str, float]:
        """Return the results; `trainer.test()` returns the first."""
        raise NotImplementedError


@EVALUATOR_REGISTRY.register()
class Classification(EvaluatorBase):
    """Accuracy, error rate and macro F1, in per cent.

    `cfg.TEST.PER_CLASS_RESULT` adds `perclass_accuracy`, the mean of the classes' accuracies, and logs each;
    `cfg.TEST.COMPUTE_CMAT` writes the confusion matrix to `<cfg.OUTPUT_DIR>/cmat.pt`.

    Args:
        cfg: the whole configuration.
        lab2cname: {label: class name}, for the log.

    Raises:
        ValueError: PER_CLASS_RESULT is set and there are no class names.
    """

    def __init__(self, cfg: CfgNode, lab2cname: Mapping[int, str] | None = None, **kwargs: Any):
        super().__init__(cfg)
        if cfg.TEST.PER_CLASS_RESULT and lab2cname is None:
            raise ValueError("TEST.PER_CLASS_RESULT: True, without class names; expected lab2cname")
        self._names = lab2cname or {}
        self.reset()

    def reset(self) -> None:
        """Start a new evaluation."""
        self._y_true: list[int] = []
        self._y_pred: list[int] = []

    def process(self, mo: Tensor, gt: Tensor) -> None:
        """Take in logits `mo` (B, C) and labels `gt` (B,)."""
        self._y_true += gt.tolist()
        self._y_pred += mo.argmax(dim=1).tolist()

    def evaluate(self) -> OrderedDict[str, float]:
        """Return {"accuracy", "error_rate", "macro_f1"} over all batches so far.

        Raises:
            RuntimeError: no batch was processed.
        """
        total = len(self._y_true)
        if total == 0:
            raise RuntimeError("nothing to evaluate: no batch was processed (is the dataset empty?)")
        correct = sum(true == predicted for true, predicted in zip(self._y_true, self._y_pred, strict=True))
        accuracy = 100.0 * correct / total
        results = OrderedDict(accuracy=accuracy, error_rate=100.0 - accuracy, macro_f1=100.0 * self._macro_f1())
        logger.info(
            "=> result\n* total: %s\n* correct: %s\n* accuracy: %.1f%%\n* error: %.1f%%\n* macro_f1: %.1f%%",
            f"{total:,}",
            f"{correct:,}",
            *results.values(),
        )
        confusion = self._confusion()
        if self.cfg.TEST.PER_CLASS_RESULT:
            results["perclass_accuracy"] = self._per_class_accuracy(confusion)
        if self.cfg.TEST.COMPUTE_CMAT:
            self._save_confusion_matrix(confusion)
        return results

    def _confusion(self) -> np.ndarray:
        """Return the counts (labels, labels) of [true, predicted]."""
        classes = max(self._y_true + self._y_pred) + 1
        confusion = np.zeros((classes, classes), dtype=np.int64)
        np.add.at(confusion, (self._y_true, self._y_pred), 1)
        return confusion

    def _macro_f1(self) -> float:
        """Return the mean of 2 TP / (true + predicted) over the labels that occur in the ground truth."""
        confusion = self._confusion()
        true, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
        occurs = true > 0
        return float(np.mean(2.0 * confusion.diagonal()[occurs] / (true + predicted)[occurs]))

    def _per_class_accuracy(self, confusion: np.ndarray) -> float:
        """Log each class's accuracy and return their mean."""
        lines, accuracies = ["=> per-class result"], []
        for label, row in enumerate(confusion):
            total, correct = int(row.sum()), int(row[label])
            if total == 0:
                continue
            accuracies.append(100.0 * correct / total)
            lines.append(
                f"* class: {label} ({self._names[label]})\ttotal: {total:,}\tcorrect: {correct:,}\t"
                f"acc: {accuracies[-1]:.1f}%"
            )
        mean = float(np.mean(accuracies))
        logger.info("%s\n* average: %.1f%%", "\n".join(lines), mean)
        return mean

    def _save_confusion_matrix(self, confusion: np.ndarray) -> None:
        """Write the confusion matrix, a float64 tensor [true, predicted], each row a distribution (or 0)."""
        labels = np.unique(self._y_true + self._y_pred)
        counts = confusion[np.ix_(labels, labels)]
        matrix = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        path = Path(self.cfg.OUTPUT_DIR, "cmat.pt")
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(torch.from_numpy(matrix), path)
        logger.info("Confusion matrix is saved to %s", path)
