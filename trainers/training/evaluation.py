"""Metrics: what an evaluation returns, a mapping from metric names to figures."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from ..metrics import Metric, all_metrics
from .records import TopClasses


class Metrics(Mapping[str, float]):
    """The figures of one evaluation by metric name.

    Args:
        figures: the value of each metric, in per cent unless its title names another unit.
    """

    def __init__(self, figures: Mapping[str, float]):
        self._figures = dict(figures)

    def __getitem__(self, name: str) -> float:
        return self._figures[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._figures)

    def __len__(self) -> int:
        return len(self._figures)

    def __repr__(self) -> str:
        return f"Metrics({self._figures})"


class Measuring:
    """Dassl's evaluator, with this package's metrics computed alongside.

    Args:
        evaluator: Dassl's evaluator, which logs its own figures.
        record: is called with the metrics and most likely classes of every evaluation.

    Attributes:
        metrics: the metrics of the last evaluation; None before the first.
        top: the most likely classes of each of its images.
    """

    def __init__(self, evaluator: Any, record: Callable[[Metrics, TopClasses], None] = lambda metrics, top: None):
        self.evaluator, self.record = evaluator, record
        self.metrics: Metrics | None = None
        self.top = TopClasses()
        self._running: list[Metric] = []
        self.reset()

    def reset(self) -> None:
        """Start a new evaluation."""
        self._running = [kind() for kind in all_metrics()]
        self.top = TopClasses()
        self.evaluator.reset()

    def process(self, output: Tensor, label: Tensor) -> None:
        """Take in a batch: logits (B, C) and labels (B,)."""
        logits, labels = output.detach().cpu(), label.cpu()
        for metric in self._running:
            metric.update(logits, labels)
        self.top.update(logits, labels)
        self.evaluator.process(output, label)

    def evaluate(self) -> Any:
        """Return Dassl's results, and set `metrics`."""
        results = self.evaluator.evaluate()
        self.metrics = Metrics({metric.name: metric.compute() for metric in self._running})
        self.record(self.metrics, self.top)
        return results
