import re

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from diffiml_plugin.evaluation.intervals import intervals
from diffiml_plugin.evaluation.scores import THRESHOLDS
from diffiml_plugin.evaluation.statistics import auc_figure, mean_figure


def record(label, value, score, kind=None, own=None):
    """Of an image whose F1, or false-alarm area, is `value` at 0.5, a tenth more at 0.25 and nothing elsewhere."""
    key, other = ("f1", "false_alarm_area") if label else ("false_alarm_area", "f1")
    curve = [{0.5: value, 0.25: value + 0.1}.get(threshold, 0) for threshold in THRESHOLDS]
    made = {"label": label, key: value, other: None, f"{key}_by_threshold": curve, "score": score}
    made |= {f"{key}_at_own_threshold": own, f"{other}_at_own_threshold": None}
    return made | ({"kind": kind} if kind else {})


SETS = {
    "casia": [record(1, 0.2, 0.9, "splice", 0.3), record(1, 0.6, 0.4, "copy_move", 0.7), record(0, 0.1, 0.5, own=0.0)],
    "grip": [record(1, 0.1, 0.7, "copy_move", 0.2), record(0, 0.3, 0.8, own=0.1)],
    "photos": [record(0, 0.5, 0.2, own=0.4)],
}


def cells(table):
    """By dataset, or by dataset and kind."""
    rows = [dict(zip(table.head, row, strict=True)) for row in table.rows]
    return {(row[""], row["kind"]) if row.get("kind") else row[""]: row for row in rows}


def test_rows_and_columns():
    rows = cells(intervals(SETS, own_threshold=0.37))
    assert list(rows) == ["casia", ("casia", "copy_move"), ("casia", "splice"), "grip", "photos", "mean"]
    casia, splice, photos, mean = (rows[name] for name in ("casia", ("casia", "splice"), "photos", "mean"))
    assert (casia["tampered"], casia["authentic"], casia["best threshold"]) == (2, 1, "0.25")
    for column, value in (
        ("F1 at 0.5", 0.4),
        ("F1 at its own 0.37", 0.5),
        ("F1 at the best", 0.5),
        ("false alarm at 0.5", 0.1),
        ("false alarm at its own 0.37", 0.0),
        ("false alarm at the best", 0.2),
        ("image AUC", 0.5),
    ):
        assert casia[column].value == pytest.approx(value)
    assert splice["F1 at 0.5"].value == 0.2 and splice["authentic"] == 0 and splice["image AUC"] is None
    assert photos["false alarm at 0.5"].value == 0.5 and photos["F1 at 0.5"] is None is photos["best threshold"]
    assert mean["F1 at 0.5"].value == pytest.approx((0.4 + 0.1) / 2)
    assert mean["false alarm at 0.5"].value == pytest.approx((0.1 + 0.3 + 0.5) / 3)
    assert mean["image AUC"].value == pytest.approx((0.5 + 0) / 2)
    assert mean["F1 at the best"] is None and (mean["tampered"], mean["authentic"]) == (3, 3)


def test_what_no_row_has_is_no_column():
    one = {"photos": SETS["photos"]}
    assert list(cells(intervals(one))["photos"]) == ["", "tampered", "authentic", "false alarm at 0.5"]
    silent = {"casia": [{**entry, "score": None} for entry in SETS["casia"]]}
    assert "image AUC" not in cells(intervals(silent))["casia"]
    assert re.search(r"\| +0\.4000 \[0\.200, 0\.600\] \|", intervals(SETS).markdown())


def test_a_dataset_may_be_called_as_a_kind_of_another():
    table = intervals({"casia": SETS["casia"], "casia: splice": SETS["grip"], "casia splice": SETS["photos"]})
    shown = [(row[0], row[1], row[2] + row[3]) for row in table.rows]
    of_casia = [("casia", None, 3), ("casia", "copy_move", 1), ("casia", "splice", 1)]
    assert shown == [*of_casia, ("casia: splice", None, 2), ("casia splice", None, 1), ("mean", None, 6)]


def test_the_auc_is_scikit_learns_and_its_interval_holds_it():
    random = np.random.default_rng(0)
    scores, labels = random.integers(0, 30, 200) / 30, random.integers(0, 2, 200)  # many are equal
    scores += 0.3 * labels
    tampered, authentic = scores[labels == 1], scores[labels == 0]
    figure = auc_figure([(tampered, authentic)])
    assert figure.value == pytest.approx(roc_auc_score(labels, scores))
    low, high = figure.interval
    assert low < figure.value < high and 0.05 < high - low < 0.2  # DeLong's standard error is .03
    assert auc_figure([([2, 3], [0, 1])]).interval == (1, 1)


def test_intervals_of_means_narrow_with_the_images():
    few, many = (mean_figure([np.tile([0.0, 1.0], count)]).interval for count in (5, 500))
    assert few[1] - few[0] > 5 * (many[1] - many[0]) > 0
