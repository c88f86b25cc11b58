"""Top-5 accuracy."""

from torch import Tensor

from .base import Metric


class Top5Accuracy(Metric):
    """The share of images whose label is among the five highest logits.

    Of fewer than five classes, among all.
    """

    name = "top5"
    title = "top-5 accuracy"

    def __init__(self) -> None:
        self.correct = self.total = 0

    def update(self, logits: Tensor, labels: Tensor) -> None:
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices  # (B, 5)
        self.correct += int((best == labels[:, None]).any(dim=1).sum())
        self.total += len(labels)

    def compute(self) -> float:
        return 100.0 * self.correct / self.total if self.total else 0.0
