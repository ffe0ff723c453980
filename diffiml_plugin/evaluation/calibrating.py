"""From records with features to a calibration: regression, bounds of the verdicts, and how good they are.

Whatever is said of an image here comes of a regression, and of bounds, that were made without it.
"""

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from statistics import NormalDist, fmean
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.evaluation.calibration import Calibration, Rates
from diffiml_plugin.evaluation.results import Record
from diffiml_plugin.evaluation.scores import THRESHOLD, THRESHOLDS, best_threshold
from diffiml_plugin.table import Table

LEAST, LEAST_OF_A_KIND = 10, 3  # images
_FOLDS, _BINS = 10, 10
_ALL, _LEFT_OUT = "all", ", left out"  # in the names of rows
_RIDGE = 0.1  # scikit-learn's C: the features say nearly the same, and 1 gave some of them weights of the wrong sign
_Floats = npt.NDArray[np.float64]
_Split = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]  # indices to make a calibration of, and to judge it on


@dataclass(frozen=True)
class Bounds:
    """What answers may cost, as shares in (0, 1).

    Attributes:
        false_alarms: of the authentic images, called tampered.
        misses: of the tampered images, in which nothing is found.
        area: of an authentic image's area, called tampered; None: the mask's threshold is that of the best F1.

    Raises:
        DiffIMLError: a share outside (0, 1).
    """

    false_alarms: float = 0.05
    misses: float = 0.1
    area: float | None = None

    def __post_init__(self) -> None:
        flags = {
            "--max_false_alarms": self.false_alarms,
            "--max_misses": self.misses,
            "--false_alarm_rate": self.area,
        }
        for flag, share in flags.items():
            if share is not None and not 0 < share < 1:
                raise DiffIMLError(f"{flag} {share:g} is outside (0, 1); it is a share, such as 0.05")

    def require_enough(self, authentic: int, tampered: int) -> None:
        """Raises DiffIMLError if so many images make no calibration, or cannot promise the area."""
        if authentic + tampered < LEAST or min(authentic, tampered) < LEAST_OF_A_KIND:
            raise DiffIMLError(
                f"a calibration wants {LEAST} images or more, {LEAST_OF_A_KIND} or more of each kind; "
                f"the lists have {authentic} authentic and {tampered} tampered ones: add some"
            )
        if self.area is not None and self.area * (authentic + 1) < 1:
            raise DiffIMLError(
                f"--false_alarm_rate {self.area:g} cannot be promised with {authentic} authentic images; it takes "
                f"{math.ceil(1 / self.area) - 1} of them, or a rate of {1 / (authentic + 1):.3g} or more"
            )

    def of(self, probability: _Floats, label: _Floats) -> tuple[float, float]:
        """Above which probability an image is called tampered, and below which nothing is found in it.

        The first is the ⌈(n+1)(1-α)⌉-th smallest of the n authentic images' probabilities, so that a further one's is
        above it with a chance of at most α (split conformal prediction; Vovk et al. 2005). The second is the same for
        tampered images, from below. Of too few images to promise that: 1 and 0, and no such verdict is given.
        """
        authentic, tampered = (np.sort(probability[label == kind]) for kind in (0, 1))
        rank = math.ceil((len(authentic) + 1) * (1 - self.false_alarms))
        above = float(authentic[rank - 1]) if rank <= len(authentic) else 1.0
        rank = math.floor((len(tampered) + 1) * self.misses)
        below = float(tampered[rank - 1]) if rank >= 1 else 0.0
        return above, min(above, below)


@dataclass(frozen=True)
class Answers:
    """What calibrations say of images that they were made without; all arrays [n].

    Attributes:
        called, cleared: whether it is called tampered; whether nothing is found.
    """

    sets: npt.NDArray[np.str_]
    label: _Floats
    probability: _Floats
    called: npt.NDArray[np.bool_]
    cleared: npt.NDArray[np.bool_]

    def of_set(self, name: str) -> "Answers":
        """Those of one set."""
        mine = self.sets == name
        return Answers(*(values[mine] for values in vars(self).values()))

    @property
    def rates(self) -> Rates:
        """Of images of both kinds."""
        false_alarms, misses = self.called[self.label == 0].mean(), self.cleared[self.label == 1].mean()
        return Rates(float(false_alarms), float(misses), self.ece, self.cllr)

    @property
    def ece(self) -> float:
        """The expected calibration error over bins of equal width (Guo et al. 2017)."""
        return sum(abs(mean - share) * count / len(self.label) for mean, share, count in self.reliability())

    def reliability(self) -> list[tuple[float, float, int]]:
        """Of each bin that has images, their mean probability, the share that is tampered, and their number."""
        bins = np.minimum((self.probability * _BINS).astype(int), _BINS - 1)
        inside = [bins == number for number in np.unique(bins)]
        return [
            (float(self.probability[mine].mean()), float(self.label[mine].mean()), int(mine.sum())) for mine in inside
        ]

    @property
    def cllr(self) -> float:
        """The cost of the log-likelihood ratio in bits (Brümmer and du Preez 2006); 1 is that of knowing nothing.

        With even odds before, the likelihood ratio is p / (1 - p).
        """
        right = np.where(self.label == 1, self.probability, 1 - self.probability)
        cost = -np.log2(np.maximum(right, 1e-12))
        return fmean(float(cost[self.label == kind].mean()) for kind in (0, 1))


