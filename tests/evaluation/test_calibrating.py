import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.evaluation.calibrating import Answers, Bounds, fit, mask_threshold, share_with_interval
from diffiml_plugin.evaluation.calibration import FEATURES
from diffiml_plugin.evaluation.scores import THRESHOLDS


def records(count: int, apart: float, sets: str = "abc") -> list[dict]:
    """Half of them tampered; their features lie `apart` standard deviations from the authentic ones'."""
    random, kinds = np.random.default_rng(0), len(FEATURES)
    return [
        {
            "dataset": sets[i // 2 % len(sets)],
            "path": f"{i:04}.png",
            "label": i % 2,
            "features": random.normal(apart * (i % 2), 1, kinds),
        }
        for i in range(count)
    ]


def answers(probability: list[float], label: list[int]) -> Answers:
    nothing = np.zeros(len(label), bool)
    return Answers(np.array(["a"] * len(label)), np.array(label, float), np.array(probability), nothing, nothing)


def test_ece_is_the_mean_gap_between_a_bins_probability_and_its_share():
    assert answers([0.2] * 5, [1, 0, 0, 0, 0]).ece == pytest.approx(0)
    found = answers([0.92, 0.98, 1.0, 0.1], [1, 0, 1, 0])
    assert found.reliability() == [(0.1, 0, 1), (pytest.approx(2.9 / 3), 2 / 3, 3)]
    assert found.ece == pytest.approx((0.1 + 3 * (2.9 / 3 - 2 / 3)) / 4)


def test_cllr_is_one_bit_for_who_knows_nothing_and_none_for_who_knows_all():
    assert answers([0.5] * 5, [1, 0, 0, 0, 0]).cllr == 1
    assert answers([1.0, 0.0], [1, 0]).cllr == 0
    odds = 0.8 / 0.2
    by_definition = (math.log2(1 + 1 / odds) + (math.log2(1 + odds) + math.log2(1 + 1 / 4)) / 2) / 2
    assert answers([0.8, 0.8, 0.2], [1, 0, 0]).cllr == pytest.approx(by_definition)


def test_bounds_are_order_statistics_with_room_for_one_more_image():
    label = np.array([0] * 19 + [1] * 20)
    apart = np.arange(39) / 100
    assert Bounds(0.05, 0.1).of(apart, label) == (0.18, 0.18)  # the 19th of 20; the 2nd of 21 lies above it
    mixed = np.concatenate([np.arange(19), np.arange(20)]) / 100
    assert Bounds(0.1, 0.2).of(mixed, label) == (0.17, 0.03)  # the 18th of 20; the 4th of 21


@pytest.mark.parametrize("images, above", [(19, 0.9), (18, 1.0)])
def test_too_few_authentic_images_promise_nothing(images, above):
    probability = np.array([*np.linspace(0, 0.9, images), 0.5])
    assert Bounds(0.05, 0.1).of(probability, np.array([0] * images + [1])) == (above, 0.0)


def test_a_further_image_is_called_tampered_as_rarely_as_promised():
    random, called = np.random.default_rng(0), []
    for _ in range(2000):
        probability = random.random(60)
        above, _ = Bounds(0.05, 0.1).of(probability[:59], np.array([0] * 39 + [1] * 20))
        called.append(probability[-1] > above)
    assert 0.03 < np.mean(called) <= 0.06


def test_the_regression_is_scikit_learns_on_plain_features():
    data = records(120, 0.8)
    calibration = fit(data, Bounds()).calibration
    x, y = np.array([record["features"] for record in data]), np.array([record["label"] for record in data])
    scaled = (x - x.mean(0)) / x.std(0)
    expected = LogisticRegression(C=0.1, class_weight="balanced").fit(scaled, y).predict_proba(scaled)[:, 1]
    assert [calibration.probability(features) for features in x] == pytest.approx(expected.tolist(), abs=1e-6)
    assert (calibration.authentic, calibration.tampered) == (60, 60)


def test_kinds_count_the_same_and_sets_as_the_root_of_their_images():
    data = [record for record in records(120, 0.8, "aaaab") if record["label"] or record["dataset"] == "b"]
    calibration = fit(data, Bounds()).calibration
    x, y = np.array([record["features"] for record in data]), np.array([record["label"] for record in data])
    scaled, mean = (x - x.mean(0)) / x.std(0), len(data) / 2
    tampered = math.sqrt(48) + math.sqrt(12)  # of a and b; 12 authentic ones are of b
    counts = {(1, "a"): mean / tampered / math.sqrt(48), (1, "b"): mean / tampered / math.sqrt(12), (0, "b"): mean / 12}
    weights = [counts[record["label"], record["dataset"]] for record in data]
    assert sum(weights) == pytest.approx(len(data))
    expected = LogisticRegression(C=0.1).fit(scaled, y, sample_weight=weights).predict_proba(scaled)[:, 1]
    assert [calibration.probability(features) for features in x] == pytest.approx(expected.tolist(), abs=1e-4)


def test_what_is_said_of_an_image_was_learnt_without_it():
    """On features that tell nothing, the images that were fitted look better than they are."""
    data = records(40, 0.0)
    noise = fit(data, Bounds())
    fitted = answers([noise.calibration.probability(r["features"]) for r in data], [r["label"] for r in data])
    assert min(noise.crossed.cllr, noise.left_out.cllr) > fitted.cllr + 0.05
    assert fit(records(40, 3.0), Bounds()).crossed.cllr < 0.3


def test_the_order_of_the_records_does_not_matter():
    data = records(60, 1.0)
    assert fit(data, Bounds()).calibration == fit(data[::-1], Bounds()).calibration


def test_sets_are_left_out_one_by_one():
    data = records(90, 1.0)
    for record in data:
        if record["dataset"] == "c":  # another world: all looks tampered
            record["features"] = record["features"] + 5
    fitted = fit(data, Bounds())
    assert fitted.left_out.of_set("c").called.all() and not fitted.crossed.of_set("c").called.all()
    assert fitted.calibration.left_out.false_alarms > fitted.calibration.crossed.false_alarms
    assert [row[0] for row in fitted.table().rows] == [
        *("a", "b", "c", "all"),
        *("a, left out", "b, left out", "c, left out", "all, left out"),
    ]


def test_no_set_takes_the_name_of_a_row_of_all():
    names = {"a": "all", "b": "all, left out", "c": "c"}
    data = [{**record, "dataset": names[record["dataset"]]} for record in records(90, 1.0)]
    rows = [row[0] for row in fit(data, Bounds()).table().rows]
    assert len(rows) == len(set(rows)) == 8 and rows.count("all") == rows.count("all, left out") == 1
    assert rows[:4] == ["set 'all'", "set 'all, left out'", "c", "all"]


def test_a_single_set_and_sets_that_cannot_do_without_each_other():
    alone = fit(records(40, 1.0, "a"), Bounds())
    assert alone.left_out is None and alone.calibration.left_out is None
    assert [row[0] for row in alone.table().rows] == ["all"]
    apart = [{**record, "dataset": "ab"[record["label"]]} for record in records(40, 1.0)]
    assert fit(apart, Bounds()).left_out is None


@pytest.mark.parametrize("kinds", [(7, 3), (3, 7)])
def test_the_fewest_images_that_make_a_calibration(kinds):
    data = [record for label, count in enumerate(kinds) for record in records(20, 1.0)[label::2][:count]]
    calibration = fit(data, Bounds()).calibration
    assert calibration.tampered_above == 1 and calibration.crossed.false_alarms == 0  # too few to call any so


@pytest.mark.parametrize("authentic, tampered", [(4, 5), (2, 20), (20, 2), (0, 50), (50, 0)])
def test_fewer_are_refused(authentic, tampered):
    with pytest.raises(DiffIMLError, match=f"have {authentic} authentic and {tampered} tampered ones: add some"):
        Bounds().require_enough(authentic, tampered)


@pytest.mark.parametrize(
    "bounds, told",
    [
        ((0.0, 0.1), "--max_false_alarms 0 is outside"),
        ((0.05, 1.0), "--max_misses 1 is outside"),
        ((0.05, 0.1, float("nan")), "--false_alarm_rate nan is outside"),
    ],
)
def test_bounds_are_shares(bounds, told):
    with pytest.raises(DiffIMLError, match=told):
        Bounds(*bounds)


def test_an_area_that_so_few_images_cannot_promise_is_refused_before_anything_is_predicted():
    with pytest.raises(
        DiffIMLError, match="with 40 authentic images; it takes 99 of them, or a rate of 0.0244 or more"
    ):
        Bounds(area=0.01).require_enough(40, 40)
    Bounds(area=0.01).require_enough(99, 40)


def test_the_thresholds_of_masks():
    falling = [1 - threshold for threshold in THRESHOLDS]
    shares = [{"f1_by_threshold": None, "false_alarm_area_by_threshold": falling} for _ in range(9)]
    f1 = [{"f1_by_threshold": [1 - abs(t - 0.3) for t in THRESHOLDS], "false_alarm_area_by_threshold": None}]
    assert mask_threshold(shares + f1, None) == 0.3
    assert mask_threshold(shares + f1, 0.55) == 0.5  # (9 · 0.5 + 1) / 10
    assert mask_threshold(shares + f1, 0.54) == 0.55
    assert mask_threshold(shares + f1, 0.1) == 1.0


def test_shares_have_intervals():
    assert share_with_interval(4, 100) == "4.0% [1.6%, 9.8%]"
    assert share_with_interval(0, 10) == "0.0% [0.0%, 27.8%]" and share_with_interval(0, 0) == ""
