"""What makes a probability of a whole image of its maps, with the verdict and the error rates that belong to it."""

import math
from dataclasses import dataclass, field, fields
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.settings import PRECISIONS
from diffiml_plugin.stored import shown

TAMPERED, NOTHING_FOUND, CANNOT_SAY, UNCALIBRATED = "tampered", "nothing found", "cannot say", "uncalibrated"
WINDOW = 32  # pixels of the photo, whatever the size that the model works at
_AREAS = (0.25, 0.5, 0.75)  # thresholds
_SMALLEST = 1e-4  # share of an image below which areas are alike
FEATURES = (
    *(f"area above {threshold:g}" for threshold in _AREAS),
    "certain area",
    f"highest mean over {WINDOW} pixels",
    "spread of the members",
)
_Map = npt.NDArray[np.float32]


def features(probability: _Map, uncertainty: _Map | None) -> npt.NDArray[np.float64]:
    """The numbers that the probability of an image rests on, those of FEATURES.

    Args:
        probability: [H, W] in [0, 1], in the photo's own pixels.
        uncertainty: [H, W], the members' standard deviation; None of a model without members: no spread.

    Returns:
        [6] float64: log10 of the shares of pixels above each threshold; log10 of the share that is certain, above 0.5
        by twice the spread; the logit of the highest mean over a square of WINDOW pixels; the mean spread above 0.25.
    """
    spread = np.zeros_like(probability) if uncertainty is None else uncertainty
    detected = probability > _AREAS[0]
    shares = [*((probability > threshold).mean() for threshold in _AREAS), _certain_share(probability, spread)]
    highest = np.clip(_highest_mean(probability), 1e-4, 1 - 1e-4)
    return np.array(
        [
            *np.log10(_SMALLEST + np.array(shares)),
            np.log(highest / (1 - highest)),
            spread[detected].mean() if detected.any() else 0.0,
        ],
        np.float64,
    )


def _certain_share(probability: _Map, spread: _Map) -> float:
    """The share of pixels above 0.5 by twice the spread."""
    certain = -2 * spread
    certain += probability
    return float((certain > 0.5).mean())


