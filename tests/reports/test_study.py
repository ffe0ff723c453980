import json
import re
import shutil
from contextlib import nullcontext
from statistics import fmean, stdev

import pytest
from matplotlib.figure import Figure
from matplotlib.legend import Legend

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.evaluation.scores import PIXEL_FIGURES, THRESHOLDS
from diffiml_plugin.reports import study as module
from diffiml_plugin.reports.study import study

F1 = {"a": [[0.9, 0.5, 0.1], [0.7, 0.3, 0.2]], "b": [[0.4, 0.4, 0.4]]}  # by row, by seed, of three tampered images
KINDS = {"1.jpg": "splice", "copy.jpg": "splice", "removal.jpg": "removal"}  # names say nothing


HEADER = {"command": "benco sweep", "configuration": "0", "model": "TinyIML", "checkpoint": "x", "settings": {}}
TESTED = {**HEADER, "datasets": {}, "mean": {}}


def record(name, f1, mask="mask.png", area=None):
    return {
        **({} if f1 is None else {"kind": KINDS[name]}),
        "path": f"/data/{name}",
        "dataset": "val",
        "index": list(KINDS).index(name) if name in KINDS else len(KINDS),
        "name": name,
        "mask": mask,
        "label": int(f1 is not None),
        "f1": f1,
        "false_alarm_area": area,
        "auc_sklearn": None if f1 is None else 1 - f1 / 4,
        "score": None,
    }


