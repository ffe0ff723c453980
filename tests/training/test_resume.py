"""How the state of a run is written, and how a run goes on from it."""

import errno
import json
import os
import shutil
import signal
import time
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from PIL import Image

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.signals import Stopped
from diffiml_plugin.training import engine as training
from diffiml_plugin.training.engine import train
from diffiml_plugin.training.optimization import Learner
from diffiml_plugin.training.tracking import Tracker


class Stop(Exception):
    """In place of a kill: what is stored is all that is left."""


def stop_after(monkeypatch, updates, stop):
    """Calls `stop` at the end of that many updates from now."""
    update, done = Learner.update, []

    def counted(self, rate):
        update(self, rate)
        done.append(rate)
        if len(done) == updates:
            stop()

    monkeypatch.setattr(Learner, "update", counted)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def crash():
    raise Stop


@pytest.mark.parametrize(
    ("stop", "at", "ema_decay"), [(terminate, 1, 0.9), (crash, 2, 0.9), (crash, 4, 0.0), (terminate, 5, 0.0)]
)
def test_a_resumed_run_equals_the_uninterrupted_one(
    settings, tmp_path, monkeypatch, ema_decay, stop, at, weights, equal, log, points, seven
):
    """Stopped at one of the four updates of an epoch, which differ in their dropout; stored after each."""
    settings = replace(settings, ema_decay=ema_decay, batch_size=1, total_batch_size=2, data_path=seven)
    settings = replace(settings, save_minutes=1e-9)
    flags = {"dropout": 0.3}
    straight = train(replace(settings, output_dir=str(tmp_path / "straight")), flags).folder
    with monkeypatch.context() as patch, pytest.raises((Stop, Stopped)) as stopped:
        stop_after(patch, at, stop)
        train(settings, flags)
    time.sleep(1.1)  # of one second, TensorBoard sorts files by their number in words: 10 before 9
    if stop == terminate:
        assert stopped.value.status == 143 and "go on with --resume auto" in str(stopped.value)
    resumed = train(replace(settings, resume="auto"), flags).folder
    for name in ("last", "best"):
        assert equal(weights(straight, name), weights(resumed, name))
    lines = [
        [{**record, "images_per_second": 0, "data_wait": 0} for record in log(folder)] for folder in (resumed, straight)
    ]
    assert lines[0] == lines[1]
    assert all(record["images_per_second"] > 0 and 0 <= record["data_wait"] <= 1 for record in log(straight))
    assert len(json.loads((resumed / "run.json").read_text())) == 2
    assert points(resumed) == points(straight)


def test_a_run_that_is_stopped_in_validation_goes_on_to_it(settings, tmp_path, monkeypatch, weights, equal):
    straight = train(replace(settings, output_dir=str(tmp_path / "straight"))).folder
    with monkeypatch.context() as patch, pytest.raises(Stopped, match="^interrupted; go on with --resume auto"):
        patch.setattr(training, "evaluate", lambda *_: signal.raise_signal(signal.SIGINT))
        train(settings)
    state = torch.load(f"{settings.output_dir}/training_state.pt", weights_only=True)
    assert (state["epoch"], state["done"]) == (0, 2)
    assert equal(weights(straight), weights(train(replace(settings, resume="auto")).folder))


def test_a_run_goes_on_to_more_epochs_and_a_finished_one_says_so(settings, caplog, log):
    caplog.set_level("INFO")
    train(settings)
    folder = train(replace(settings, resume="auto")).folder
    assert "is finished, 2 epochs of 2; --epochs makes it longer" in caplog.text
    train(replace(settings, resume="auto", epochs=4))
    assert [record["epoch"] for record in log(folder)] == [0, 1, 2, 3]
    assert "the run of 2 epochs goes on to 4; its learning rate, 0.0015 at the last update" in caplog.text
    assert "follows the schedule of 4 epochs from here on, at 0.005" in caplog.text
    with pytest.raises(DiffIMLError, match=r"--epochs 4 \(now 3\)"):
        train(replace(settings, resume="auto", epochs=3))


def test_the_same_data_elsewhere_goes_on_and_other_data_does_not(settings, tmp_path):
    train(settings)
    (tmp_path / "tiny").rename(tmp_path / "mounted")
    place = str(tmp_path / "mounted" / "list.json")
    moved = replace(settings, resume="auto", epochs=3, data_path=place, test_data_path=place)
    train(moved)
    Image.new("RGB", (96, 64)).save(tmp_path / "mounted" / "Tp" / "0.png")
    with pytest.raises(DiffIMLError, match="images or masks are not what they were"):
        train(replace(moved, epochs=4))


