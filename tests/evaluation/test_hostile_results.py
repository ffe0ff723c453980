"""Results of strangers are data: what does not have the form of ours is refused in a sentence."""

import json

import pytest

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.evaluation.records import RESULTS, read_records, records_file, write_records
from diffiml_plugin.evaluation.results import Swept, Tested, read_results
from diffiml_plugin.reports.report import report

WHOLE = {
    "command": "benco test",
    "configuration": "0",
    "model": "TinyIML",
    "checkpoint": "x",
    "settings": {},
    "datasets": {"a": {"f1": 0.5}},
    "mean": {"f1": 0.5},
}
RECORD = {"dataset": "a", "index": 0, "name": "x", "path": "x.png", "mask": "Negative", "f1": None}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"model": None}, "model is None; expected str"),
        ({"settings": 3}, "settings is 3"),
        ({"datasets": ["a"]}, r"datasets is \['a'\]"),
        ({"datasets": {"a": 3}}, "datasets is {'a': 3}"),
        ({"mean": {"f1": "high"}}, "mean is"),
    ],
)
def test_odd_results_are_refused(changed, expected, tmp_path):
    (tmp_path / RESULTS).write_text(json.dumps(WHOLE | changed))
    write_records(records_file(tmp_path / RESULTS), [RECORD])
    with pytest.raises(DiffIMLError, match=expected):
        report([str(tmp_path)], tmp_path / "out")


def test_what_lacks_is_named(tmp_path):
    (tmp_path / RESULTS).write_text(json.dumps({key: value for key, value in WHOLE.items() if key != "model"}))
    with pytest.raises(DiffIMLError, match="lacks model; make it again"):
        read_results(tmp_path / RESULTS, Tested)
    (tmp_path / "sweep.json").write_text(json.dumps(WHOLE | {"rows": [{"setting": "x"}]}))
    with pytest.raises(DiffIMLError, match="rows is"):
        read_results(tmp_path / "sweep.json", Swept)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", "line 2 is no JSON"),
        ("[]", r"line 2 is \[\]"),
        (json.dumps(RECORD | {"index": "0"}), "line 2: index is '0'; expected int"),
        (json.dumps(RECORD | {"f1": "x"}), "f1 is 'x'"),
        (json.dumps({"dataset": "a"}), "line 2 lacks index"),
    ],
)
def test_odd_records_are_refused(line, expected, tmp_path):
    (tmp_path / "x.jsonl").write_text(json.dumps(RECORD) + "\n" + line)
    with pytest.raises(DiffIMLError, match=expected):
        read_records(tmp_path / "x.jsonl")
