import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pytest
from PIL import Image

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.evaluation import robust, sweep
from diffiml_plugin.evaluation import test as testing
from diffiml_plugin.evaluation.published import PUBLISHED, figure4_curves
from diffiml_plugin.evaluation.statistics import mean_figure
from diffiml_plugin.reports import tables as report_tables
from diffiml_plugin.reports.beside import published_tables
from diffiml_plugin.reports.report import report
from diffiml_plugin.reports.tables import Run, comparisons, robust_curve, robust_tables

pytestmark = pytest.mark.usefixtures("tiny_model")
COST = {
    "model": "DiffIML",
    "image_size": 512,
    "params_M": {"total": 48.5},
    "GFLOPs": {"N=1": 52.3, "N=5": 102.2},
    "fps": 12.0,
    "settings": {"latent_codec": "lightvae-release"},
}


@pytest.fixture
def runs(scored_settings, tiny_dataset, tmp_path, stored, monkeypatch):
    """Folder of a test that fills a row of Table 5, a robustness run and a sweep, on two of the benchmark's names."""
    wrapper, _, text = robust.PERTURBATIONS["jpeg"]
    monkeypatch.setattr(robust, "PERTURBATIONS", {"jpeg": (wrapper, (90, 50), text)})
    monkeypatch.setattr(report_tables, "PERTURBATIONS", robust.PERTURBATIONS)
    sets = tiny_dataset / "sets.json"
    sets.write_text(json.dumps({"CASIAv1": "list.json", "Columbia": "."}))
    settings = replace(scored_settings, test_data_path=str(sets))
    testing.test(replace(settings, experiment="table5/SegFormerIML", output_dir=str(tmp_path / "runs" / "test")))
    robust.robust(replace(settings, output_dir=str(tmp_path / "runs" / "robust")))
    checkpoint = stored("DiffIML", encoder="segformer_b0", num_inference_steps=2, ensemble_size=1)
    sweep.sweep(
        replace(
            settings, checkpoint_path=str(checkpoint), experiment="table7", output_dir=str(tmp_path / "runs" / "sweep")
        ),
        vary=["ensemble_size=1,3"],
        noise_seeds=2,
    )
    (tmp_path / "cost.json").write_text(json.dumps([COST]))
    return tmp_path / "runs"


def records(path):
    return [json.loads(line) for line in open(path)]


def squeezed(text):
    """Without what aligns the columns."""
    return re.sub(" +", " ", text)


def rows(text, title):
    """Cells of a Markdown table by its first two columns."""
    lines = squeezed(text).split(f"### {title}")[1].split("###")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines if line.startswith("| ")]
    head, *body = cells
    return {tuple(line[:2]): dict(zip(head[2:], line[2:], strict=False)) for line in body}