@pytest.mark.parametrize("of", ["data_path", "test_data_path"])
def test_other_pixels_in_files_of_the_same_size_end_a_run_that_goes_on(settings, tmp_path, of):
    shutil.copytree(tmp_path / "tiny", tmp_path / "other")
    settings = replace(settings, **{of: str(tmp_path / "other" / "list.json")})

    def store(level):
        image = tmp_path / "other" / "Tp" / "0.png"
        Image.new("RGB", (96, 64), (level, 0, 0)).save(image, compress_level=0)
        return image.stat().st_size

    size = store(1)
    path = train(settings).folder / "training_state.pt"
    assert store(2) == size
    with pytest.raises(DiffIMLError, match="images or masks are not what they were: .* other content"):
        train(replace(settings, resume="auto", epochs=3))
    state = torch.load(path, weights_only=True)
    del state["bytes"]  # as earlier versions
    earlier = tmp_path / "earlier" / path.name
    earlier.parent.mkdir()
    torch.save(state, earlier)
    train(replace(settings, resume="auto", epochs=3, output_dir=str(earlier.parent)))


def test_what_a_resumed_run_may_not_change(settings):
    path = train(settings).folder / "training_state.pt"
    for changed in ({"batch_size": 1}, {"deterministic": True}):
        with pytest.raises(DiffIMLError, match=f"other settings: --{next(iter(changed))}"):
            train(replace(settings, resume="auto", **changed))
    other = path.parent.with_name("other") / path.name
    other.parent.mkdir()
    torch.save({**torch.load(path, weights_only=True), "device": "cuda"}, other)
    with pytest.raises(DiffIMLError, match="began on --device cuda, and cpu draws other noise"):
        train(replace(settings, resume="auto", output_dir=str(other.parent)))


@pytest.mark.parametrize("denoiser", ["light", "release"])  # with GroupNorm and with BatchNorm
def test_statistics_of_batches_are_of_as_many_processes_as_before(settings, tmp_path, denoiser):
    flags = {"encoder": "segformer_b0", "denoiser": denoiser}
    settings = replace(settings, model="DiffIML", test_data_path="")
    state = torch.load(train(replace(settings, epochs=1), flags).folder / "training_state.pt", weights_only=True)
    (tmp_path / "other").mkdir()
    torch.save({**state, "processes": 2}, tmp_path / "other" / "training_state.pt")
    refused = pytest.raises(DiffIMLError, match="began with 2 processes, and has 1 now: layers of BatchNorm")
    with refused if denoiser == "release" else nullcontext():
        train(replace(settings, resume="auto", output_dir=str(tmp_path / "other")), flags)


