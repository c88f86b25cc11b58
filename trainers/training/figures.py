"""The figures of training steps, summed on the device, so that a step does not wait for it."""

from collections.abc import Mapping

import torch
from torch import Tensor

from . import parallel


class RunningFigures:
    """Sums of the loss and further figures over the steps of an epoch, over all ranks.

    `add` only queues operations on the device; `read` copies all sums at once.

    Attributes:
        steps: number of steps added.
        finite: number of steps, up to the last reading, before the first loss that is not finite.
        skipped: number of skipped steps, up to the last reading.
        totals: the sum of each figure, up to the last reading.
    """

    def __init__(self) -> None:
        self.steps = self.finite = self.skipped = 0
        self.totals: dict[str, float] = {}
        self._steps_read = 0
        self._names: tuple[str, ...] = ()
        self._sums = self._none = torch.empty(0)

    def add(self, figures: Mapping[str, Tensor], skipped: Tensor | None = None) -> None:
        """Add the figures of a step, scalars on the device.

        Args:
            figures: the loss, then further figures, the same ones in every step.
            skipped: whether the optimiser skipped the step; None: no.
        """
        first = next(iter(figures.values()))
        if not self.steps:
            self._names = tuple(figures)
            self._sums = torch.zeros(len(figures) + 2, dtype=torch.double, device=first.device)
            self._none = torch.zeros((), device=first.device)
        values = [*figures.values(), self._none if skipped is None else skipped]
        self._sums[:-1] += torch.stack([value.detach().double().reshape(()) for value in values])
        self._sums[-1] += (self._sums[0] - self._sums[0]).eq(0)  # a sum stays non-finite
        self.steps += 1

    def read(self) -> dict[str, float]:
        """Return the mean of each figure over the steps since the last reading."""
        ranks = parallel.from_all(self._sums).tolist()
        *sums, skipped, finite = zip(*ranks, strict=True)
        totals = {name: sum(of_ranks) / len(ranks) for name, of_ranks in zip(self._names, sums, strict=True)}
        steps = self.steps - self._steps_read
        means = {name: (total - self.totals.get(name, 0.0)) / steps for name, total in totals.items()}
        self.totals, self._steps_read = totals, self.steps
        self.skipped, self.finite = int(max(skipped)), int(min(finite))
        return means
