"""The interface of a metric: torchmetrics' `update` and `compute`."""

from torch import Tensor


class Metric:
    """One figure of an evaluation, computed over its batches.

    Attributes:
        name: its key in `result.json`.
        title: its column's heading; per cent unless the title names another unit.
    """

    name: str
    title: str

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Take in a batch: logits (B, C) and labels (B,), on the CPU."""
        raise NotImplementedError

    def compute(self) -> float:
        """Return the figure over all batches so far."""
        raise NotImplementedError