@dataclass(frozen=True)
class Fitted:
    """A calibration, and what is known of it.

    Attributes:
        crossed: each image by the calibration of the other folds.
        left_out: each set by the calibration of the other sets; None where those are too few.
    """

    calibration: Calibration
    crossed: Answers
    left_out: Answers | None

    def table(self) -> Table:
        """A row for each set and for all of them, cross-validated, and again with each set left out."""
        rows: list[dict[str, Any]] = []
        for kind, answers in (("", self.crossed), (_LEFT_OUT, self.left_out)):
            if answers is not None:
                names = sorted(set(answers.sets.tolist())) if self.left_out else []
                rows += [{"": f"{_told_apart(name)}{kind}", **_row(answers.of_set(name))} for name in names]
                rows.append({"": f"{_ALL}{kind}", **_row(answers)})
        return Table.listed(rows)


def fit(records: Sequence[Record], bounds: Bounds) -> Fitted:
    """A calibration of records with features, whatever their order.

    Raises:
        DiffIMLError: too few images, as `Bounds.require_enough` says.
    """
    records = sorted(records, key=itemgetter("dataset", "path"))  # places decide on the folds
    label = np.array([record["label"] for record in records], float)
    authentic, tampered = int((label == 0).sum()), int((label == 1).sum())
    bounds.require_enough(authentic, tampered)
    data = _Data(
        np.array([record["features"] for record in records]), label, np.array([record["dataset"] for record in records])
    )
    whole = np.arange(len(label))
    crossed = data.answers(data.folds(whole), bounds)
    weights, intercept = data.regression(whole)
    above, below = bounds.of(data.crossed_probability(whole), label)
    elsewhere = data.answers(data.sets_left_out(), bounds)
    left_out = elsewhere if len(set(elsewhere.label.tolist())) == 2 else None
    calibration = Calibration(
        weights=tuple(weights.tolist()),
        intercept=intercept,
        tampered_above=above,
        nothing_below=below,
        crossed=crossed.rates,
        left_out=left_out.rates if left_out else None,
        authentic=authentic,
        tampered=tampered,
    )
    return Fitted(calibration, crossed, left_out)


