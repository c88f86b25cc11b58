"""Paired differences over seeds, with a confidence interval."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

LEVEL = 95  # per cent
# 97.5 % quantiles of Student's t distribution with 1, 2, ... degrees of freedom (any table of it; scipy.stats.t.ppf).
_QUANTILES = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


@dataclass(frozen=True)
class Difference:
    """A mean difference over seeds.

    Attributes:
        mean: in points; None if no seed has both.
        interval: half the width of the 95 % confidence interval; None with less than two seeds.
        seeds: number of seeds that have both.
    """

    mean: float | None = None
    interval: float | None = None
    seeds: int = 0


def paired(ours: Mapping[int | None, float], theirs: Mapping[int | None, float]) -> Difference:
    """Return the difference of figures of the same seeds.

    Args:
        ours, theirs: {seed: figure}; what is untrained has a single figure, of the seed None, and no seeds to pair.
    """
    if set(theirs) == {None}:
        theirs = dict.fromkeys(ours, theirs[None])
    pairs = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    if not pairs:
        return Difference()
    interval = half_width(pairs)
    return Difference(statistics.mean(pairs), interval, len(pairs))


def half_width(values: list[float]) -> float | None:
    """Return half the width of the 95 % confidence interval of a mean.

    None with less than two values.
    """
    if len(values) < 2:
        return None
    return quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))


def quantile(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t distribution.

    1.960 + 2.5 / n approximates it well above 30.
    """
    return _QUANTILES[freedom - 1] if freedom <= len(_QUANTILES) else 1.960 + 2.5 / freedom