def _highest_mean(probability: _Map) -> float:
    """The highest mean of a square of WINDOW pixels that lies inside the map, or of as much as the map has."""
    height, width = (min(WINDOW, side) for side in probability.shape)
    means = cv2.blur(probability, (width, height))
    inside = means[height // 2 :, width // 2 :][: means.shape[0] - height + 1, : means.shape[1] - width + 1]
    return float(inside.max())


def _between(low: float, high: float) -> Any:
    return field(metadata={"range": (low, high)})


def _require_ranges(values: Any) -> None:
    """Raises DiffIMLError for a number of a dataclass, or of a tuple in it, that is not finite or outside its range."""
    for part in fields(values):
        if "range" in part.metadata:
            low, high = part.metadata["range"]
            value = getattr(values, part.name)
            kinds = (int,) if part.type is int else (int, float)
            for number in value if isinstance(value, tuple) else (value,):
                if type(number) not in kinds or not low <= number <= high:
                    raise DiffIMLError(f"calibration: {part.name} {number!r} is no number from {low:g} to {high:g}")


@dataclass(frozen=True)
class Rates:
    """How often verdicts are wrong, and how far probabilities hold, on images that a calibration was made without.

    Attributes:
        false_alarms: share of the authentic images that were called tampered.
        misses: share of the tampered images in which nothing was found.
        ece: expected calibration error, over ten bins of equal width.
        cllr: cost of the log-likelihood ratio in bits; 1 says nothing, 0 everything.

    Raises:
        DiffIMLError: a value outside its range.
    """

    false_alarms: float = _between(0, 1)
    misses: float = _between(0, 1)
    ece: float = _between(0, 1)
    cllr: float = _between(0, 1e3)

    def __post_init__(self) -> None:
        _require_ranges(self)


@dataclass(frozen=True)
class Calibration:
    """A logistic regression on FEATURES, and how often its verdicts are wrong; stored in a checkpoint's metadata.

    Attributes:
        crossed: cross-validated on the images that it was calibrated on.
        weights, intercept: the logit of the probability is weights · features + intercept.
        tampered_above, nothing_below: an image is called tampered above the one, and nothing is found in it below the
            other.
        authentic, tampered: number of those images.
        left_out: as `crossed`, with each of their sets left out; None where there are too few.
        precision: of those predictions, which earlier versions did not store.

    Raises:
        DiffIMLError: a value outside its range.
    """

    crossed: Rates
    weights: tuple[float, ...] = _between(-1e4, 1e4)
    intercept: float = _between(-1e5, 1e5)
    tampered_above: float = _between(0, 1)
    nothing_below: float = _between(0, 1)
    authentic: int = _between(1, 10**9)
    tampered: int = _between(1, 10**9)
    left_out: Rates | None = None
    precision: str = "fp32"

    def __post_init__(self) -> None:
        _require_ranges(self)
        if self.precision not in PRECISIONS:
            raise DiffIMLError(f"calibration: precision {shown(self.precision)} is not one of {', '.join(PRECISIONS)}")
        if len(self.weights) != len(FEATURES):
            raise DiffIMLError(f"calibration: {len(self.weights)} weights for {len(FEATURES)} features")
        if self.nothing_below > self.tampered_above:
            raise DiffIMLError(
                f"calibration: nothing_below {self.nothing_below} is above tampered_above {self.tampered_above}"
            )

    @classmethod
    def read(cls, entry: Any) -> "Calibration":
        """From a checkpoint's metadata. Raises DiffIMLError as the class does, and for what is not of this version."""
        try:
            left_out = entry["left_out"] and Rates(**entry["left_out"])
            values = {**entry, "weights": tuple(entry["weights"]), "crossed": Rates(**entry["crossed"])}
            return cls(**{**values, "left_out": left_out})
        except (KeyError, TypeError) as error:
            raise DiffIMLError(
                "the checkpoint's calibration is not of this version; run `benco calibrate` on the checkpoint anew"
            ) from error

    def holds_in(self, precision: str) -> bool:
        """Whether predictions in that precision are like those that it was made of: fp16 and fp32 differ by 0.0002 of
        F1 at most, bf16 by 0.005 (docs/results/real.md)."""
        return (self.precision == "bf16") == (precision == "bf16")

    def probability(self, image_features: npt.NDArray[np.float64]) -> float:
        """That an image of these features was tampered with, in [0, 1], where half of all images are."""
        logit = float(np.dot(self.weights, image_features)) + self.intercept
        return 0.5 * (1 + math.tanh(logit / 2))  # without overflow

    def verdict(self, probability: float) -> str:
        """TAMPERED, NOTHING_FOUND, or CANNOT_SAY between the two."""
        if probability > self.tampered_above:
            return TAMPERED
        return NOTHING_FOUND if probability < self.nothing_below else CANNOT_SAY

    def explain(self, probability: float) -> str:
        """The verdict with its probability, and the error rate that belongs to it."""
        verdict = self.verdict(probability)
        answer = f"{verdict} ({probability:.2f})"
        if verdict == CANNOT_SAY:
            return (
                f"{answer}; nothing found is below {self.nothing_below:.2f}, tampered above {self.tampered_above:.2f}"
            )
        kind, rate, images = {
            TAMPERED: ("untampered", "false_alarms", self.authentic),
            NOTHING_FOUND: ("tampered", "misses", self.tampered),
        }[verdict]
        unseen = f", {getattr(self.left_out, rate):.1%} in sets left out" if self.left_out else ""
        return f"{answer}; so were {getattr(self.crossed, rate):.1%} of {images} {kind} pictures{unseen}"