@dataclass(frozen=True)
class _Data:
    """Features [n, f], labels [n] in {0, 1} and the names of the sets [n]."""

    features: _Floats
    label: _Floats
    sets: npt.NDArray[np.str_]

    def folds(self, of: npt.NDArray[np.int64]) -> list[_Split]:
        """Ten folds, or as many as there are images of the rarer kind, with the mix of sets and kinds of the whole."""
        strata = self._strata(of)
        names, counts = np.unique(strata, return_counts=True)
        rare = np.isin(strata, names[counts < _FOLDS])  # too few to be spread by themselves
        strata[rare] = [f"{kind:g}" for kind in self.label[of][rare]]
        folds = min(_FOLDS, *(int((self.label[of] == kind).sum()) for kind in (0, 1)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of strata with fewer images than folds
            splits = list(StratifiedKFold(folds, shuffle=True, random_state=0).split(of, strata))
        return [(of[rest], of[fold]) for rest, fold in splits]

    def sets_left_out(self) -> Iterator[_Split]:
        """Each set against the others, where those hold both kinds twice."""
        for name in np.unique(self.sets):
            mine = self.sets == name
            if min((self.label[~mine] == kind).sum() for kind in (0, 1)) >= 2:
                yield np.flatnonzero(~mine), np.flatnonzero(mine)

    def regression(self, of: npt.NDArray[np.int64]) -> tuple[_Floats, float]:
        """Weights [f] and intercept; images count as `_shares` says."""
        scaler = StandardScaler().fit(self.features[of])
        model = LogisticRegression(C=_RIDGE).fit(
            scaler.transform(self.features[of]), self.label[of], sample_weight=len(of) * self._shares(of)
        )
        weights = model.coef_[0] / scaler.scale_
        return weights, float(model.intercept_[0] - weights @ scaler.mean_)

    def _shares(self, of: npt.NDArray[np.int64]) -> _Floats:
        """What each image counts, [n], 1 in all: both kinds the same, and within a kind a set as the root of its number
        of images, since they are alike, and what comes next may be of none of the sets."""
        _, stratum, counts = np.unique(self._strata(of), return_inverse=True, return_counts=True)
        shares = counts[stratum] ** -0.5
        tampered = self.label[of] == 1
        return shares / np.where(tampered, 2 * shares[tampered].sum(), 2 * shares[~tampered].sum())

    def _strata(self, of: npt.NDArray[np.int64]) -> npt.NDArray[np.str_]:
        """The kind and set of each image, in a word."""
        return np.array([f"{kind:g} {name}" for kind, name in zip(self.label[of], self.sets[of], strict=True)])

    def probability(self, made_of: npt.NDArray[np.int64], of: npt.NDArray[np.int64]) -> _Floats:
        """Those of some images, by the regression of others."""
        weights, intercept = self.regression(made_of)
        return 0.5 * (1 + np.tanh((self.features[of] @ weights + intercept) / 2))

    def crossed_probability(self, of: npt.NDArray[np.int64]) -> _Floats:
        """Of each of these images, by the regression of the other folds of them."""
        probability = np.zeros(len(self.label))
        for rest, fold in self.folds(of):
            probability[fold] = self.probability(rest, fold)
        return probability[of]

    def answers(self, splits: Iterable[_Split], bounds: Bounds) -> Answers:
        """The regression and the bounds of the one side of each split, on the other side."""
        parts = [(self.sets[:0], self.label[:0], self.label[:0], np.zeros(0, bool), np.zeros(0, bool))]
        for rest, mine in splits:
            above, below = bounds.of(self.crossed_probability(rest), self.label[rest])
            p = self.probability(rest, mine)
            parts.append((self.sets[mine], self.label[mine], p, p > above, p < below))
        return Answers(*map(np.concatenate, zip(*parts, strict=True)))


def mask_threshold(records: Sequence[Record], area: float | None) -> float:
    """That of THRESHOLDS with the best F1 or, given a share, the lowest that bounds the area of false alarms.

    Conformal risk control (Angelopoulos et al., ICLR 2024): of n authentic images, exchangeable with those to come,
    (sum of the shares called tampered + 1) / (n + 1) must not be above `area`. A share is at most 1, and falls with the
    threshold. At 1 nothing is called.
    """
    if area is None:
        return best_threshold(records) or THRESHOLD
    curves = [curve for record in records if (curve := record["false_alarm_area_by_threshold"])]
    expected = [(sum(shares) + 1) / (len(curves) + 1) for shares in zip(*curves, strict=True)]
    return next((t for t, risk in zip(THRESHOLDS, expected, strict=True) if risk <= area), 1.0)


def share_with_interval(count: int, total: int) -> str:
    """A share in percent with Wilson's interval (95 %); empty of nothing."""
    if not total:
        return ""
    z, share = NormalDist().inv_cdf(0.975), count / total
    middle = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2) / (1 + z**2 / total)
    return f"{share:.1%} [{max(0.0, middle - half):.1%}, {min(1.0, middle + half):.1%}]"


def _told_apart(name: str) -> str:
    """A set's name, in quotes where a row of another meaning could be called the same."""
    return f"set {name!r}" if name == _ALL or name.endswith(_LEFT_OUT) else name


def _row(answers: Answers) -> dict[str, object]:
    authentic, tampered = (answers.label == kind for kind in (0, 1))
    row: dict[str, object] = {"authentic": int(authentic.sum()), "tampered": int(tampered.sum())}
    if authentic.any() and tampered.any():
        row["AUC"] = f"{roc_auc_score(answers.label, answers.probability):.3f}"
        row["Cllr"] = f"{answers.cllr:.3f}"
    return row | {
        "ECE": f"{answers.ece:.3f}",
        "false alarms": share_with_interval(int(answers.called[authentic].sum()), int(authentic.sum())),
        "misses": share_with_interval(int(answers.cleared[tampered].sum()), int(tampered.sum())),
        "cannot say": f"{1 - (answers.called | answers.cleared).mean():.1%}",
    }
