"""Results of strangers are data: what does not have the form of ours is refused in a sentence."""

import json
from contextlib import suppress
from pathlib import Path

import pytest

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.evaluation.records import RESULTS, read_records, records_file, write_records
from diffiml_plugin.evaluation.results import Swept, Tested, read_results
from diffiml_plugin.files import write_text
from diffiml_plugin.ledger import begin
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
COST = {"model": "x", "settings": {}, "image_size": 512, "GFLOPs": {"N=1": 1.0}, "params_M": {"total": 1.0}}
RECORD = {
    "dataset": "a",
    "index": 0,
    "name": "x",
    "path": "x.png",
    "mask": "Negative",
    "f1": None,
    "label": 0,
    "score": None,
}


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
        (json.dumps(RECORD), "line 2 is of an image that line 1 tells of"),
        (json.dumps(RECORD | {"index": "0"}), "line 2: index is '0'; expected int"),
        (json.dumps(RECORD | {"f1": "x"}), "f1 is 'x'"),
        (json.dumps(RECORD | {"dataset": "mean"}), "line 2: 'mean' cannot be a dataset's name; choose another"),
        (json.dumps({"dataset": "a"}), "line 2 lacks index"),
        (json.dumps({key: value for key, value in RECORD.items() if key != "f1"}), "line 2 lacks f1"),
    ],
)
def test_odd_records_are_refused(line, expected, tmp_path):
    (tmp_path / "x.jsonl").write_text(json.dumps(RECORD) + "\n" + line)
    with pytest.raises(DiffIMLError, match=expected):
        read_records(tmp_path / "x.jsonl")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"f1": 5.0}, "f1 is 5.0; expected 0 to 1"),
        ({"noise_seed": [1]}, r"noise_seed is \[1\]; expected one value"),
        ({"label": 7}, "label is 7; expected 0 to 1"),
        ({"mask_area": -1.0}, "mask_area is -1.0; expected 0 to 1"),
        ({"f1_by_threshold": [1.0]}, "f1_by_threshold has 1 values; expected 19"),
        ({"f1_by_threshold": [2.0] * 19}, "f1_by_threshold is .*; expected 0 to 1"),
    ],
)
def test_figures_out_of_range_are_refused(change, expected, tmp_path):
    write_records(tmp_path / "x.jsonl", [RECORD | change])
    with pytest.raises(DiffIMLError, match=expected):
        read_records(tmp_path / "x.jsonl")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("sweep.json", {**WHOLE, "rows": [{"setting": "x", "value": [1], "datasets": {}}]}),
        ("sweep.json", {**WHOLE, "rows": [], "settings": {"experiment": 3}}),
        ("robust.json", {**WHOLE, "curves": {"zoom": []}}),
        ("complexity.json", {**COST, "GFLOPs_by_count": ""}),
        ("complexity.json", {**COST, "GFLOPs_by_count": {"whole": {"N=1": "1.0"}}}),
        ("complexity.json", {"model": "x", "settings": {}, "GFLOPs": {"N=1": 1.0}, "params_M": {"total": None}}),
        ("complexity.json", {**COST, "params_M": {"encoder": 1.0}}),
        ("complexity.json", {**COST, "fps": "fast"}),
        ("complexity.json", {**COST, "fps_ratio_to_DiffIML_N=1": [1]}),
        ("complexity.json", {"model": "x", "settings": {"latent_codec": "x"}, "image_size": 512, "GFLOPs": {"N=1": 1.0}}
         | {"params_M": {"total": 1.0}}),
    ],
)  # fmt: skip
def test_odd_results_end_in_a_sentence_or_a_page(file, content, tmp_path):
    (tmp_path / file).write_text(json.dumps(content))
    write_records(records_file(tmp_path / file), [RECORD])
    with suppress(DiffIMLError):
        report([str(tmp_path)], tmp_path / "out")


@pytest.mark.parametrize("path", [__file__, 5000 * "a", "a\0b"])
def test_what_is_no_image_is_not_shown(path, tmp_path):
    (tmp_path / RESULTS).write_text(json.dumps(WHOLE | {"checkpoint": path}))
    write_records(records_file(tmp_path / RESULTS), [RECORD | {"path": path, "mask": __file__, "label": 1, "f1": 0.5}])
    report([str(tmp_path)], tmp_path / "out")
    assert "0.5000" in (tmp_path / "out" / "report.md").read_text()


def test_records_of_another_verb_are_refused(tmp_path):
    (tmp_path / "robust.json").write_text(json.dumps({**WHOLE, "curves": {}}))
    write_records(records_file(tmp_path / "robust.json"), [RECORD | {"f1": 0.5}])
    with pytest.raises(DiffIMLError, match="the record of x lacks variant; it is of another verb, or make it anew"):
        report([str(tmp_path)], tmp_path / "out")


def test_results_that_were_edited_are_told(tmp_path, caplog):
    begin(tmp_path, "test", {}, [])
    write_text(tmp_path / RESULTS, json.dumps(WHOLE))
    write_records(records_file(tmp_path / RESULTS), [RECORD, RECORD | {"index": 1}])
    Path(records_file(tmp_path / RESULTS)).write_text(json.dumps(RECORD) + "\n")
    assert len(read_records(records_file(tmp_path / RESULTS))) == 1
    read_results(tmp_path / RESULTS, Tested)
    assert caplog.text.count("has changed since it was written") == 1 and "per_image.jsonl has changed" in caplog.text