def test_a_run_goes_on_in_another_folder(settings, tmp_path, caplog):
    caplog.set_level("INFO")
    settings = replace(settings, epochs=3, test_period=3)
    kept = train(settings).folder / "training_state.pt"
    state = torch.load(kept)
    state |= {"epoch": 2, "update": state["update"] * 2 // 3, "best": 1.0}  # never beaten
    for moments in state["optimizer"]["state"].values():
        moments["step"].fill_(state["update"])
    torch.save(state, kept)
    folder = train(replace(settings, resume=str(kept), output_dir=str(tmp_path / "elsewhere"))).folder
    assert (folder / "best.safetensors").exists()  # the first folder's is not here
    assert "best weights so far, of F1 1.0000, stay" in caplog.text


@pytest.mark.parametrize("sizes", ["32,64", "64,32"])  # the latter make updates of one batch in place of two
def test_a_run_over_windows_of_several_sizes_goes_on(windows, sizes, tmp_path, monkeypatch, weights, equal, log):
    windows = replace(windows, synth_windows=sizes, save_minutes=1e-9)
    whole = train(replace(windows, output_dir=str(tmp_path / "whole"))).folder
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_after(patch, 4, crash)  # the first of the second epoch is stored
        train(windows)
    resumed = train(replace(windows, resume="auto")).folder
    assert equal(weights(resumed), weights(whole)) and log(resumed)[1]["loss"] == log(whole)[1]["loss"]


@pytest.mark.parametrize("changed", ["nothing", "styles", "a label map", "no label maps", "an earlier state"])
def test_a_stream_goes_on_from_the_same_photographs_maps_and_styles_alone(windows, tiny_dataset, tmp_path, changed):
    styles, regions = tmp_path / "mine.yaml", tiny_dataset / "regions"
    regions.mkdir()
    styles.write_text("mine: {kinds: {splice: 1, copy_move: 1, removal: 0, text: 0}}")
    for photograph in (tiny_dataset / "Tp").iterdir():
        Image.new("L", Image.open(photograph).size, 1).save(regions / photograph.name)
    windows = replace(windows, synth_strength=str(styles), epochs=1)
    path = train(windows).folder / "training_state.pt"
    if changed == "styles":
        styles.write_text(styles.read_text().replace("removal: 0", "removal: 1"))
    elif changed == "a label map":
        Image.new("L", Image.open(regions / "0.png").size, 2).save(regions / "0.png")
    elif changed == "no label maps":
        shutil.rmtree(regions)
    else:
        state = torch.load(path, weights_only=True)
        if changed == "an earlier state":
            del state["streams"]
        (tmp_path / "copied").mkdir()
        torch.save(state, tmp_path / "copied" / path.name)
        windows = replace(windows, output_dir=str(tmp_path / "copied"))
    goes_on = changed in ("nothing", "an earlier state")
    with nullcontext() if goes_on else pytest.raises(DiffIMLError, match="are not what they were: .* or styles; bring"):
        train(replace(windows, epochs=2, resume="auto"))


def test_a_run_of_a_version_with_fewer_settings_goes_on(settings, tmp_path):
    state = torch.load(train(settings).folder / "training_state.pt", weights_only=False)
    del state["settings"]["padding_mode"]
    torch.save(state, tmp_path / "training_state.pt")
    settings = replace(settings, output_dir=str(tmp_path / "new"), resume=str(tmp_path / "training_state.pt"))
    assert train(settings).folder == tmp_path / "new"
    with pytest.raises(DiffIMLError, match=r"--padding_mode 'constant' \(now 'reflect'\)"):
        train(replace(settings, output_dir=str(tmp_path / "other"), if_padding=True, padding_mode="reflect"))


def test_resume_refuses_other_settings_and_names_them(settings):
    train(settings)
    with pytest.raises(DiffIMLError, match=r"other settings: --epochs 2 \(now 1\), --lr 0.01 \(now 0.02\); give those"):
        train(replace(settings, resume="auto", epochs=1, lr=0.02))
    with pytest.raises(DiffIMLError, match=r"--width 4 \(now 5\)"):
        train(replace(settings, resume="auto"), {"width": 5})


def test_a_full_disk_leaves_earlier_checkpoints_alone(settings, monkeypatch):
    settings = replace(settings, epochs=3, save_period=1)
    save = training.save_state

    def refuse(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def full(path, state):
        if state["epoch"] == 2:
            monkeypatch.setattr("os.fsync", refuse)
        save(path, state)

    monkeypatch.setattr(training, "save_state", full)
    with pytest.raises(DiffIMLError, match="training_state.pt.*No space left.*--resume auto"):
        train(settings)
    monkeypatch.undo()
    assert torch.load(f"{settings.output_dir}/training_state.pt", weights_only=True)["epoch"] == 1
    assert train(replace(settings, resume="auto")).folder  # and it goes on


def test_what_a_run_writes_last_is_whole_when_it_ends(settings, monkeypatch, weights, equal):
    """Writing takes its time, beside the training, which goes on meanwhile."""
    save, order = training.save_state, []

    def slow(path, state):
        order.append(("begins", state["epoch"]))
        while state["epoch"] == 1 and 1 not in order:
            time.sleep(0.01)  # until the second epoch is there
        save(path, state)

    report = Tracker.epoch
    monkeypatch.setattr(Tracker, "epoch", lambda self, record: order.append(record["epoch"]) or report(self, record))
    monkeypatch.setattr(training, "save_state", slow)
    folder = train(replace(settings, test_data_path="")).folder
    assert [entry for entry in order if entry in (("begins", 1), ("begins", 2))] == [("begins", 1), ("begins", 2)]
    assert order.index(1) < order.index(("begins", 2))
    state = torch.load(folder / "training_state.pt", weights_only=True)
    assert state["epoch"] == 2 and equal(state["model"], weights(folder))
