"""Running averages."""

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor


class AverageMeter:
    """The last value (`val`), `sum`, `count` and mean (`avg`) of a number."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start again from no values."""
        self.val = self.avg = self.sum = 0.0
        self.count = 0

    def update(self, val: float | Tensor, n: int = 1) -> None:
        """Add a number, or a tensor of one element, `n` times."""
        self.val = val.item() if isinstance(val, torch.Tensor) else val
        self.sum += self.val * n
        self.count += n
        self.avg = self.sum / self.count


class MetricMeter:
    """One `AverageMeter` per name, in `meters`.

    Args:
        delimiter: between the meters in the printed form.
    """

    def __init__(self, delimiter: str = " "):
        self.meters: defaultdict[str, AverageMeter] = defaultdict(AverageMeter)
        self.delimiter = delimiter

    def update(self, input_dict: Mapping[str, float | Tensor] | None) -> None:
        """Add the values of a dictionary; None adds nothing.

        Raises:
            TypeError: the argument is neither a dictionary nor None.
        """
        if input_dict is None:
            return
        if not isinstance(input_dict, dict):
            raise TypeError(f"metrics: {type(input_dict).__name__}; expected a dictionary or None")
        for name, value in input_dict.items():
            self.meters[name].update(value)

    def __str__(self) -> str:
        return self.delimiter.join(f"{name} {m.val:.4f} ({m.avg:.4f})" for name, m in self.meters.items())
