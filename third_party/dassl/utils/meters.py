"""Running averages."""

from collections import defaultdict

import torch

__all__ = ["AverageMeter", "MetricMeter"]


class AverageMeter:
    """The last value (`val`), `sum`, `count` and average (`avg`) of a number.

    Args:
        ema: average exponentially, 0.9 old + 0.1 new, instead of equally.
    """

    def __init__(self, ema=False):
        self.ema = ema
        self.reset()

    def reset(self):
        """Forget everything."""
        self.val = self.avg = self.sum = self.count = 0

    def update(self, val, n=1):
        """Add `val` (a number or a tensor of one element), seen `n` times."""
        self.val = val.item() if isinstance(val, torch.Tensor) else val
        self.sum += self.val * n
        self.count += n
        self.avg = 0.9 * self.avg + 0.1 * self.val if self.ema else self.sum / self.count


class MetricMeter:
    """An `AverageMeter` for each name in the dictionaries it is given, in `meters`."""

    def __init__(self, delimiter=" "):
        self.meters = defaultdict(AverageMeter)
        self.delimiter = delimiter

    def update(self, input_dict):
        """Add the values of a dictionary; None adds nothing.

        Raises:
            TypeError: it is neither.
        """
        if input_dict is None:
            return
        if not isinstance(input_dict, dict):
            raise TypeError(f"expected a dictionary of metrics or None, got {type(input_dict).__name__}")
        for name, value in input_dict.items():
            self.meters[name].update(value)

    def __str__(self):
        return self.delimiter.join(f"{name} {m.val:.4f} ({m.avg:.4f})" for name, m in self.meters.items())
