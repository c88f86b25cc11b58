"""Evaluators: `reset`, then `process` each batch, then `evaluate`."""

import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
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

    Args:
        cfg: the whole configuration.
        lab2cname: {label: class name}; unused.
    """

    def __init__(self, cfg: CfgNode, lab2cname: Mapping[int, str] | None = None, **kwargs: Any):
        super().__init__(cfg)
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
        return results

    def _macro_f1(self) -> float:
        """Return the mean of 2 TP / (true + predicted) over the labels that occur in the ground truth."""
        classes = max(self._y_true + self._y_pred) + 1
        true, predicted = (np.bincount(labels, minlength=classes) for labels in (self._y_true, self._y_pred))
        labels = np.array(self._y_true)
        hits = np.bincount(labels[labels == np.array(self._y_pred)], minlength=classes)
        occurs = true > 0
        return float(np.mean(2.0 * hits[occurs] / (true + predicted)[occurs]))