@pytest.fixture
def runs(tmp_path):
    for row, seeds in F1.items():
        for seed, values in enumerate(seeds):
            run = tmp_path / "runs" / row / str(seed)
            (run / "test").mkdir(parents=True)
            records = [record(name, f1) for name, f1 in zip(KINDS, values, strict=True)]
            records.append(record("clean.jpg", None, "Negative", area=0.1 * (seed + 1)))
            (run / "test" / "per_image.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
            (run / "test" / "results.json").write_text(json.dumps({**TESTED, "weights": f"{row} {seed}"}))
            (run / "run.json").write_text(json.dumps([{"command": f"benco train --seed {seed}"}]))
            epochs = [{"update": 10, "loss": {"loss": 1.0}}, {"update": 20, "loss": {"loss": 0.5}, "f1": 0.5}]
            (run / "log.jsonl").write_text("".join(json.dumps(epoch) + "\n" for epoch in epochs))
    sweep = tmp_path / "runs" / "a" / "0" / "sweep"
    sweep.mkdir()
    cells = {
        size: {"val": {"f1": 0.25, "std": std, "runs": [0.25]}} for size, std in ((1, None), (3, 0.0625), (5, 0.03125))
    }
    cells[3]["other"] = {"f1": 0.25, "std": 0.1875, "runs": [0.25]}
    rows = [{"setting": "ensemble_size", "value": size, "datasets": datasets} for size, datasets in cells.items()]
    rows.append({"setting": "tta", "value": True, "datasets": {}})  # no tampered image
    (sweep / "sweep.json").write_text(json.dumps({**HEADER, "rows": rows}))
    robust = tmp_path / "runs" / "a" / "0" / "robust"
    robust.mkdir()
    point = {"mean": {PIXEL_FIGURES["f1"]: 0.125, "false_alarm_area": 0.375}, "datasets": {}}
    (robust / "robust.json").write_text(
        json.dumps({**HEADER, **point, "curves": {"jpeg": [{"strength": 50, **point}]}})
    )
    return tmp_path / "runs"


def read_study(tmp_path):
    """The tables without what aligns their columns."""
    return re.sub(" +", " ", (tmp_path / "out" / "study.md").read_text())


def test_means_and_spread_are_those_of_the_records(runs, tmp_path):
    figures = study(runs, tmp_path / "out")
    assert figures["a"]["all"] == pytest.approx([fmean(values) for values in F1["a"]])
    assert figures["a"]["splice"] == pytest.approx([0.7, 0.5]) and figures["a"]["removal"] == pytest.approx([0.1, 0.2])
    assert figures["a"]["AUC"] == pytest.approx([1 - fmean(values) / 4 for values in F1["a"]])
    assert figures["a"]["false alarm"] == pytest.approx([0.1, 0.2])
    text = read_study(tmp_path)
    both = [0.7, 0.5]
    assert f"{fmean(both):.3f} ± {stdev(both):.3f}" in text
    assert "| b | 1 | 0.400 |" in text  # a single seed has no spread
    assert "| setting | row | pixel-F1 | over noise |" in text
    assert "| ensemble_size=1 | a | 0.250 | - |" in text and "| ensemble_size=3 | a | 0.250 | 0.125 |" in text
    assert "| setting | row | pixel-F1 | false alarm |" in text and "| jpeg 50 | a | 0.125 | 0.375 |" in text
    assert "`benco train --seed 0`" in text and (tmp_path / "out" / "study.png").stat().st_size > 0


def test_each_row_has_its_name_in_the_legend(runs, tmp_path, monkeypatch):
    (runs / "b").rename(runs / "_b")
    figure = Figure()
    monkeypatch.setattr(module, "drawing", lambda path, size, dpi: nullcontext(figure))
    study(runs, tmp_path / "out")
    (legend,) = figure.findobj(Legend)
    assert [text.get_text() for text in legend.get_texts()] == ["_b", "a"]


@pytest.mark.parametrize("label", [0, 1])
def test_what_was_not_measured_is_left_empty(runs, tmp_path, label):
    path = runs / "b" / "0" / "test" / "per_image.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(r) + "\n" for r in records if r["label"] == label))
    figures = study(runs, tmp_path / "out")["b"]
    assert (figures["all"], figures["false alarm"]) == (([], [0.1]) if label == 0 else ([pytest.approx(0.4)], []))
    row = "| b | 1 | - | - | - | - | 0.100 |" if label == 0 else "| b | 1 | 0.400 | 0.400 | 0.400 | 0.900 | - |"
    assert row in read_study(tmp_path)


def test_rows_at_their_best_threshold(runs, tmp_path):
    for seed, high in ((0, 0.8), (1, 0.6)):
        path = runs / "a" / str(seed) / "test" / "per_image.jsonl"
        records = [json.loads(line) for line in path.read_text().splitlines()]
        for record in records:
            curve = [0.0] * len(THRESHOLDS)
            curve[3] = high
            name = "f1_by_threshold" if record["label"] else "false_alarm_area_by_threshold"
            record |= {"f1_by_threshold": None, "false_alarm_area_by_threshold": None, name: curve}
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    figures = study(runs, tmp_path / "out")
    assert figures["a"]["all"] == pytest.approx([fmean(values) for values in F1["a"]])  # at 0.5, as before
    text = read_study(tmp_path)
    spread = f"{0.7:.3f} ± {stdev([0.8, 0.6]):.3f}"
    assert f"| a | 2 | {spread} | {spread} | {spread} | 0.200 ± 0.000 | {spread} |" in text
    assert text.count("| b |") == 1  # which was tested without curves


def test_the_best_threshold_is_chosen_for_the_mean_over_sets_that_the_table_tells(runs, tmp_path):
    path = runs / "b" / "0" / "test" / "per_image.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines() if '"label": 1' in line]
    for record, (dataset, best, f1) in zip(
        records, [("large", 3, 0.5), ("large", 3, 0.5), ("small", 9, 0.9)], strict=True
    ):
        record |= {"dataset": dataset, "f1_by_threshold": [f1 * (at == best) for at in range(len(THRESHOLDS))]}
        record["false_alarm_area_by_threshold"] = None
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    study(runs, tmp_path / "out")
    best = read_study(tmp_path).split("Each run at the threshold that is best")[1]
    assert "| b | 1 | 0.450 | 0.900 | 0.000 | 0.500 | - |" in best  # 0.5 at 0.2, of two images of three, is 0.250


def test_differences_are_of_the_same_images_and_seeds(runs, tmp_path):
    (runs / "a").rename(runs / "t_noisy_without_splice")
    (runs / "b").rename(runs / "discriminative_without_splice")
    pair = ("t_noisy_without_splice", "discriminative_without_splice")
    study(runs, tmp_path / "out", [pair, ("t_noisy_without_splice", "never_run")])
    text = read_study(tmp_path)
    line = next(line for line in text.splitlines() if "| discriminative_without_splice | 1 | 3 |" in line)
    by_seed, everything, removal, splice = line.split(" | ")[4:]  # 0.9 - 0.4, 0.5 - 0.4; 0.1 - 0.4
    assert by_seed == "0.100" and everything.startswith("+0.100 [")
    assert splice.startswith("+0.300 [+0.100, +0.500]")
    assert (
        removal == "-0.300 [-0.300, -0.300]"
        and text.count("| t_noisy_without_splice | discriminative_without_splice |") == 1
        and "never_run" not in text
    )


def test_images_of_one_name_in_several_folders_are_compared_each_with_itself(runs, tmp_path, caplog):
    for place, path in enumerate(runs.glob("*/*/test/per_image.jsonl")):  # each test was made in another place
        found = [json.loads(line) for line in path.read_text().splitlines()]
        moved = [{**one, "name": "i.jpg", "path": f"/{place}/data/{one['name']}/i.jpg"} for one in found]
        path.write_text("".join(json.dumps(one) + "\n" for one in moved))
    study(runs, tmp_path / "out", [("a", "b")])
    line = next(line for line in read_study(tmp_path).splitlines() if line.startswith("| a | b |"))
    assert line.split(" | ")[2:5] == ["1", "3", "0.100"] and "other images" not in caplog.text


@pytest.mark.parametrize("again", [lambda run, copy: copy.symlink_to(run), shutil.copytree])
def test_a_run_that_is_there_twice_is_no_further_seed(runs, tmp_path, again):
    again(runs / "a" / "0", runs / "a" / "latest")
    with pytest.raises(DiffIMLError, match=r"a/0 and .*a/latest were tested with the same weights"):
        study(runs, tmp_path / "out")


@pytest.mark.parametrize("file", ["sweep/sweep.json", "robust/robust.json"])
def test_results_of_other_weights_than_the_tests_are_refused(runs, tmp_path, file):
    path = runs / "a" / "0" / file
    for weights in ("a 0", "older"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "weights": weights}))
        if weights == "a 0":
            study(runs, tmp_path / "out")
    with pytest.raises(DiffIMLError, match=f"a/0/{file.split('/')[0]} is of other weights than .*a/0/test"):
        study(runs, tmp_path / "again")


