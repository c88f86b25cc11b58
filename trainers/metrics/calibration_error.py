"""Expected calibration error."""

import torch
from torch import Tensor

from .base import Metric

BINS = 15  # of equal width, as in Guo et al. (arXiv 1706.04599)


class CalibrationError(Metric):
    """The mean distance between confidence and accuracy over bins of confidence.

    Bins are weighted by their images.
    """

    name = "ece"
    title = "calibration error"

    def __init__(self) -> None:
        self.sums = torch.zeros(3, BINS, dtype=torch.double)  # images, confidence, correct of each bin

    def update(self, logits: Tensor, labels: Tensor) -> None:
        confidence, found = logits.double().softmax(dim=1).max(dim=1)
        bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1  # (lower, upper], as in the paper
        values = torch.stack([torch.ones_like(confidence), confidence, (found == labels).double()])  # (3, B)
        self.sums.index_add_(1, bins, values)

    def compute(self) -> float:
        images, confidence, correct = self.sums
        return 100.0 * ((confidence - correct).abs().sum() / images.sum().clamp(min=1)).item()
