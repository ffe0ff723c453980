import json
import re
import shutil
from pathlib import Path

import pytest

from diffiml_plugin.api import load
from diffiml_plugin.cli.main import main
from diffiml_plugin.files import file_digest
from diffiml_plugin.weights.files import load_weights, read_metadata, save_weights


@pytest.fixture
def words(tiny_model, stored, tmp_path):
    """A release; results.json is of the test of its source."""
    source = stored()
    tested = {"command": "benco test", "configuration": "0", "model": "TinyIML", "checkpoint": "x", "settings": {}}
    tested |= {"datasets": {}, "mean": {}, "weights": file_digest(source)}
    (tmp_path / "results.json").write_text(json.dumps(tested))
    return ["release", str(source), str(tmp_path / "given.safetensors")]


IMAGE = {"dataset": "val", "index": 0, "name": "a.png", "path": "a.png", "mask": "mask.png"}


def tampered(f1: float, auc: float, index: int = 0) -> dict:
    return {**IMAGE, "index": index, "label": 1, "f1": f1, "auc": auc, "false_alarm_area": None, "score": 0.9}


def test_statement_and_figures_stand_in_the_file_and_in_its_card(words, tmp_path, capsys):
    records = [tampered(0.4, 0.8), tampered(0.6, 0.9, 1)]
    records.append({**IMAGE, "index": 2, "label": 0, "f1": None, "auc": None, "false_alarm_area": 0.25, "score": 0.1})
    (tmp_path / "per_image.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    stated = ["--data", "squares", "--licence", "mine", "--limits", "circles are missed"]
    assert main([*words, *stated, "--results", str(tmp_path / "results.json")]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'given.safetensors'}: 0.0 MB")
    metadata, card = read_metadata(tmp_path / "given.safetensors"), (tmp_path / "given.md").read_text()
    assert (metadata["data"], metadata["licence"], metadata["limits"]) == ("squares", "mine", "circles are missed")
    assert metadata["figures"]["val"]["pixel-level F1"] == [0.5, pytest.approx(0.4), pytest.approx(0.6)]
    assert metadata["figures"]["val"]["false alarm area"][0] == 0.25
    assert "| val |" in card.replace("  ", "") and "0.500 [0.400, 0.600]" in card and "squares" in card


def test_figures_are_given_with_no_weights_but_theirs(words, tmp_path, monkeypatch, capsys):
    """A training beside replaces its best weights while the figures are read."""
    _, source, target = words

    def replaced(path):
        save_weights(
            source, {name: tensor + 1 for name, tensor in load_weights(source)[0].items()}, read_metadata(source)
        )
        return [tampered(0.4, 0.8)]

    monkeypatch.setattr("diffiml_plugin.evaluation.records.read_records", replaced)
    assert main([*words, "--results", str(tmp_path / "results.json")]) == 2
    assert "was replaced while it was in use" in capsys.readouterr().err and not Path(target).exists()


def test_figures_do_not_depend_on_the_order_of_the_records(words, tmp_path):
    figures = (("a", 0.2), ("b", 0.7), ("a", 0.4), ("b", 0.9))
    of_sets = [{**tampered(f1, f1, index), "dataset": name} for index, (name, f1) in enumerate(figures)]
    (tmp_path / "per_image.jsonl").write_text("".join(json.dumps(record) + "\n" for record in of_sets))
    assert main([*words, "--results", str(tmp_path / "results.json")]) == 0
    found = read_metadata(tmp_path / "given.safetensors")["figures"]
    means = {name: figures["pixel-level F1"][0] for name, figures in found.items()}
    assert means == {"a": pytest.approx(0.3), "b": pytest.approx(0.8)}


def test_pairs_that_the_test_left_out_are_told(words, tmp_path):
    results = tmp_path / "results.json"
    results.write_text(json.dumps({**json.loads(results.read_text()), "left_out": {"val": 3}}))
    (tmp_path / "per_image.jsonl").write_text(json.dumps(tampered(0.4, 0.8)) + "\n")
    assert main([*words, "--results", str(results)]) == 0
    card = (tmp_path / "given.md").read_text()
    assert "Faulty pairs that --keep_going left out, of which no figure tells: val 3." in card
    assert card.count(", 3 faulty pairs left out") == 2  # in the header, of F1 and AUC
    assert main(["release", words[2], str(tmp_path / "again.safetensors")]) == 0  # which keeps no figures
    assert "aulty pairs" not in (tmp_path / "again.md").read_text()


def test_the_card_says_how_to_load_this_very_file(words, tmp_path, monkeypatch):
    """Whatever else is called so: a training's folder, the model that travels along."""
    monkeypatch.chdir(tmp_path)
    Path("small").mkdir()
    shutil.copy(words[1], Path("small", "best.safetensors"))
    assert main([*words[:2], "small.safetensors"]) == 0
    (source,) = re.findall(r"load\('(.*)'\)\('photo.jpg'\)", Path("small.md").read_text())
    assert load(source, device="cpu").description["sha256"] == file_digest(Path("small.safetensors"))
    assert Path("small.md").read_text().count("\n# small\n") == 1


def test_nothing_needs_to_be_stated(words, tmp_path):
    assert main(words) == 0
    assert read_metadata(tmp_path / "given.safetensors").keys() == {"model", "input", "config"}
    assert "Not stated." in (tmp_path / "given.md").read_text()


@pytest.mark.parametrize(
    "records, told", [(None, "no records of `benco test`"), ("{", "no records"), ("", "no figures")]
)
def test_results_without_records_are_refused(words, tmp_path, capsys, records, told):
    if records is not None:
        (tmp_path / "per_image.jsonl").write_text(records)
    assert main([*words, "--results", str(tmp_path / "results.json")]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1 and not (tmp_path / "given.safetensors").exists()


@pytest.mark.parametrize("weights", [{"weights": 64 * "0"}, {}], ids=["others", "not said"])
def test_figures_of_other_weights_are_refused(words, tmp_path, capsys, weights):
    results = tmp_path / "results.json"
    tested = json.loads(results.read_text())
    del tested["weights"]
    results.write_text(json.dumps(tested | weights))
    (tmp_path / "per_image.jsonl").write_text(json.dumps(tampered(0.4, 0.8)) + "\n")
    assert main([*words, "--results", str(results)]) == 2
    assert "results.json is of other weights" in capsys.readouterr().err and not list(tmp_path.glob("given.*"))


@pytest.mark.parametrize(
    "own, other",
    [
        ({"width": 4}, {"width": 5}),
        ({"image_size": 64}, {"image_size": 32}),
        ({"tta": False}, {"tta": True}),
        ({"precision": "fp16"}, {"precision": "bf16"}),
    ],
)
def test_figures_of_other_settings_are_refused(words, tmp_path, capsys, own, other):
    """Of the constructor, of its input, of the test."""
    results = tmp_path / "results.json"
    tested = json.loads(results.read_text())
    (tmp_path / "per_image.jsonl").write_text(json.dumps(tampered(0.4, 0.8)) + "\n")
    results.write_text(json.dumps(tested | {"settings": other}))
    assert main([*words, "--results", str(results)]) == 2
    assert f"with other {next(iter(other))} than its own" in capsys.readouterr().err and not list(
        tmp_path.glob("given.*")
    )
    results.write_text(json.dumps(tested | {"settings": own}))
    assert main([*words, "--results", str(results)]) == 0


def test_what_was_stated_before_stays(words, tmp_path, capsys):
    verb, source, first = words
    assert main([*words, "--licence", "mine", "--limits", "circles are missed"]) == 0
    again, other, both = (str(tmp_path / f"{name}.safetensors") for name in ("again", "other", "both"))
    assert main([verb, first, again, "--limits", "few"]) == 0
    assert (read_metadata(again)["licence"], read_metadata(again)["limits"]) == ("mine", "few")
    weights, metadata = load_weights(source)
    save_weights(tmp_path / "later.safetensors", {name: 2 * tensor for name, tensor in weights.items()}, metadata)
    assert main([verb, str(tmp_path / "later.safetensors"), other, "--licence", "yours"]) == 0
    assert main([verb, first, other, both]) == 2 and "state different licence" in capsys.readouterr().err
    assert main([verb, first, other, both, "--licence", "ours"]) == 0 and read_metadata(both)["licence"] == "ours"


def test_a_mean_has_no_figures_before_it_is_tested(words, tmp_path, capsys):
    assert main([*words[:2], *words[1:], "--results", str(tmp_path / "results.json")]) == 2
    assert "cannot be of the mean of 2 checkpoints" in capsys.readouterr().err and not list(tmp_path.glob("given.*"))


def test_weights_are_no_md_which_their_card_is(words, tmp_path, capsys):
    assert main([*words[:2], str(tmp_path / "given.md")]) == 2
    assert "given.md is no .safetensors file" in capsys.readouterr().err and not (tmp_path / "given.md").exists()


@pytest.mark.parametrize("left", [["given.safetensors"], ["given.safetensors", "given.md"]])
def test_a_release_that_was_killed_is_finished_by_the_same_command_alone(words, tmp_path, capsys, left):
    assert main(words) == 0
    files = [tmp_path / "given.safetensors", tmp_path / "given.md"]
    whole = [file.read_bytes() for file in files]
    for file in files:
        if file.name not in left:
            file.unlink()
    there = {file: file.read_bytes() for file in files if file.exists()}
    weights, metadata = load_weights(words[1])
    save_weights(tmp_path / "other.safetensors", {name: 2 * tensor for name, tensor in weights.items()}, metadata)
    assert main([words[0], str(tmp_path / "other.safetensors"), words[2]]) == 2
    assert "given.safetensors is there already" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in files if file.exists()} == there
    assert main(words) == 0 and [file.read_bytes() for file in files] == whole


def test_a_card_that_others_wrote_stays(words, tmp_path, capsys):
    assert main(words) == 0
    (tmp_path / "given.md").write_text("mine")
    for _ in range(2):
        assert main(words) == 2 and "given.md is there already" in capsys.readouterr().err
        (tmp_path / "given.safetensors").unlink(missing_ok=True)
    assert (tmp_path / "given.md").read_text() == "mine" and not (tmp_path / "given.safetensors").exists()
