import json
import re
from dataclasses import replace
from statistics import fmean

import pytest

from diffiml_plugin.cli import sweep as verb
from diffiml_plugin.cli.command_line import parse_arguments
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.evaluation import test as testing
from diffiml_plugin.evaluation.sweep import SWEPT, sweep
from diffiml_plugin.method.mit import MixTransformer

pytestmark = pytest.mark.usefixtures("tiny_model")
DIFFIML = {"encoder": "segformer_b0", "ensemble_size": 2, "num_inference_steps": 2}
VARY = ["num_inference_steps=1,2", "ensemble_size=1,2", "tta=true"]


@pytest.fixture
def settings(scored_settings, stored):
    return replace(scored_settings, checkpoint_path=str(stored("DiffIML", **DIFFIML)))


def records(folder, name="per_image.jsonl"):
    return [json.loads(line) for line in open(f"{folder}/{name}")]


def test_each_row_is_what_a_test_with_that_setting_gives(settings, capsys):
    results = sweep(settings, vary=VARY, noise_seeds=2)
    assert json.load(open(f"{settings.output_dir}/sweep.json")) == results
    printed, lines = capsys.readouterr().out, records(settings.output_dir, "sweep_per_image.jsonl")
    assert len(lines) == 4 * 2 * 4  # images, seeds, distinct settings
    rows = {(row["setting"], row["value"]): row["datasets"]["tiny"] for row in results["rows"]}
    assert rows["num_inference_steps", 2] == rows["ensemble_size", 2]
    for (name, value), row in list(rows.items())[::2]:
        elsewhere = replace(settings, output_dir=f"{settings.output_dir}_{name}_{value}")
        testing.test(elsewhere, {name: value, "noise_seed": 1})
        config = {"num_inference_steps": 2, "ensemble_size": 2, "tta": False, name: value}
        runs = [[line for line in lines if {**config, "noise_seed": seed}.items() <= line.items()] for seed in (0, 1)]
        scores = [[line["score"] for line in run] for run in runs]
        assert scores[1] == pytest.approx([line["score"] for line in records(elsewhere.output_dir)], abs=1e-6)
        assert scores[0] != scores[1]
        assert row["runs"] == pytest.approx([fmean(line["f1"] for line in run if line["label"]) for run in runs])
        assert f"{row['f1']:.4f} ± {row['std']:.4f}" in printed


def test_help_names_every_setting_that_can_be_varied(capsys):
    with pytest.raises(SystemExit):
        parse_arguments("benco sweep", verb, ["--help"])
    told = capsys.readouterr().out.split("--vary NAME=VALUE,VALUE", 2)[2].split("--")[0]
    assert SWEPT.keys() <= set(re.findall(r"\w+", told))


def test_words_of_one_setting_add_up(settings):
    rows = sweep(settings, vary=["ensemble_size=1", "ensemble_size=2"], noise_seeds=1)["rows"]
    assert [row["value"] for row in rows] == [1, 2]


def test_each_image_is_encoded_once_for_each_view(settings, monkeypatch):
    encoded, forward = [], MixTransformer.forward
    monkeypatch.setattr(MixTransformer, "forward", lambda *given: encoded.append(len(given[1])) or forward(*given))
    sweep(settings, vary=VARY, noise_seeds=3)
    assert encoded == [4, 4]


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        ("ensemble=1", "did you mean 'ensemble_size'"),
        ("ensemble_size=1,two", "'two' is no int"),
        ("tta=1", "1 is no bool"),
        ("sampler=ddmp", "sampler='ddmp' is not one of"),
    ],
)
def test_bad_settings_are_named(settings, vary, message):
    with pytest.raises(DiffIMLError, match=message):
        sweep(settings, vary=[vary], noise_seeds=1)


@pytest.mark.parametrize("seeds", [0, 1001, 10**12])
def test_no_run_at_all_or_runs_without_end_are_refused(settings, seeds):
    with pytest.raises(DiffIMLError, match=f"--noise_seeds {seeds} is outside"):
        sweep(settings, vary=VARY, noise_seeds=seeds)


def test_a_table_that_no_sweep_fills_is_refused(settings):
    with pytest.raises(DiffIMLError, match="--experiment table2: no table that `benco sweep` fills"):
        sweep(replace(settings, experiment="table6e table2"), vary=VARY, noise_seeds=1)


def test_a_model_that_does_not_sample(scored_settings):
    with pytest.raises(DiffIMLError, match="TinyIML has no sampling settings"):
        sweep(scored_settings, vary=VARY, noise_seeds=1)
