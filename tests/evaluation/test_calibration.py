import dataclasses
import json
import math

import numpy as np
import pytest

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.evaluation.calibration import (
    CANNOT_SAY,
    FEATURES,
    NOTHING_FOUND,
    TAMPERED,
    Calibration,
    Rates,
    features,
)

VALUES = {
    "weights": (0.0, 1.0, 0.0, 0.0, 0.0, 0.0),
    "intercept": 2.0,
    "tampered_above": 0.8,
    "nothing_below": 0.3,
    "authentic": 100,
    "tampered": 80,
    "crossed": Rates(0.04, 0.1, 0.05, 0.6),
    "left_out": Rates(0.06, 0.125, 0.1, 0.7),
}
STORED = json.loads(json.dumps({**VALUES, "crossed": vars(VALUES["crossed"]), "left_out": vars(VALUES["left_out"])}))


def map_of(share: float, high: float = 0.9, low: float = 0.1) -> np.ndarray:
    """[100, 200], the share of whose upper rows is high."""
    probability = np.full((100, 200), low, np.float32)
    probability[: round(100 * share)] = high
    return probability


def test_features_are_what_they_are_called():
    found = dict(zip(FEATURES, features(map_of(0.1), np.full((100, 200), 0.15, np.float32)), strict=True))
    assert found["area above 0.25"] == found["area above 0.75"] == pytest.approx(math.log10(0.1001))
    assert found["certain area"] == pytest.approx(math.log10(0.1001))
    window = (10 * 0.9 + 22 * 0.1) / 32
    assert found["highest mean over 32 pixels"] == pytest.approx(math.log(window / (1 - window)), abs=1e-5)
    assert found["spread of the members"] == pytest.approx(0.15)
    unsure = dict(zip(FEATURES, features(map_of(0.1), np.full((100, 200), 0.25, np.float32)), strict=True))
    assert unsure["certain area"] == -4


def test_the_window_lies_inside_the_photo_and_small_photos_are_their_own():
    corner = np.zeros((100, 200), np.float32)
    corner[-16:, -16:] = 1
    assert features(corner, None)[4] == pytest.approx(math.log(1 / 3), abs=1e-5)  # a quarter of the window
    assert features(np.full((5, 7), 0.5, np.float32), None)[4] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_features_of_extremes_are_finite(value):
    assert np.isfinite(features(np.full((40, 40), value, np.float32), None)).all()


def test_probability_verdict_and_sentence():
    calibration = Calibration(**VALUES)
    assert calibration.probability(np.array([0, -2, 0, 0, 0, 0])) == 0.5
    assert calibration.probability(np.full(6, -1e9)) == 0 and calibration.probability(np.full(6, 1e9)) == 1
    assert [calibration.verdict(p) for p in (0.81, 0.8, 0.3, 0.29)] == [TAMPERED, CANNOT_SAY, CANNOT_SAY, NOTHING_FOUND]
    assert (
        calibration.explain(0.97) == "tampered (0.97); so were 4.0% of 100 untampered pictures, 6.0% in sets left out"
    )
    assert calibration.explain(0.45) == "cannot say (0.45); nothing found is below 0.30, tampered above 0.80"
    single = dataclasses.replace(calibration, left_out=None)
    assert single.explain(0.08) == "nothing found (0.08); so were 10.0% of 80 tampered pictures"


def test_bf16_is_another_setting_and_fp16_is_none():
    """An earlier version's, which does not say, is of single precision."""
    assert Calibration.read(STORED).precision == "fp32"
    found = {made: dataclasses.replace(Calibration(**VALUES), precision=made) for made in ("fp32", "fp16", "bf16")}
    assert {(made, p) for made, one in found.items() for p in found if one.holds_in(p)} == {
        ("fp32", "fp32"),
        ("fp32", "fp16"),
        ("fp16", "fp32"),
        ("fp16", "fp16"),
        ("bf16", "bf16"),
    }


def test_it_survives_the_metadata():
    for calibration in (Calibration(**VALUES), Calibration(**{**VALUES, "left_out": None})):
        assert Calibration.read(json.loads(json.dumps(dataclasses.asdict(calibration)))) == calibration


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"crossed": {**STORED["crossed"], "ece": 1.5}}, "ece 1.5 is no number from 0 to 1"),
        ({"left_out": {**STORED["left_out"], "cllr": math.nan}}, "cllr nan is no number"),
        ({"intercept": math.inf}, "intercept inf is no number"),
        ({"tampered_above": "0.1"}, "tampered_above '0.1' is no number"),
        ({"authentic": True}, "authentic True is no number"),
        ({"tampered": 0}, "tampered 0 is no number from 1"),
        ({"weights": [1.0]}, "1 weights for 6 features"),
        ({"weights": [None] * 6}, "weights None is no number"),
        ({"weights": 3}, "not of this version"),
        ({"nothing_below": 0.9}, "nothing_below 0.9 is above tampered_above 0.8"),
        ({"precision": "fp8"}, "precision 'fp8' is not one of"),
        ({"precision": [1]}, r"precision \[1\] is not one of"),
        ({"more": 1}, "not of this version"),
        ({"crossed": None}, "not of this version"),
        ({"left_out": [1]}, "not of this version"),
    ],
)
def test_damaged_metadata_are_refused(change, told):
    with pytest.raises(DiffIMLError, match=told):
        Calibration.read({**STORED, **change})


@pytest.mark.parametrize("stored", [None, [], "x", {}])
def test_what_is_no_calibration_is_refused(stored):
    with pytest.raises(DiffIMLError, match="benco calibrate"):
        Calibration.read(stored)
