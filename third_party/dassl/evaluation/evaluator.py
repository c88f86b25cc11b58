"""Evaluators: reset, then process each batch, then evaluate."""

import logging
import os
from collections import OrderedDict

import numpy as np
import torch

from dassl.utils import atomic_write

from .build import EVALUATOR_REGISTRY

logger = logging.getLogger(__name__)


class EvaluatorBase:
    """What an evaluator must have."""

    def __init__(self, cfg):
        self.cfg = cfg

    def reset(self):
        """Forget what was processed."""
        raise NotImplementedError

    def process(self, mo, gt):
        """Take in the model's output and the ground truth of a batch."""
        raise NotImplementedError

    def evaluate(self):
        """The results, an ordered dictionary; `trainer.test()` returns the first."""
        raise NotImplementedError


@EVALUATOR_REGISTRY.register()
class Classification(EvaluatorBase):
    """Accuracy, error rate and macro F1, all in percent.

    `cfg.TEST.PER_CLASS_RESULT` adds `perclass_accuracy`, the mean of the classes' accuracies, and logs each;
    `cfg.TEST.COMPUTE_CMAT` writes the confusion matrix to `<cfg.OUTPUT_DIR>/cmat.pt`.

    Args:
        lab2cname: {label: class name}, for the names in the log.
    """

    def __init__(self, cfg, lab2cname=None, **kwargs):
        super().__init__(cfg)
        if cfg.TEST.PER_CLASS_RESULT and lab2cname is None:
            raise ValueError("TEST.PER_CLASS_RESULT needs lab2cname, the names of the classes")
        self._lab2cname = lab2cname
        self.reset()

    def reset(self):
        """Forget what was processed."""
        self._correct = 0
        self._total = 0
        self._y_true = []
        self._y_pred = []

    def process(self, mo, gt):
        """Take in logits `mo` (batch, classes) and labels `gt` (batch,)."""
        y_pred, y_true = mo.argmax(dim=1).tolist(), gt.tolist()
        self._correct += sum(p == t for p, t in zip(y_pred, y_true, strict=True))
        self._total += len(y_true)
        self._y_true += y_true
        self._y_pred += y_pred

    def evaluate(self):
        """The results.

        Raises:
            RuntimeError: nothing was processed.
        """
        if self._total == 0:
            raise RuntimeError("nothing to evaluate: no batch was processed (is the data set empty?)")
        accuracy = 100.0 * self._correct / self._total
        results = OrderedDict(accuracy=accuracy, error_rate=100.0 - accuracy, macro_f1=100.0 * self._macro_f1())
        logger.info(
            "=> result\n* total: %s\n* correct: %s\n* accuracy: %.1f%%\n* error: %.1f%%\n* macro_f1: %.1f%%",
            f"{self._total:,}",
            f"{self._correct:,}",
            *results.values(),
        )
        if self.cfg.TEST.PER_CLASS_RESULT:
            results["perclass_accuracy"] = self._per_class_accuracy()
        if self.cfg.TEST.COMPUTE_CMAT:
            self._save_confusion_matrix()
        return results

    def _counts(self):
        """(labels, confusion): the labels seen or predicted, sorted, and counts [true, predicted]."""
        labels, codes = np.unique(self._y_true + self._y_pred, return_inverse=True)
        confusion = np.zeros((len(labels), len(labels)), dtype=np.int64)
        np.add.at(confusion, (codes[: self._total], codes[self._total :]), 1)
        return labels, confusion

    def _macro_f1(self):
        """The mean of 2 TP / (true + predicted) over the labels that occur in the ground truth."""
        _, confusion = self._counts()
        true, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
        occurs = true > 0
        return float(np.mean(2.0 * confusion.diagonal()[occurs] / (true + predicted)[occurs]))

    def _per_class_accuracy(self):
        """Log each class's accuracy and return their mean."""
        labels, confusion = self._counts()
        lines, accuracies = ["=> per-class result"], []
        for label, row, correct in zip(labels.tolist(), confusion, confusion.diagonal(), strict=True):
            if (total := row.sum()) == 0:
                continue
            accuracies.append(100.0 * correct / total)
            lines.append(
                f"* class: {label} ({self._lab2cname[label]})\ttotal: {total:,}\tcorrect: {correct:,}\t"
                f"acc: {accuracies[-1]:.1f}%"
            )
        mean = float(np.mean(accuracies))
        logger.info("%s\n* average: %.1f%%", "\n".join(lines), mean)
        return mean

    def _save_confusion_matrix(self):
        """Write the confusion matrix, a float64 tensor [true, predicted], each row a distribution (or 0)."""
        _, confusion = self._counts()
        matrix = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
        path = os.path.join(self.cfg.OUTPUT_DIR, "cmat.pt")
        with atomic_write(path, "wb") as file:
            torch.save(torch.from_numpy(matrix), file)
        logger.info("Confusion matrix is saved to %s", path)
