"""Means with their intervals."""

from collections.abc import Callable, Sequence
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
    return _bootstrapped([(group,) for group in groups], np.mean)


def auc_figure(groups: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Figure:
    """The mean over groups, scores of tampered and of authentic images, of the AUC; both kinds are resampled apart."""
    return _bootstrapped(groups, _auc)


def _auc(tampered: np.ndarray, authentic: np.ndarray) -> float:
    """The share of pairs in which the tampered image scores higher, or half of those that are equal."""
    ordered = np.sort(authentic)
    lower, not_higher = (np.searchsorted(ordered, tampered, side).sum() for side in ("left", "right"))
    return (lower + not_higher) / (2 * len(tampered) * len(authentic))


def _bootstrapped(groups: Sequence[Sequence[Sequence[float]]], statistic: Callable[..., float]) -> Figure:
    """The mean over groups of `statistic`, which takes the samples of a group as arrays."""
    random = np.random.default_rng(0)

    def resampled(sample: np.ndarray) -> np.ndarray:
        return sample[random.integers(len(sample), size=len(sample))]

    arrays = [[np.asarray(sample, float) for sample in group] for group in groups]
    means = np.mean([[statistic(*map(resampled, group)) for _ in range(_RESAMPLES)] for group in arrays], 0)
    low, high = np.percentile(means, (2.5, 97.5))
    return Figure(fmean(float(statistic(*group)) for group in arrays), (float(low), float(high)))
