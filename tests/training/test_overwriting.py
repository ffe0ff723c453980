"""What a folder holds already, and another run beside this one, are left alone."""

import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.folders import LOCK
from diffiml_plugin.ledger import LEDGER, begin
from diffiml_plugin.training.engine import train
from diffiml_plugin.weights.files import load_weights, read_metadata, save_weights


def test_a_finished_run_is_not_overwritten(settings):
    folder = train(settings).folder
    before = (folder / "last.safetensors").stat().st_mtime_ns
    with pytest.raises(DiffIMLError, match="holds a training run already; go on with --resume auto"):
        train(settings)
    assert (folder / "last.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("resume", ["", "auto"])
def test_weights_without_their_state_are_not_overwritten(settings, resume):
    folder = train(settings).folder
    (folder / "training_state.pt").unlink()
    with pytest.raises(DiffIMLError, match=r"holds last.safetensors and best.safetensors of a run without its"):
        train(replace(settings, data_path="nowhere", resume=resume))  # refused before anything is read


@pytest.mark.parametrize("whole", [True, False])
def test_a_run_that_was_copied_without_its_ledger_is_not_taken_for_one(settings, tmp_path, whole):
    folder, copy = train(settings).folder, tmp_path / "copy"
    copy.mkdir()
    for file in folder.glob("[!.]*.*" if whole else "*st*.*"):  # `best`, `last` and the state
        shutil.copy(file, copy)
    left = {file: file.read_bytes() for file in copy.iterdir()}
    going_on = replace(settings, output_dir=str(copy), resume="auto", epochs=settings.epochs + 1)
    with pytest.raises(DiffIMLError, match="copy lacks the .written.jsonl that .* one run; bring that along, or leave"):
        train(going_on)
    assert {file: file.read_bytes() for file in copy.iterdir()} == left
    train(replace(going_on, output_dir=str(tmp_path / "new"), resume=str(copy / "training_state.pt")))
    shutil.copy(folder / LEDGER, copy)
    if whole:
        train(going_on)


def test_weights_that_were_calibrated_since_end_a_training_that_would_go_on(settings):
    folder = train(settings).folder
    weights, metadata = load_weights(folder / "best.safetensors")
    begin(folder / "calibration", "calibrate", {}, files := [folder / "best.safetensors"], adopt=files)
    (folder / "calibration").mkdir()
    save_weights(files[0], weights, {**metadata, "calibrated_on": ["a"]})
    longer = replace(settings, resume="auto", epochs=settings.epochs + 1)
    with pytest.raises(DiffIMLError, match="best.safetensors has changed since it was written and is not overwritten"):
        train(longer)
    files[0].rename(kept := folder / "calibrated.safetensors")
    train(longer)
    assert read_metadata(kept)["calibrated_on"] == ["a"]


def test_the_log_of_a_run_that_was_moved_away_is_kept(settings):
    folder = train(settings).folder
    left = (folder / "log.jsonl").read_bytes()
    for name in ("training_state.pt", "last.safetensors", "best.safetensors"):
        (folder / name).unlink()
    with pytest.raises(DiffIMLError, match="run.json was made with other seed and is not overwritten"):
        train(replace(settings, seed=5))
    assert (folder / "log.jsonl").read_bytes() == left


def test_a_run_that_goes_on_elsewhere_leaves_another_run_alone(settings, tmp_path):
    kept = train(settings).folder / "training_state.pt"
    other = train(replace(settings, output_dir=str(tmp_path / "other"))).folder
    with pytest.raises(DiffIMLError, match="other holds a training run already"):
        train(replace(settings, resume=str(kept), output_dir=str(other)))


def test_a_state_that_was_put_among_anothers_weights_is_not_gone_on_from(settings, tmp_path):
    kept = train(settings).folder / "training_state.pt"
    other = train(replace(settings, output_dir=str(tmp_path / "other"), seed=5)).folder
    shutil.copy(kept, other)
    left = (other / "best.safetensors").read_bytes()
    with pytest.raises(DiffIMLError, match="training_state.pt has changed since it was written"):
        train(replace(settings, output_dir=str(other), epochs=settings.epochs + 1, resume="auto"))
    assert (other / "best.safetensors").read_bytes() == left


def test_two_runs_at_once_are_refused(settings, child_environment):
    code = "import sys; from diffiml_plugin.folders import claimed\nwith claimed(sys.argv[1]): train = input()"
    command = [sys.executable, "-c", code, settings.output_dir]
    with subprocess.Popen(command, env=child_environment, stdin=subprocess.PIPE, text=True) as other:
        while not (lock := Path(settings.output_dir, LOCK)).exists() or not lock.read_text():
            time.sleep(0.01)
        with pytest.raises(DiffIMLError, match=f"in use by process {other.pid} on .*write elsewhere"):
            train(replace(settings, data_path="nowhere"))
        other.communicate("done\n")