def test_seeds_that_were_tested_on_other_images_are_told(runs, tmp_path, caplog):
    study(runs, tmp_path / "before")
    assert "other images" not in caplog.text
    path = runs / "a" / "1" / "test" / "per_image.jsonl"
    path.write_text(path.read_text().replace("copy.jpg", "another.jpg"))
    study(runs, tmp_path / "out")
    assert "a: seed 1 was tested with other images than seed 0" in caplog.text


def test_figures_of_several_sets_are_their_mean(runs, tmp_path):
    """As everywhere else, however many images each has."""
    path = runs / "b" / "0" / "test" / "per_image.jsonl"
    more = [{**record("1.jpg", 1.0), "dataset": "other", "path": "/other/1.jpg"}]
    more.append({**record("clean.jpg", None, "Negative", area=0.3), "dataset": "other", "path": "/other/clean.jpg"})
    path.write_text(path.read_text() + "".join(json.dumps(one) + "\n" for one in more))
    figures = study(runs, tmp_path / "out")["b"]
    assert figures["all"] == [pytest.approx((0.4 + 1) / 2)]
    assert figures["false alarm"] == [pytest.approx((0.1 + 0.3) / 2)]


def test_differences_over_several_sets_are_the_mean_of_the_sets(runs, tmp_path):
    """As the figures that they are of, and each set's images are drawn again apart."""
    for row, f1 in (("a", 1.0), ("b", 0.2)):
        path = runs / row / "0" / "test" / "per_image.jsonl"
        one = {**record("1.jpg", f1), "dataset": "other", "path": "/other/1.jpg"}
        path.write_text(path.read_text() + json.dumps(one) + "\n")
    study(runs, tmp_path / "out", [("a", "b")])
    text = read_study(tmp_path)
    line = next(line for line in text.splitlines() if line.startswith("| a | b |"))
    images, by_seed, everything, removal, splice = line.strip(" |").split(" | ")[3:]
    assert (images, by_seed) == ("4", "0.450") and everything.startswith("+0.450 [")  # (0.1 + 0.8) / 2, not 1.1 / 4
    assert splice == "+0.550 [+0.450, +0.650]"  # of 0.5 and 0.1 in one set, 0.8 in the other
    assert removal.startswith("-0.300 [")


