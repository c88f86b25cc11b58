"""Macro F1."""

import torch
from torch import Tensor

from .base import Metric


class MacroF1(Metric):
    """The mean over the classes that have images of their F1 score, as scikit-learn's with these labels."""

    name = "macro_f1"
    title = "macro F1"

    def __init__(self) -> None:
        self.counts = torch.zeros(3, 0, dtype=torch.long)  # true positives, predictions, images of each class

    def update(self, logits: Tensor, labels: Tensor) -> None:
        classes = logits.shape[1]
        found = logits.argmax(dim=1)
        parts = [part.bincount(minlength=classes) for part in (labels[found == labels], found, labels)]
        counts = torch.stack(parts)  # (3, C)
        self.counts = counts + self.counts if self.counts.shape == counts.shape else counts

    def compute(self) -> float:
        hits, predicted, images = self.counts.double()
        scores = 2 * hits / (predicted + images).clamp(min=1)
        seen = images > 0
        return 100.0 * scores[seen].mean().item() if bool(seen.any()) else 0.0
