"""Mean per-class accuracy."""

import torch
from torch import Tensor

from .base import Metric


class MeanPerClassAccuracy(Metric):
    """The mean of the classes' accuracies, over those that have images."""

    name = "mean_per_class"
    title = "mean per-class accuracy"

    def __init__(self) -> None:
        self.counts = torch.zeros(2, 0, dtype=torch.long)  # correct, images of each class

    def update(self, logits: Tensor, labels: Tensor) -> None:
        parts = [labels[logits.argmax(dim=1) == labels], labels]
        counts = torch.stack([part.bincount(minlength=logits.shape[1]) for part in parts])  # (2, C)
        self.counts = counts + self.counts if self.counts.shape == counts.shape else counts

    def compute(self) -> float:
        correct, images = self.counts.double()
        seen = images > 0
        return 100.0 * (correct[seen] / images[seen]).mean().item() if bool(seen.any()) else 0.0