@pytest.mark.parametrize("file", ["test/results.json", "sweep/sweep.json", "robust/robust.json"])
def test_pairs_that_were_left_out_are_told_below_the_table(runs, tmp_path, file):
    path = runs / "a" / "0" / file
    path.write_text(json.dumps({**json.loads(path.read_text()), "left_out": {"val": 3}}))
    study(runs, tmp_path / "out")
    text = "a/0: Faulty pairs that --keep_going left out, of which no figure tells: val 3."
    assert read_study(tmp_path).count(text) == 1


@pytest.mark.parametrize("verb, file", [("test", "results.json"), ("robust", "robust.json")])
def test_seeds_that_were_tested_with_other_settings_are_told(runs, tmp_path, caplog, verb, file):
    def write(run, **settings):
        (run / verb).mkdir(exist_ok=True)
        of_first = json.loads((runs / "a" / "0" / verb / file).read_text())
        weights = json.loads((run / "test" / "results.json").read_text())["weights"]
        told = {**of_first, "weights": weights, "settings": settings}
        (run / verb / file).write_text(json.dumps(told))

    write(runs / "a" / "0", tta=False, seed=0, device="cpu")
    write(runs / "a" / "1", tta=False, seed=1, device="cuda")
    study(runs, tmp_path / "out")
    assert "tested with other" not in caplog.text
    write(runs / "a" / "1", tta=True)
    study(runs, tmp_path / "out")
    assert f"a: seed 1 was tested with other tta than seed 0 (benco {verb}); means mix them" in caplog.text


def test_seeds_and_rows_that_were_tested_on_pictures_of_other_content_are_told(runs, tmp_path, caplog):
    def write(row, seed, contents):
        path = runs / row / seed / "test" / "per_image.jsonl"
        records = [json.loads(line) for line in path.read_text().splitlines()]
        told = [{**one, "content": contents.get(one["name"], "")} for one in records]
        path.write_text("".join(json.dumps(one) + "\n" for one in told))

    def images():
        study(runs, tmp_path / "out", [("a", "b")])
        return next(line for line in read_study(tmp_path).splitlines() if line.startswith("| a | b |")).split(" | ")[3]

    for row, seed in (("a", "0"), ("a", "1"), ("b", "0")):
        write(row, seed, {"copy.jpg": "1"})
    assert images() == "3" and "other images" not in caplog.text
    write("b", "0", {"copy.jpg": "replaced"})
    assert images() == "2"
    write("a", "1", {"copy.jpg": "replaced"})
    assert images() == "2" and "a: seed 1 was tested with other images than seed 0" in caplog.text


def rewritten(run, change):
    """The records of a run's test, each changed."""
    path = run / "test" / "per_image.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(one) + "\n" for one in map(change, records) if one))


