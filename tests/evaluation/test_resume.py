"""A test that is started again: what was cut off goes on, and what is there is kept."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from diffiml_plugin.cli.main import main
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.evaluation import scoring
from diffiml_plugin.evaluation import test as testing
from diffiml_plugin.evaluation.evaluate import evaluate
from diffiml_plugin.evaluation.scores import score_batch


def test_an_interrupted_test_goes_on_with_the_next_dataset(settings, stored, tiny_dataset, monkeypatch, records):
    sets = tiny_dataset / "sets.json"
    sets.write_text(json.dumps({"All": "list.json", "Tampered": "."}))
    settings = replace(settings, test_data_path=str(sets), checkpoint_path=str(stored()))
    expected = testing.test(settings)
    evaluated = []

    def interrupted(*arguments, title, **options):
        evaluated.append(title)
        if len(evaluated) == 2:
            raise KeyboardInterrupt
        return evaluate(*arguments, title=title, **options)

    monkeypatch.setattr(scoring, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        testing.test(settings)
    assert testing.test(settings)["datasets"] == expected["datasets"]
    assert evaluated == ["All clean", "Tampered clean", "Tampered clean"]
    assert len(records(settings)) == 7
    testing.test(settings)
    assert len(evaluated) == 5  # a finished test is not resumed


def interrupted_at_third_batch(settings, monkeypatch) -> list[int]:
    """A test that ends so; what it returns grows with each batch that is scored, then and later."""
    scored = []

    def counted(*arguments, **options):
        scored.append(1)
        if len(scored) == 3:
            raise KeyboardInterrupt
        return score_batch(*arguments, **options)

    monkeypatch.setattr(testing, "score_batch", counted)
    with pytest.raises(KeyboardInterrupt):
        testing.test(settings)
    return scored


@pytest.mark.parametrize("in_training_mode", [False, True])
def test_an_interrupted_set_goes_on_with_the_next_batch(
    settings, stored, monkeypatch, cut_off, in_training_mode, records
):
    settings = replace(settings, checkpoint_path=str(stored()), test_batch_size=1, no_model_eval=in_training_mode)
    expected = testing.test(settings)["datasets"]
    scored = interrupted_at_third_batch(settings, monkeypatch)
    (part,) = Path(settings.output_dir, "results_unfinished").iterdir()
    cut_off(part, '\n[{"index": 3, "f1": 0.', part.parent.parent)
    other = part.with_name("another_checkpoints.0.jsonl")
    other.touch()
    assert testing.test(settings)["datasets"] == expected
    assert len(scored) == (7 if in_training_mode else 5)  # there, a batch's statistics are of all its images
    assert [record["index"] for record in records(settings)] == [0, 1, 2, 3]
    assert list(part.parent.iterdir()) == [other]


def test_a_lost_device_ends_a_test_and_what_is_scored_is_kept(settings, stored, monkeypatch, capsys, records):
    words = ["test", "--checkpoint_path", str(stored()), "--test_data_path", settings.test_data_path, "--device", "cpu"]
    words += ["--output_dir", settings.output_dir, "--num_workers", "0", "--test_batch_size", "1"]
    scored = []

    def lost(*arguments, **options):
        scored.append(1)
        if len(scored) == 3:
            raise RuntimeError("CUDA error: unspecified launch failure")
        return score_batch(*arguments, **options)

    monkeypatch.setattr(testing, "score_batch", lost)
    assert main(words) == 2
    assert "error: the device failed: CUDA error: unspecified launch failure; what is done" in capsys.readouterr().err
    assert main(words) == 0 and len(scored) == 5  # the two images that are left
    assert [record["index"] for record in records(settings)] == [0, 1, 2, 3]


def test_what_a_cut_test_left_outlives_one_of_other_settings(settings, stored, monkeypatch):
    settings = replace(settings, checkpoint_path=str(stored()), test_batch_size=1)
    scored = interrupted_at_third_batch(settings, monkeypatch)
    testing.test(replace(settings, tta=True))
    for name in testing.FILES:
        Path(settings.output_dir, name).unlink()
    testing.test(settings)
    assert len(scored) == 3 + 4 + 2


@pytest.mark.parametrize("also", [[1], [1, 2], [4]])
def test_half_done_records_count_once_and_are_of_the_list(settings, stored, monkeypatch, also, records):
    settings = replace(settings, checkpoint_path=str(stored()), test_batch_size=1)
    expected = testing.test(settings)["datasets"]
    interrupted_at_third_batch(settings, monkeypatch)
    (part,) = Path(settings.output_dir, "results_unfinished").iterdir()
    record = json.loads(part.read_text().splitlines()[1])[0]
    another = part.with_name(part.name.replace(".0.jsonl", ".1.jsonl"))  # of another process
    another.write_text(json.dumps([{**record, "index": index} for index in also]))
    assert testing.test(settings)["datasets"] == expected
    assert [record["index"] for record in records(settings)] == [0, 1, 2, 3]


def test_what_another_version_scored_is_scored_anew(settings, stored, monkeypatch):
    settings = replace(settings, checkpoint_path=str(stored()), test_batch_size=1)
    scored = interrupted_at_third_batch(settings, monkeypatch)
    monkeypatch.setattr(scoring, "code_digest", lambda model: "another")
    testing.test(settings)
    assert len(scored) == 3 + 4


def test_a_link_in_place_of_the_unfinished_folder_is_not_followed(settings, stored, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results_unfinished").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DiffIMLError, match="results_unfinished/.* lies outside of"):
        testing.test(replace(settings, checkpoint_path=str(stored())))
    assert not (tmp_path / "elsewhere").exists()


def test_a_foreign_results_file_is_kept(settings, stored):
    results = Path(settings.output_dir, "results.json")
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text("{}")
    with pytest.raises(DiffIMLError, match="results.json was not made by this command"):
        testing.test(replace(settings, checkpoint_path=str(stored())))
    assert results.read_text() == "{}"


@pytest.mark.parametrize("other", [{"name": "SegFormerIML", "encoder": "segformer_b0"}, {"width": 5}])
def test_another_checkpoints_figures_are_kept(settings, stored, other, monkeypatch):
    testing.test(replace(settings, checkpoint_path=str(stored())))
    left = Path(settings.output_dir, "results.json").read_bytes()
    monkeypatch.setattr(scoring, "check_lists", lambda *_: pytest.fail("read before it was refused"))
    with pytest.raises(DiffIMLError, match="results.json was made with other .*weights.* and is not overwritten"):
        testing.test(replace(settings, checkpoint_path=str(stored(**other))))
    assert Path(settings.output_dir, "results.json").read_bytes() == left


def test_results_of_other_batches_are_kept_where_batches_share_statistics(settings, stored):
    settings = replace(settings, checkpoint_path=str(stored()), test_batch_size=1)
    testing.test(settings)
    testing.test(replace(settings, test_batch_size=2, num_workers=1))  # no figure depends on it
    shared = replace(settings, no_model_eval=True, output_dir=f"{settings.output_dir}_shared")
    testing.test(shared)
    with pytest.raises(DiffIMLError, match="results.json was made with other test_batch_size and is not overwritten"):
        testing.test(replace(shared, test_batch_size=2))


def test_results_of_an_image_that_was_changed_are_kept(settings, stored, tiny_dataset):
    settings = replace(settings, checkpoint_path=str(stored()))
    testing.test(settings)
    left = Path(settings.output_dir, "results.json").read_bytes()
    image = Image.open(tiny_dataset / "Tp" / "0.png")
    Image.new("RGB", image.size, "white").save(tiny_dataset / "Tp" / "0.png")
    with pytest.raises(DiffIMLError, match="results.json was made with other sizes or dates of images and is not"):
        testing.test(settings)
    assert Path(settings.output_dir, "results.json").read_bytes() == left


def test_a_precision_that_the_device_decides_is_noted_as_decided(settings, stored, monkeypatch):
    settings = replace(settings, checkpoint_path=str(stored()), precision="auto")
    assert testing.test(settings)["settings"]["precision"] == "fp32"
    monkeypatch.setattr(scoring.launch, "actual_precision", lambda precision, cpu: "bf16")  # as on a GPU
    with pytest.raises(DiffIMLError, match="was made with other precision"):
        testing.test(settings)