def test_a_report_of_everything(runs, tmp_path):
    report([str(runs), str(tmp_path / "cost.json")], tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    sections = re.findall("^## (.*)", text, re.M)
    own = ["Your tests", "Robustness", "Sweeps", "Cost", "All figures of each test"]
    assert sections == [*own, "The paper's tables", "Where the figures come from"]
    results = json.loads((runs / "test" / "results.json").read_text())
    *figures, origin = text.split("\n## ")
    assert results["configuration"] in origin and results["configuration"] not in "".join(figures)
    assert "missing" not in text

    # ours, the paper's and the difference, from the records of the images
    table = rows(text, "Table 5")
    found = [r for r in records(runs / "test" / "per_image.jsonl") if r["dataset"] == "CASIAv1" and r["label"] == 1]
    f1 = fmean(record["f1"] for record in found)
    ours = table["SegFormerIML", "ours"]
    assert ours["CASIAv1"].startswith(f"{f1:.4f} [") and ours["COVERAGE"] == ours["mean"] == "-"
    assert table["SegFormerIML", "paper"]["CASIAv1"] == "0.557"
    assert table["SegFormerIML", "difference"]["CASIAv1"] == f"{f1 - 0.557:+.4f}"
    assert ("DiffIML", "ours") not in table and ours["run"] == "test" and results["command"] in text
    assert rows(text, "Pixel-F1 at 0.5")["test", "TinyIML"]["CASIAv1"] == ours["CASIAv1"]
    assert rows(text, "Table 2")["TruFor", "paper"]["mean"] == "0.395"

    # the sweep: each image's mean over the seeds
    swept = [
        r
        for r in records(runs / "sweep" / "sweep_per_image.jsonl")
        if (r["dataset"], r["ensemble_size"], r["label"]) == ("CASIAv1", 3, 1)
    ]
    assert len(swept) == 2 * 3
    seeds = [fmean(r["f1"] for r in swept if r["noise_seed"] == seed) for seed in (0, 1)]
    spread = f"{fmean(seeds):.4f} ± {stdev(seeds):.4f} ["
    assert re.search(rf"\| ensemble_size=3 \| (\*\*)?{re.escape(spread)}", squeezed(text))
    assert rows(text, "Table 7")["3", "ours"]["CASIAv1"].startswith(spread)
    assert rows(text, "Table 7")["3", "paper"]["CASIAv1"] == "0.7392 ± 0.0028"

    # an interval beside each mean
    shown = squeezed(text).split("## All figures of each test")[1].split("| CASIAv1 |")[1].splitlines()[0].split(" | ")
    false_alarm = [r["false_alarm_area"] for r in records(runs / "test" / "per_image.jsonl") if r["label"] == 0]
    assert f"{fmean(false_alarm):.4f} [" in text and sum("[" in cell for cell in shown) == 7

    # cost
    assert rows(text, "Table 4")["DiffIML, LightVAE, N=1", "ours"]["FPS"] == "12.0000"
    assert rows(text, "Table 4")["DiffIML, LightVAE, N=5", "ours"]["FPS"] == "-"
    assert "| DiffIML, LightVAE, N=1 | 48.50 | 52.30 | 12.00 |" in squeezed(text)

    # robustness
    found = records(runs / "robust" / "robust_per_image.jsonl")
    perturbed = {
        name: fmean(r["f1"] for r in found if (r["dataset"], r["variant"], r["label"]) == (name, "jpeg 50", 1))
        for name in ("CASIAv1", "Columbia")
    }
    curve = robust_curve(Run(runs / "robust" / robust.RESULTS, {}, found))["jpeg"]
    assert list(curve) == [0, 90, 50] and curve[50] == pytest.approx(fmean(perturbed.values()))
    assert f"| {perturbed['Columbia']:.4f} [" in next(
        line for line in squeezed(text).split("JPEG quality")[1].splitlines() if line.startswith("| Columbia")
    )

    html = (tmp_path / "report" / "report.html").read_text()
    assert not re.search(r"(src|href)=['\"](?!data:)", html) and "prediction" in html and "Best and worst" in html
    own, _, published = html.partition("<details>")
    assert "Your tests" in own and "Table 2" not in own and "Table 2" in published
    assert html.count("<img") == 1 + 2 * 3 * 3  # curves; in two sets three images with truth and prediction
    latex = (tmp_path / "report" / "report.tex").read_text()
    tables = [latex.count(word) for word in (r"\begin{table}", r"\resizebox", r"\end{tabular}}", r"\end{table}")]
    assert tables == [text.count("### ")] * 4
    assert not re.search(r"(?<!\\)[_#%]", latex) and r"512$\times$512" in latex


def test_pairs_that_were_left_out_are_told_below_every_table(runs, tmp_path):
    said = "Faulty pairs that --keep_going left out, of which no figure tells: Columbia 3."
    found = {}
    for file in (runs / "test" / "results.json", runs / "robust" / "robust.json", runs / "sweep" / "sweep.json"):
        found[file.parent.name] = results = {**json.loads(file.read_text()), "left_out": {"Columbia": 3}}
        file.write_text(json.dumps(results))
    printed = [testing.table(found["test"]), *robust.tables(found["robust"]), sweep.table(found["sweep"])]
    assert {table.note for table in printed} == {said}
    report([str(runs)], tmp_path / "report")
    named = dict(part.split("\n", 1) for part in (tmp_path / "report" / "report.md").read_text().split("\n### ")[1:])
    silent = [title for title, text in named.items() if said not in text]
    assert not [t for t in silent if not t.startswith(("Table", "Configurations"))]
    assert [t.split(":")[0] for t in named if t.startswith("Table") and t not in silent] == ["Table 5", "Table 7"]
    assert f"test: {said}" in named[next(title for title in named if title.startswith("Table 5"))]


def test_no_pictures_by_other_weights_than_those_tested(runs, tmp_path, stored, caplog):
    stored(width=8)  # in the place of the tested ones
    report([str(runs / "test")], tmp_path / "report")
    assert "TinyIML.safetensors is no longer the weights that were tested" in caplog.text
    html = (tmp_path / "report" / "report.html").read_text()
    assert html.count("<img") == 2 * 3 * 2  # in two sets three images with truth alone


def test_pictures_of_results_of_an_earlier_version(scored_settings, tmp_path, stored, caplog):
    checkpoint = stored("DiffIML", encoder="segformer_b0", num_inference_steps=1, ensemble_size=1)
    testing.test(replace(scored_settings, checkpoint_path=str(checkpoint)))
    file = tmp_path / "out" / "results.json"
    results = json.loads(file.read_text())
    del results["settings"]["mask_bias"]  # which came later
    file.write_text(json.dumps(results))
    report([str(tmp_path / "out")], tmp_path / "fewer")
    assert "no predictions shown" not in caplog.text
    assert (tmp_path / "fewer" / "report.html").read_text().count("<img") == 3 * 3

    del results["weights"]
    file.write_text(json.dumps(results))
    report([str(tmp_path / "out")], tmp_path / "unknown")
    assert "no predictions shown of out: its results do not say which weights were tested" in caplog.text
    assert (tmp_path / "unknown" / "report.html").read_text().count("<img") == 3 * 2


def test_no_pictures_of_other_images_than_those_tested(runs, tmp_path, caplog):
    (replaced, *_) = [record for record in records(runs / "test" / "per_image.jsonl") if record["f1"] is not None]
    image = Image.open(replaced["path"])
    Image.new("RGB", image.size, "red").save(replaced["path"])
    report([str(runs / "test")], tmp_path / "report")
    assert f"{replaced['path']} or its mask is no longer what was tested" in caplog.text
    html = (tmp_path / "report" / "report.html").read_text()
    assert replaced["name"] + ": pixel-F1" not in html and ": pixel-F1" in html


def test_vanished_regions_are_counted_beside_the_figures(tmp_path):
    records = [
        {"dataset": name, "label": 1, "f1": 0.5 * area, "score": None, "mask_area": area}
        for name, area in (("one", 0), ("one", 1), ("two", 1))
    ]
    table = report_tables.test_table(Run(tmp_path, {"model": "m", "configuration": "c"}, records))
    assert table.head == ["dataset", "images", "tampered", "vanished", "pixel-level F1"]
    assert [row[3] for row in table.rows] == [1, None, None] and str(table.rows[0][4]).startswith("0.2500 [")


def test_the_best_of_several_runs_stands_out(tmp_path):
    def run(name, f1, area, *datasets):
        image = {"path": "/i.png", "mask": "/m.png", "label": 1}
        records = [{**image, "dataset": d, "f1": f1, "false_alarm_area": None} for d in datasets]
        records += [{**image, "dataset": d, "label": 0, "f1": None, "false_alarm_area": area} for d in datasets]
        return Run(tmp_path, {"model": "m"}, records, name)

    f1, false_alarms = comparisons([run("a", 0.5, 0.1, "one", "two"), run("b", 0.75, 0.2, "one")])
    assert f1.head == false_alarms.head == ["run", "model", "one", "two", "mean"]
    assert f1.bold == {(1, 2)} and false_alarms.bold == {(0, 2)}  # one alone is not best of anything
    assert "**0.7500 [0.750, 0.750]**" in f1.markdown() and f1.rows[1][3] is None is f1.rows[1][4]
    assert comparisons([run("a", 0.5, 0.1, "one")])[0].bold == set()


def test_sets_of_one_name_are_compared_if_they_hold_the_same_images(tmp_path, caplog):
    def run(name, f1, *paths, mask="m.png"):
        records = [{"dataset": "val", "path": path, "mask": mask, "label": 1, "f1": f1} for path in paths]
        return Run(tmp_path, {"model": "m"}, records, name)

    a, b = run("a", 0.5, "/d/1.png", "/d/2.png"), run("b", 0.75, "/d/2.png", "/d/1.png")
    (same,) = comparisons([a, b])
    assert same.head == ["run", "model", "val"] and same.bold == {(1, 2)} and not caplog.text
    (other,) = comparisons([a, run("b", 0.75, "/d/1.png", "/d/3.png"), run("c", 0.25, "/d/1.png", "/d/2.png")])
    assert other.head == ["run", "model", "val, images of a", "val, images of b", "mean"] and other.bold == {(0, 2)}
    assert [[cell and cell.value for cell in row[2:]] for row in other.rows] == [
        [0.5, None, None],
        [None, 0.75, None],
        [0.25, None, None],
    ]
    assert not caplog.text
    (elsewhere,) = comparisons([a, run("b", 0.75, "/e/1.png", "/e/2.png")])
    assert elsewhere.head == same.head
    assert "val: /d/1.png with m.png (a) and /e/1.png with m.png (b) count as one image, for their" in caplog.text
    comparisons([a, run("b", 0.75, "/d/1.png", "/d/2.png", mask="other.png")])
    assert "/d/1.png with other.png (b) count" in caplog.text


def test_sets_of_one_name_and_paths_are_told_apart_by_their_content(tmp_path, caplog):
    def run(name, folder, *contents):
        records = [
            {"dataset": "val", "path": f"{folder}/{number}.png", "mask": "m.png", "label": 1, "f1": 0.5}
            | ({} if content is None else {"content": content})
            for number, content in enumerate(contents)
        ]
        return Run(tmp_path, {"model": "m"}, records, name)

    def columns(*runs):
        (table,) = comparisons(runs)
        return [[number for number, cell in enumerate(row[2:]) if cell] for row in table.rows]

    a, replaced = run("a", "/d", "1", "2"), run("b", "/d", "1", "other")
    assert columns(a, replaced, run("c", "/d", "1", "2")) == [[0], [1], [0]]
    assert columns(a, run("b", "/copy", "1", "2")) == [[0], [0]] and not caplog.text  # the same, wherever it lies
    earlier = run("e", "/e", None, None)
    assert columns(earlier, a, replaced) == [[0], [0], [1]]  # of no two that differ is it the link
    assert "val: /e/0.png with m.png (e) and /d/0.png with m.png (a) count as one image" in caplog.text


def test_runs_of_one_name_are_told_apart_by_their_path(runs, tmp_path):
    copy = tmp_path / "other" / "test"
    shutil.copytree(runs / "test", copy)
    report([str(runs / "test"), str(copy)], tmp_path / "report")
    table = rows((tmp_path / "report" / "report.md").read_text(), "Pixel-F1 at 0.5")
    assert [name for name, _ in table] == [str(runs / "test"), str(copy)]


def test_a_path_that_is_anothers_name_tells_no_runs_apart_and_a_run_counts_once(runs, tmp_path, monkeypatch):
    """Of a/test, b/test and old/a/test, given as a, b and old, two would be "a/test"."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "old/a"):
        shutil.copytree(runs / "test", Path(name, "test"))
    report(["a", "b", "old", "old/../a", "b/test"], tmp_path / "report")
    table = rows((tmp_path / "report" / "report.md").read_text(), "Pixel-F1 at 0.5")
    assert [name for name, _ in table] == [str(tmp_path / name / "test") for name in ("a", "b", "old/a")]


def test_a_test_fills_the_row_of_its_model(tmp_path):
    def run(model):
        record = {"dataset": "Columbia", "f1": 0.5}
        return Run(
            tmp_path,
            {"model": model, "settings": {"experiment": "table2 table5/row"}},
            [record, record],
        )

    tables = published_tables([run("Mesorch"), run("SparseViT"), run("NewIML")], [], [])
    ours = [row[0] for row in tables[0].rows if row[1] == "ours"]
    assert ours == ["Mesoscopic", "SparseViT", "NewIML"]
    assert ["row", "ours"] in [row[:2] for row in next(t for t in tables if "Table 5" in t.title).rows]


def test_the_zoos_rows_land_beside_the_published(tmp_path):
    def row(model, size, members, fps, **settings):
        return {
            "model": model,
            "image_size": size,
            "params_M": {"total": fps and 2.5},
            "GFLOPs": {members: None},
            "fps": fps,
            "settings": settings,
        }

    (tmp_path / "complexity.json").write_text(
        json.dumps(
            [
                row(
                    "DiffIML",
                    512,
                    "N=1",
                    8.0,
                    latent_codec="lightvae-release",
                    timed="a GPU",
                    command="benco complexity --zoo",
                ),
                row("DiffIML", 512, "N=5", 4.0, latent_codec="lightvae-release"),
                row("DiffIML", 512, "N=1", 2.0, latent_codec="sd-vae"),
                row("IML_ViT", 1024, "N=1", 1.0),
                row("IML_ViT", 512, "N=1", 5.0),
                row("unet", 512, "N=1", None),
            ]
        )
    )
    report([str(tmp_path)], tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    table = rows(text, "Table 4")
    assert table["DiffIML, LightVAE, N=1", "ours"]["run"] == "complexity.json (a GPU)"
    file = tmp_path / "complexity.json"
    assert f"| complexity.json (a GPU) | DiffIML | | {file} | benco complexity --zoo |" in squeezed(text)
    ours = {name: cells["FPS"] for (name, figures), cells in table.items() if figures == "ours"}
    assert ours == {
        "IML-ViT (1024²)": "1.0000",
        "DiffIML, VAE, N=1": "2.0000",
        "DiffIML, LightVAE, N=1": "8.0000",
        "DiffIML, LightVAE, N=5": "4.0000",
        "IML-ViT": "5.0000",
    }
    assert table["IML-ViT (1024²)", "difference"]["FPS"] == "-18.5300"


def test_costs_of_one_name_are_told_apart_by_their_settings(tmp_path, caplog):
    files = []
    for steps, gflops in ((4, 10.0), (8, 20.0)):
        settings = {**COST["settings"], "num_inference_steps": steps, "command": f"benco complexity {steps}"}
        files.append(tmp_path / str(steps) / "complexity.json")
        files[-1].parent.mkdir()
        files[-1].write_text(json.dumps({**COST, "GFLOPs": {"N=1": gflops}, "settings": settings}))
    report([str(tmp_path)], tmp_path / "report")
    text = squeezed((tmp_path / "report" / "report.md").read_text())
    for steps, gflops in ((4, "10.00"), (8, "20.00")):
        assert f"| DiffIML, LightVAE, N=1 (num_inference_steps {steps}) | 48.50 | {gflops} | 12.00 |" in text
    assert f"several runs fill table4/DiffIML, LightVAE, N=1; shown is {files[1]}, not {files[0]}" in caplog.text
    assert all(text.count(f"| {file} | DiffIML | | {file} |") == 1 for file in files)
    assert "(" not in str(report_tables.cost_table([COST]))
    assert str(report_tables.cost_table([COST, COST])).count("N=5") == 2  # the same is counted again, not dropped


def test_costs_are_counted_as_the_paper_counts_and_whole():
    by_count = {"whole": {"N=1": 173.5}, "published": {"N=1": 53.27}, "run": {"N=1": 169.3}}
    cost = {
        "model": "DiffIML",
        "image_size": 512,
        "params_M": {"total": 48.77},
        "GFLOPs": by_count["whole"],
        "GFLOPs_by_count": by_count,
        "fps": 3.0,
        "settings": {"latent_codec": "lightvae-release", "denoiser": "release"},
    }
    light = {**cost, "settings": {"latent_codec": "lightvae", "denoiser": "light"}}
    table = next(table for table in published_tables([], [], [("a", cost), ("b", light)]) if "Table 4" in table.title)
    assert table.head == ["method", "figures", "params M", "GFLOPs", "FPS", "counted", "run"]
    found = {(row[0], row[1]): row[2:6] for row in table.rows}
    name, one_step, whole = "DiffIML, LightVAE, N=1", "one step, no self-attention", "every step, attention too"
    assert found[name, "paper"] == ["48.51", "53.01", "69.48", one_step]
    assert list(map(str, found[name, "ours"])) == ["48.7700", "53.2700", "3.0000", one_step]
    assert found[name, "difference"][1] == "+0.2600"
    assert list(map(str, found[f"{name}, counted whole", "ours"])) == ["48.7700", "173.5000", "None", whole]
    assert ("DiffIML, light, our LightVAE, N=1", "ours") in found and found["TruFor", "paper"][3] == "not said"


def test_figure_4_stands_beside_ours():
    curves = figure4_curves()
    assert len(curves) == 9 and curves["DiffIML"]["jpeg"] == {
        0: 0.73, 100: 0.716, 90: 0.692, 80: 0.604, 70: 0.603, 60: 0.559, 50: 0.46
    }  # fmt: skip
    for curve in curves.values():
        for name, (_, strengths, _) in robust.PERTURBATIONS.items():
            assert list(curve[name]) == [0, *strengths]
    run = Run(Path("runs"), {"datasets": {"CASIAv1": {}, "Columbia": {}}, "configuration": "c"}, [])
    table = robust_tables(run)[0]
    assert [row[0] for row in table.rows] == ["CASIAv1", "Columbia", "CASIAv1, paper"]
    assert table.rows[2][1:3] == [0.73, 0.716]


def test_intervals_cover_the_mean_and_shrink_with_more_images():
    random = np.random.default_rng(1)
    few, many = (mean_figure([random.random(n).tolist(), random.random(n).tolist()]) for n in (10, 1000))
    for figure in (few, many):
        low, high = figure.interval
        assert low < figure.value < high
    deviation = 1.96 * np.sqrt(1 / 12 / 1000 / 2)
    assert many.interval[1] - many.interval[0] == pytest.approx(2 * deviation, rel=0.1)


def test_published_means_are_the_means_of_their_rows():
    for name, table in PUBLISHED.items():
        assert all(len(row) == len(table["columns"]) for row in table["rows"].values()), name
        assert set(table["reproduced"]) <= table["rows"].keys()
    for name in ("table3", "table5"):
        for row in PUBLISHED[name]["rows"].values():
            assert fmean(row[:-1]) == pytest.approx(row[-1], abs=0.002), (name, row)


@pytest.mark.parametrize("figure", ["48.5", "102.2", "12.0"])
def test_a_cost_below_nothing_is_refused(tmp_path, figure):
    (tmp_path / "cost.json").write_text(json.dumps(COST).replace(figure, f"-{figure}"))
    with pytest.raises(DiffIMLError, match=f"cost.json has a figure of -{float(figure):g}; expected 0 or more"):
        report([str(tmp_path / "cost.json")], tmp_path / "report")


def test_what_holds_no_results_is_named(tmp_path):
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(DiffIMLError, match="other.json is not of benco complexity"):
        report([str(tmp_path / "other.json")], tmp_path / "report")
    with pytest.raises(DiffIMLError, match="holds no results.json, robust.json, sweep.json"):
        report([str(tmp_path)], tmp_path / "report")
