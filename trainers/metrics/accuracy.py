"""Top-1 accuracy."""

from torch import Tensor

from .base import Metric


class Accuracy(Metric):
    """The share of images whose highest logit is that of their label."""

    name = "accuracy"
    title = "accuracy"

    def __init__(self) -> None:
        self.correct = self.total = 0

    def update(self, logits: Tensor, labels: Tensor) -> None:
        self.correct += int((logits.argmax(dim=1) == labels).sum())
        self.total += len(labels)

    def compute(self) -> float:
        return 100.0 * self.correct / self.total if self.total else 0.0