@pytest.mark.parametrize("named", ["both", "a", "b", "half of b", "otherwise in b"])
def test_an_image_is_compared_whatever_kind_a_list_says_of_it(runs, tmp_path, caplog, named):
    def without(record):
        return {key: value for key, value in record.items() if key != "kind"}

    for run in runs.glob("*/*"):
        if named in "ab" and run.parent.name != named:
            rewritten(run, without)
    if named == "half of b":
        rewritten(runs / "b" / "0", lambda record: without(record) if record["name"] == "copy.jpg" else record)
    if named == "otherwise in b":
        rewritten(runs / "b" / "0", lambda record: {**record, "kind": "paste"} if record["name"] != "1.jpg" else record)
    study(runs, tmp_path / "out", [("a", "b")])
    line = next(line for line in read_study(tmp_path).splitlines() if line.startswith("| a | b |"))
    images, by_seed, everything, *kinds = line.strip(" |").split(" | ")[3:]
    assert (images, by_seed) == ("3", "0.100") and everything.startswith("+0.100 [")
    if named == "otherwise in b":  # of "1.jpg" alone both say the same
        assert kinds == ["+0.500 [+0.500, +0.500]"]
    else:
        assert kinds == ["-0.300 [-0.300, -0.300]", "+0.300 [+0.100, +0.500]"]
    assert "compared" not in caplog.text and " of 3 " not in caplog.text


def test_an_image_of_one_content_is_compared_wherever_it_lies(runs, tmp_path):
    """As in a test of the tampered images alone, whose paths begin at a deeper folder; copies count each."""
    for run in runs.glob("*/*"):
        rewritten(run, lambda record: {**record, "content": record["name"].replace("copy", "1")})
    rewritten(runs / "b" / "0", lambda record: {**record, "path": f"/b/{record['mask']}/{record['name']}"})
    study(runs, tmp_path / "out", [("a", "b")])
    assert "| a | b | 1 | 3 | 0.100 |" in read_study(tmp_path)


def test_images_and_comparisons_that_are_left_out_are_told(runs, tmp_path, caplog):
    rewritten(runs / "b" / "0", lambda record: record if record["name"] != "1.jpg" else None)
    study(runs, tmp_path / "out", [("a", "b")])
    assert "a less b is of 2 of 3 tampered images; not all seeds of both were tested on the others" in caplog.text
    told = "a and b are not compared: no tampered image was tested in the same seeds of both"
    assert told not in caplog.text
    (runs / "b" / "0").rename(runs / "b" / "2")
    study(runs, tmp_path / "out", [("a", "b")])
    assert told in caplog.text and "| a | b |" not in read_study(tmp_path)


def test_a_kind_that_is_called_as_a_column_of_ours_takes_no_place(runs, tmp_path):
    for path in runs.glob("*/*/test/per_image.jsonl"):
        path.write_text(path.read_text().replace('"removal"', '"all"').replace('"splice"', '"AUC"'))
    figures = study(runs, tmp_path / "out", [("a", "b")])["a"]
    assert figures["all"] == pytest.approx([fmean(values) for values in F1["a"]])
    assert figures["AUC"] == pytest.approx([1 - fmean(values) / 4 for values in F1["a"]])
    assert figures["kind 'all'"] == pytest.approx([0.1, 0.2]) and figures["kind 'AUC'"] == pytest.approx([0.7, 0.5])
    line = next(line for line in read_study(tmp_path).splitlines() if line.startswith("| a | b |"))
    assert line.split(" | ")[5].startswith("+0.100 [") and "-0.300 [" in line
    for path in runs.glob("*/*/test/per_image.jsonl"):
        path.write_text(path.read_text().replace('"AUC"', "\"kind 'all'\""))
    figures = study(runs, tmp_path / "again")["a"]  # nor as what that column is called then
    assert figures["kind 'all'"] == pytest.approx([0.1, 0.2]) and len(figures[f"kind {'kind ' + repr('all')!r}"]) == 2


