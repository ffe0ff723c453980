"""Means with their intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

_RESAMPLES = 2000


@dataclass(frozen=True)
class Figure:
    """`interval`: the bootstrap's 95 % over images, in which a mean over datasets gives each the same weight.

    `deviation`: standard, of runs that differ in their noise alone.
    """

    value: float
    interval: tuple[float, float] | None = None
    deviation: float | None = None

    def __str__(self) -> str:
        spread = "" if self.deviation is None else f" ± {self.deviation:.4f}"
        bounds = "" if self.interval is None else " [{:.3f}, {:.3f}]".format(*self.interval)
        return f"{self.value:.4f}{spread}{bounds}"


def mean_figure(groups: Sequence[Sequence[float]]) -> Figure:
    """The mean over groups of the means of their images' values."""
    random = np.random.default_rng(0)
    resampled = [
        [np.take(group, random.integers(len(group), size=len(group))).mean() for _ in range(_RESAMPLES)]
        for group in groups
    ]
    low, high = np.percentile(np.mean(resampled, 0), (2.5, 97.5))
    return Figure(fmean(fmean(group) for group in groups), (float(low), float(high)))