def test_comparisons_of_rows_that_join_to_one_name_have_a_line_each(runs, tmp_path):
    for row, name in (("a", "b - c"), ("b", "a - b"), ("b", "c")):
        shutil.copytree(runs / row / "0", runs / name / "0")
        results = runs / name / "0" / "test" / "results.json"
        results.write_text(json.dumps({**TESTED, "weights": name}))
        for verb in ("sweep", "robust"):
            shutil.rmtree(runs / name / "0" / verb, ignore_errors=True)
    study(runs, tmp_path / "out", [("a", "b - c"), ("a - b", "c"), ("a", "c")])
    text = read_study(tmp_path)
    assert "| a | b - c | 1 | 3 | 0.000 |" in text and "| a - b | c | 1 | 3 | 0.000 |" in text
    assert "| a | c | 1 | 3 | 0.100 |" in text


@pytest.mark.parametrize("name", ["over noise", "false alarm"])
def test_a_row_that_is_called_as_a_column_of_another_takes_no_place(runs, tmp_path, name):
    other = runs / f"a: {name}" / "0"
    shutil.copytree(runs / "a" / "0", other)
    for file in ("test/results.json", "sweep/sweep.json", "robust/robust.json"):
        text = (other / file).read_text().replace("a 0", "other").replace("0.25", "0.75").replace("0.125", "0.625")
        (other / file).write_text(text)
    study(runs, tmp_path / "out")
    text = read_study(tmp_path)
    assert "| ensemble_size=3 | a | 0.250 | 0.125 |" in text and "| jpeg 50 | a | 0.125 | 0.375 |" in text
    assert f"| ensemble_size=3 | a: {name} | 0.750 | 0.125 |" in text
    assert f"| jpeg 50 | a: {name} | 0.625 | 0.375 |" in text


def test_kinds_that_are_called_as_the_columns_of_rows_take_no_place(runs, tmp_path):
    for path in runs.glob("*/*/test/per_image.jsonl"):
        path.write_text(path.read_text().replace('"removal"', '"row"').replace('"splice"', '"less"'))
    study(runs, tmp_path / "out", [("a", "b")])
    text = read_study(tmp_path)
    assert "| row | less | seeds | images | by seed | all | kind 'less' | kind 'row' |" in text
    assert "| a | b | 1 | 3 | 0.100 |" in text


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(DiffIMLError, match="benco reproduce study"):
        study(tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("run.json", "{}", "run.json is no list of starts"),
        ("run.json", "[3]", "run.json is 3"),
        ("log.jsonl", "{", "log.jsonl, line 1 is no JSON"),
        ("log.jsonl", '{"update": 1}', "log.jsonl, line 1 lacks loss"),
        ("log.jsonl", '{"update": 1, "loss": {}, "f1": 99}', "line 1 says .* f1 0 to 1"),
        ("log.jsonl", '{"update": -1, "loss": {}}', "line 1 says .* update from 0 on"),
        ("sweep/sweep.json", '{"rows": 3}', "rows is 3"),
        ("robust/robust.json", "[]", r"robust.json is \[\]"),
    ],
)
def test_files_of_another_form_are_refused(runs, tmp_path, file, content, told):
    (runs / "a" / "0" / file).write_text(content)
    with pytest.raises(DiffIMLError, match=told):
        study(runs, tmp_path / "out")


@pytest.mark.parametrize(
    ("file", "figure"),
    [("sweep/sweep.json", '"std": 0.0625'), ("sweep/sweep.json", '"f1": 0.25'), ("robust/robust.json", "0.125")],
)
def test_figures_that_no_test_has_are_refused(runs, tmp_path, file, figure):
    path = runs / "a" / "0" / file
    path.write_text(path.read_text().replace(figure, figure.replace("0.", "5.")))
    with pytest.raises(DiffIMLError, match=f"{file} has a figure of 5.* expected 0 to 1"):
        study(runs, tmp_path / "out")
