import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from functools import wraps
from pathlib import Path
from statistics import fmean

import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from diffiml_plugin.data.lists import NEGATIVE
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.files import LOCK
from diffiml_plugin.framework.imdlbenco import MODELS
from diffiml_plugin.ledger import LEDGER, begin
from diffiml_plugin.models.registry import DIFFIML
from diffiml_plugin.prediction.pictures import HEADING
from diffiml_plugin.signals import Stopped
from diffiml_plugin.training import engine as training
from diffiml_plugin.training.engine import train
from diffiml_plugin.training.optimization import Learner, accumulation, learning_rate
from diffiml_plugin.training.settings import TrainSettings
from diffiml_plugin.training.tracking import Tracker, failing_once
from diffiml_plugin.weights.files import load_weights, read_metadata, save_weights

pytestmark = pytest.mark.usefixtures("tiny_model")


@pytest.fixture
def settings(tiny_dataset, tmp_path):
    """A run of two epochs over four images, in updates of two."""
    return TrainSettings(
        model="TinyIML",
        data_path=str(tiny_dataset / "list.json"),
        test_data_path=str(tiny_dataset / "list.json"),
        image_size=64,
        batch_size=2,
        total_batch_size=2,
        test_batch_size=3,
        epochs=2,
        lr=1e-2,
        test_period=1,
        num_workers=0,
        device="cpu",
        output_dir=str(tmp_path / "run"),
    )


def weights(folder, name="last"):
    return load_file(f"{folder}/{name}.safetensors")


def equal(one, other, tolerance=0.0):
    assert one.keys() == other.keys()
    return all(torch.allclose(one[key], other[key], rtol=0, atol=tolerance) for key in one)


def log(folder):
    return [json.loads(line) for line in open(f"{folder}/log.jsonl")]


def test_a_run_learns_and_leaves_everything_behind(settings, capsys):
    done = train(replace(settings, epochs=8, save_period=4), {"width": 6})
    records = log(done.folder)
    assert [record["epoch"] for record in records] == list(range(8))
    assert records[-1]["loss"]["loss"] < records[0]["loss"]["loss"]
    assert done.f1 == max(record["f1"] for record in records)
    assert {f.name for f in done.folder.glob("*.safetensors")} == {
        "best.safetensors",
        "last.safetensors",
        "epoch_0004.safetensors",
        "epoch_0008.safetensors",
    }
    assert list(done.folder.glob("events.out.tfevents*"))
    config = yaml.safe_load((done.folder / "config.yaml").read_text())
    assert (config["width"], config["image_size"], config["epochs"]) == (6, 64, 8)
    (start,) = json.loads((done.folder / "run.json").read_text())
    assert {"command", "versions", "git"} <= start.keys() and start["versions"]["torch"]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8 and lines[0].startswith("epoch 1/8  loss 0.")  # no terminal: a line per epoch


def test_tensorboard_has_curves_strips_and_settings(settings):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = train(settings).folder
    events = EventAccumulator(str(folder))
    events.Reload()
    assert {"train_loss/loss", "lr", "pixel-level F1/tiny"} <= set(events.Tags()["scalars"])
    strip = events.Images(events.Tags()["images"][0])[0]
    assert (strip.height, strip.width) == (4 * (64 + HEADING), 3 * 64)  # four images: input, mask, prediction
    plugins = {metadata.plugin_data.plugin_name for metadata in events.summary_metadata.values()}
    assert "hparams" in plugins and "F1" in events.Tags()["scalars"]
    (shown,) = events.Tensors("config/text_summary")
    assert "epochs: 2" in shown.tensor_proto.string_val[0].decode()
    figures = {"pixel-level AUC/tiny", "pixel-level F1 at best threshold/tiny"}
    assert figures <= set(events.Tags()["scalars"])  # a weak model's progress


def test_accumulated_small_batches_equal_the_big_batch(settings, tmp_path):
    """Four images in updates of three: the last update, of one image, counts as well."""
    runs = [
        train(replace(settings, batch_size=batch, total_batch_size=3, output_dir=str(tmp_path / str(batch)))).folder
        for batch in (1, 3)
    ]
    assert equal(weights(runs[0]), weights(runs[1]), tolerance=1e-6)
    assert log(runs[0])[-1]["update"] == 4


def test_worker_count_does_not_matter(settings, tmp_path):
    one, other = (train(replace(settings, num_workers=n, output_dir=str(tmp_path / str(n)))).folder for n in (0, 2))
    assert equal(weights(one), weights(other))


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
def test_a_resumed_run_equals_the_uninterrupted_one(settings, tmp_path, monkeypatch, ema_decay, stop, at):
    """Stopped at one of the four updates of an epoch, which differ in their dropout; stored after each."""
    settings = replace(settings, ema_decay=ema_decay, batch_size=1, total_batch_size=2, data_path=seven(settings))
    settings = replace(settings, save_minutes=1e-9)
    flags = {"dropout": 0.3}
    straight = train(replace(settings, output_dir=str(tmp_path / "straight")), flags).folder
    with monkeypatch.context() as patch, pytest.raises((Stop, Stopped)) as stopped:
        stop_after(patch, at, stop)
        train(settings, flags)
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


def seven(settings):
    """A list of seven pairs, of which an epoch makes four updates of two."""
    pairs = json.loads(Path(settings.data_path).read_text())
    path = Path(settings.data_path).with_name("seven.json")
    path.write_text(json.dumps((pairs * 2)[:7]))
    return str(path)


def points(folder):
    """The steps of each curve of TensorBoard."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [point.step for point in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_runs_share_a_log_dir_and_no_curves(settings, tmp_path):
    logs = tmp_path / "tb"
    for name, epochs in (("a/run", 1), ("b/run", 2)):
        train(replace(settings, output_dir=str(tmp_path / name), log_dir=str(logs), epochs=epochs))
    train(replace(settings, output_dir=str(tmp_path / "a/run"), log_dir=str(logs), epochs=3, resume="auto"))
    folders = sorted(logs.iterdir(), key=lambda folder: len(list(folder.iterdir())))
    assert [points(folder)["F1"] for folder in folders] == [[2, 4], [2, 4, 6]]
    shutil.rmtree(tmp_path / "b")  # a new run there begins its curves anew
    train(replace(settings, output_dir=str(tmp_path / "b/run"), log_dir=str(logs), epochs=1))
    assert points(folders[0])["F1"] == [2]


def test_the_log_dir_that_is_the_output_dir_is_no_other(settings):
    folder = train(replace(settings, log_dir=f"{settings.output_dir}/../run", epochs=1)).folder
    assert points(folder)["F1"] == [2] and not [entry for entry in folder.iterdir() if entry.is_dir()]


def test_a_run_that_is_stopped_in_validation_goes_on_to_it(settings, tmp_path, monkeypatch):
    straight = train(replace(settings, output_dir=str(tmp_path / "straight"))).folder
    with monkeypatch.context() as patch, pytest.raises(Stopped, match="^interrupted; go on with --resume auto"):
        patch.setattr(training, "evaluate", lambda *_: signal.raise_signal(signal.SIGINT))
        train(settings)
    state = torch.load(f"{settings.output_dir}/training_state.pt", weights_only=True)
    assert (state["epoch"], state["done"]) == (0, 2)
    assert equal(weights(straight), weights(train(replace(settings, resume="auto")).folder))


def test_a_run_goes_on_to_more_epochs_and_a_finished_one_says_so(settings, caplog):
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


def test_without_tampered_images_no_weights_are_called_best(settings, tmp_path):
    pairs = json.loads(open(settings.test_data_path).read())
    authentic = tmp_path / "tiny" / "authentic.json"
    authentic.write_text(json.dumps([[image, NEGATIVE] for image, _ in pairs]))
    done = train(replace(settings, test_data_path=str(authentic)))
    assert done.f1 is None and not (done.folder / "best.safetensors").exists()
    assert "f1" not in log(done.folder)[-1]


def test_a_run_goes_on_in_another_folder(settings, tmp_path, caplog):
    caplog.set_level("INFO")
    settings = replace(settings, epochs=3, test_period=3)
    kept = train(settings).folder / "training_state.pt"
    state = torch.load(kept)
    torch.save({**state, "epoch": 2, "update": state["update"] * 2 // 3, "best": 1.0}, kept)  # never beaten
    folder = train(replace(settings, resume=str(kept), output_dir=str(tmp_path / "elsewhere"))).folder
    assert (folder / "best.safetensors").exists()  # the first folder's is not here
    assert "best weights so far, of F1 1.0000, stay" in caplog.text


@pytest.fixture
def windows(settings, tiny_dataset):
    """A run over windows of 32 and of 64 pixels, ten an epoch."""
    stream = replace(settings, data_path=f"synth:{tiny_dataset / 'Tp'}", test_data_path="", augmentation="turns")
    stream = replace(stream, synth_windows="32,64", synth_samples=10, if_padding=True)
    return replace(stream, batch_size=4, total_batch_size=8)


def test_windows_of_several_sizes_take_turns_in_batches_of_as_many_pixels(windows, monkeypatch):
    seen, backward = [], training._Run._backward

    def look(run, micro, batch):
        seen.append(tuple(batch["image"].shape))
        return backward(run, micro, batch)

    monkeypatch.setattr(training._Run, "_backward", look)
    whole = train(windows).folder
    assert seen == [(4, 3, 32, 32)] * 2 + [(1, 3, 64, 64)] * 2 + seen[:4]  # two batches are an update
    assert log(whole)[0]["update"] == 2


@pytest.mark.parametrize("sizes", ["32,64", "64,32"])  # the latter make updates of one batch in place of two
def test_a_run_over_windows_of_several_sizes_goes_on(windows, sizes, tmp_path, monkeypatch):
    windows = replace(windows, synth_windows=sizes, save_minutes=1e-9)
    whole = train(replace(windows, output_dir=str(tmp_path / "whole"))).folder
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_after(patch, 4, crash)  # the first of the second epoch is stored
        train(windows)
    resumed = train(replace(windows, resume="auto")).folder
    assert equal(weights(resumed), weights(whole)) and log(resumed)[1]["loss"] == log(whole)[1]["loss"]


def test_windows_of_several_sizes_are_of_a_stream(windows, tiny_dataset):
    for wrong in ({"data_path": str(tiny_dataset / "list.json")}, {"synth_samples": None}):
        with pytest.raises(DiffIMLError, match="--synth_windows is of --data_path synth:FOLDER with --synth_samples"):
            train(replace(windows, **wrong))
    with pytest.raises(DiffIMLError, match="--synth_windows 32,64 cuts windows.*add --if_padding"):
        train(replace(windows, if_padding=False))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_learns_in_every_precision(settings, precision):
    folder = train(replace(settings, device="cuda", precision=precision, epochs=4)).folder
    losses = [next(iter(record["loss"].values())) for record in log(folder)]
    assert losses[-1] < losses[0]


def test_ema_is_what_is_tested_and_stored(settings):
    plain = train(settings).folder
    averaged = train(replace(settings, ema_decay=0.9, output_dir=settings.output_dir + "ema")).folder
    state = torch.load(averaged / "training_state.pt", weights_only=True)
    assert equal(state["model"], weights(plain))  # the average does not touch the training
    assert equal(state["ema"], weights(averaged)) and not equal(state["ema"], state["model"])


def test_a_run_starts_from_a_checkpoint(settings, tmp_path):
    first = train(settings, {"width": 6}).folder
    fine = replace(
        settings, checkpoint_path=str(first / "last.safetensors"), lr=1e-12, output_dir=str(tmp_path / "fine")
    )
    assert equal(weights(first), weights(train(fine).folder), tolerance=1e-6)  # of its width too
    with pytest.raises(DiffIMLError, match="holds a TinyIML, not a DiffIML"):
        train(replace(fine, model="DiffIML", output_dir=str(tmp_path / "other")))


def test_what_the_flags_leave_open_is_as_the_checkpoint_was_trained(settings, tmp_path):
    first = train(replace(settings, if_padding=True, epochs=1)).folder
    fine = replace(
        settings,
        model="",
        image_size=None,
        checkpoint_path=str(first / "last.safetensors"),
        epochs=1,
        output_dir=str(tmp_path / "fine"),
    )
    config = yaml.safe_load((train(fine).folder / "config.yaml").read_text())
    assert (config["model"], config["image_size"], config["if_padding"]) == ("TinyIML", 64, True)
    resized = replace(fine, if_resizing=True, output_dir=str(tmp_path / "resized"))
    assert not yaml.safe_load((train(resized).folder / "config.yaml").read_text())["if_padding"]


def test_synchronised_norms_compute_the_same():
    """torch's own conversion drops the activations that timm's norms hold."""
    encoder = timm.create_model("tf_efficientnet_lite0", features_only=True).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = encoder(image)
        after = training.convert_sync_batchnorm(encoder)(image)
    assert any(isinstance(layer, torch.nn.SyncBatchNorm) for layer in encoder.modules())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_images_in_frames_of_their_own_are_validated_and_shown(settings, tmp_path):
    pairs = []
    for number, size in enumerate([(64, 40), (100, 70), (64, 40)]):
        Image.new("RGB", size).save(tmp_path / f"{number}.png")
        pairs.append([f"{number}.png", NEGATIVE])
    (tmp_path / "frames.json").write_text(json.dumps(pairs))
    done = train(
        replace(
            settings,
            model="SegFormerIML",
            test_data_path=str(tmp_path / "frames.json"),
            epochs=1,
            if_padding=True,
            padding_mode="reflect",
        ),
        {"encoder": "segformer_b0"},
    )
    assert log(done.folder)[0]["test"]["frames"]["images"] == 3
    assert yaml.safe_load((done.folder / "config.yaml").read_text())["padding_mode"] == "reflect"


def test_a_run_of_a_version_with_fewer_settings_goes_on(settings, tmp_path):
    state = torch.load(train(settings).folder / "training_state.pt", weights_only=False)
    del state["settings"]["padding_mode"]
    torch.save(state, tmp_path / "training_state.pt")
    settings = replace(settings, output_dir=str(tmp_path / "new"), resume=str(tmp_path / "training_state.pt"))
    assert train(settings).folder == tmp_path / "new"
    with pytest.raises(DiffIMLError, match=r"--padding_mode 'constant' \(now 'reflect'\)"):
        train(replace(settings, output_dir=str(tmp_path / "other"), if_padding=True, padding_mode="reflect"))


@pytest.mark.parametrize("part", ["update", "epoch", "done"])
def test_a_state_whose_counts_do_not_agree_is_refused(settings, tmp_path, part):
    state = torch.load(train(settings).folder / "training_state.pt", weights_only=True)
    state[part] += 1 if part == "done" else -1
    torch.save(state, tmp_path / "training_state.pt")
    settings = replace(settings, output_dir=str(tmp_path / "new"), resume=str(tmp_path / "training_state.pt"))
    with pytest.raises(DiffIMLError, match="the training state does not fit this model and optimizer"):
        train(settings)


def test_resume_refuses_other_settings_and_names_them(settings):
    train(settings)
    with pytest.raises(DiffIMLError, match=r"other settings: --epochs 2 \(now 1\), --lr 0.01 \(now 0.02\); give those"):
        train(replace(settings, resume="auto", epochs=1, lr=0.02))
    with pytest.raises(DiffIMLError, match=r"--width 4 \(now 5\)"):
        train(replace(settings, resume="auto"), {"width": 5})


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
    code = "import sys; from diffiml_plugin.files import claimed\nwith claimed(sys.argv[1]): train = input()"
    command = [sys.executable, "-c", code, settings.output_dir]
    with subprocess.Popen(command, env=child_environment, stdin=subprocess.PIPE, text=True) as other:
        while not (lock := Path(settings.output_dir, LOCK)).exists() or not lock.read_text():
            time.sleep(0.01)
        with pytest.raises(DiffIMLError, match=f"in use by process {other.pid} on .*write elsewhere"):
            train(replace(settings, data_path="nowhere"))
        other.communicate("done\n")


@pytest.fixture
def normalising(monkeypatch):
    """TinyIML with a layer that normalises one value of each image over the batch."""
    norm = torch.nn.BatchNorm1d(1)
    forward = MODELS.get("TinyIML").forward

    def normalised(self, image, *args, **kwargs):
        return forward(self, image + norm(image.mean((1, 2, 3))[:, None])[..., None, None], *args, **kwargs)

    init = MODELS.get("TinyIML").__init__

    @wraps(init)
    def with_norm(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self.norm = norm

    monkeypatch.setattr(MODELS.get("TinyIML"), "__init__", with_norm)
    monkeypatch.setattr(MODELS.get("TinyIML"), "forward", normalised)


def test_a_last_batch_of_one_image_has_a_variance(settings, normalising):
    settings = replace(settings, total_batch_size=2, data_path=seven(settings), test_data_path="")
    assert log(train(settings, {"width": 4}).folder)[-1]["update"] == 8


def test_batches_of_one_image_without_a_variance_are_refused(settings, normalising):
    with pytest.raises(DiffIMLError, match="TinyIML normalises over the images of a batch, and --batch_size 1 gives"):
        train(replace(settings, batch_size=1))


def test_deterministic_training_does_not_depend_on_the_cores(settings, tmp_path, monkeypatch):
    seen, update = [], Learner.update

    def watched(self, rate):
        seen.append((torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()))
        update(self, rate)

    monkeypatch.setattr(Learner, "update", watched)

    def trained(threads):
        torch.set_num_threads(threads)
        own = replace(settings, deterministic=True, epochs=1, output_dir=str(tmp_path / str(threads)))
        folder = train(own).folder
        assert torch.get_num_threads() == threads and not torch.are_deterministic_algorithms_enabled()
        return weights(folder)

    assert equal(trained(1), trained(2)) and set(seen) == {(1, True)}


def test_a_loss_that_is_not_finite_stops_the_run(settings):
    with pytest.raises(DiffIMLError, match=r"the loss is nan at step \d, images .*2.png.*, t \[0, 1\]"):
        train(settings, {"poison": "2.png"})


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


def test_a_disk_that_is_full_for_curves_is_told_in_a_sentence(settings, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    tracebacks = []
    monkeypatch.setattr("threading.excepthook", tracebacks.append)
    monkeypatch.setattr("tensorboard.compat.tensorflow_stub.io.gfile.LocalFileSystem.append", refuse)
    with pytest.raises(DiffIMLError, match="the disk of .* is full; free some space and go on with --resume auto"):
        train(settings)
    assert not tracebacks and threading.excepthook == tracebacks.append
    with failing_once():
        thread = threading.Thread(target=refuse)  # whose error nobody else tells
        thread.start()
        thread.join()
    assert len(tracebacks) == 1
    monkeypatch.undo()
    assert train(replace(settings, resume="auto")).folder


def test_a_rate_for_an_encoder_that_is_not_there_is_refused(settings):
    with pytest.raises(DiffIMLError, match="--encoder_lr 0.001 is of DiffIML's encoders; TinyIML has none"):
        train(replace(settings, encoder_lr=1e-3))


def test_what_a_run_writes_last_is_whole_when_it_ends(settings, monkeypatch):
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


@pytest.mark.parametrize("encoder", ["segformer_b0", "resnet18"])
def test_checkpointing_the_encoder_changes_no_gradient(encoder):
    def gradients(checkpointed):
        torch.manual_seed(0)
        model = DIFFIML.build(DIFFIML.resolve({"encoder": encoder})).train()
        if checkpointed:
            training._checkpoint_encoder(DIFFIML, model)
        torch.manual_seed(1)
        plane = torch.ones(2, 1, 64, 64)
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            loss = model(torch.randn(2, 3, 64, 64), plane, edge_map=plane)["backward_loss"]
        loss.backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, sum(kept)

    (plain, most), (checkpointed, fewer) = gradients(False), gradients(True)
    assert equal(plain, checkpointed, tolerance=1e-6) and fewer < 0.9 * most


def test_checkpointing_the_encoder_counts_each_batch_once(settings, tmp_path):
    """In the statistics of its norms, through which the backward pass goes a second time."""
    settings = replace(settings, model="SegFormerIML", test_data_path="", epochs=1)

    def trained(checkpointed):
        own = replace(settings, checkpoint_encoder=checkpointed, output_dir=str(tmp_path / str(checkpointed)))
        return weights(train(own, {"encoder": "resnet18"}).folder)

    assert equal(trained(False), trained(True), tolerance=1e-6)


def test_a_model_without_an_encoder_cannot_checkpoint_it(settings):
    with pytest.raises(DiffIMLError, match="--checkpoint_encoder is of DiffIML's encoders; TinyIML has none"):
        train(replace(settings, checkpoint_encoder=True))


def test_bad_data_is_said_before_anything_is_written(settings, tiny_dataset, tmp_path):
    (tiny_dataset / "Gt" / "1.png").write_bytes(b"")
    with pytest.raises(DiffIMLError, match="1.png cannot be decoded"):
        train(settings)
    assert not (tmp_path / "run").exists()
    with pytest.raises(DiffIMLError, match="--data_path"):
        train(replace(settings, data_path=""))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "--epochs 0 must be a positive number"),
        ({"lr": 0.0}, "--lr 0.0 must be above 0"),
        ({"warmup_epochs": 2, "epochs": 2}, "--warmup_epochs 2 must be 0 to 1"),
        ({"if_padding": True, "if_resizing": True}, "exclude each other"),
        ({"synth_windows": "256,,384"}, "--synth_windows 256,,384 must be sides in pixels, as 256,384,512"),
        ({"synth_windows": "256,9999"}, "--synth_windows 256,9999 must be sides of at most 4096 pixels"),
        ({"synth_windows": "256,384", "crop_size": 256}, "says --synth_window and --crop_size too; leave those out"),
        ({"precision": "fp8"}, "--precision fp8 is not one of auto, fp32, bf16, fp16; did you mean"),
    ],
)
def test_wrong_settings_are_named(wrong, message):
    with pytest.raises(DiffIMLError, match=message):
        TrainSettings(**wrong)


def test_accumulation_is_derived_and_must_divide():
    assert accumulation(128, 16, 8) == 1
    assert accumulation(128, 4, 1) == 32
    with pytest.raises(DiffIMLError, match="128 cannot be made of 3 processes.*--total_batch_size divisible by 3"):
        accumulation(128, 16, 3)
    with pytest.raises(DiffIMLError, match="choose --batch_size 1 or 2 or 4 or 8$"):
        accumulation(8, 16, 1)


def test_learning_rate_is_the_frameworks():
    from IMDLBenCo.training_scripts.schedular.cos_lr_schedular import adjust_learning_rate

    for warmup in (0, 3):
        settings = TrainSettings(epochs=10, warmup_epochs=warmup, lr=1e-4, min_lr=1e-6)
        group = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
        for progress in (0, 0.5, 2.9, 3, 7.25, 9.99):
            rate = learning_rate(progress / 10, 1e-4, 1e-6, warmup / 10)
            assert rate == pytest.approx(adjust_learning_rate(group, progress, settings))


def flags_of(settings):
    return [f"--{name}={value}" for name, value in asdict(settings).items() if value not in (None, "")]


def test_data_without_what_the_model_needs_is_named(settings, monkeypatch):
    def forward(self, image, edge_mask, **kwargs):
        """Is never called."""

    monkeypatch.setattr(MODELS.module_dict["TinyIML"], "forward", forward)
    with pytest.raises(DiffIMLError, match="TinyIML needs edge_mask.*--edge_mask_width"):
        train(settings)


@pytest.mark.slow
def test_a_model_of_the_zoo_trains(settings, monkeypatch):
    monkeypatch.setattr("torch.utils.model_zoo.load_url", lambda url: {})  # offline
    done = train(replace(settings, model="MVSSNet", epochs=1))
    (record,) = log(done.folder)
    assert record["loss"].keys() == {"predict_loss", "edge_loss", "label_loss", "combined_loss"}
    assert record["test"]["tiny"]["images"] == 4 and done.f1 > 0


def test_two_processes_train_as_one(settings, tiny_model, child_environment, tmp_path):
    """Three images in updates of four: two forward passes, in the second of which one process has no image."""
    settings = replace(settings, batch_size=1, total_batch_size=4, data_path=str(tmp_path / "tiny"))
    alone = train(settings).folder
    both = replace(settings, output_dir=str(tmp_path / "both"))
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(tiny_model)]
    subprocess.run([*run, "train", *flags_of(both)], check=True, env=child_environment)
    assert equal(weights(alone), weights(both.output_dir), tolerance=1e-6)
    losses = [[record["loss"]["loss"] for record in log(folder)] for folder in (alone, both.output_dir)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_two_processes_train_diffiml_as_one(settings, tiny_model, child_environment, tmp_path, checkpointed):
    """With one pass in each update, whose graph DDP takes for the same every time; in the last, one has no image."""
    flags = {"encoder": "segformer_b0", "denoiser": "light"}
    settings = replace(settings, model="DiffIML", lr=1e-3, batch_size=1, total_batch_size=2, test_data_path="")
    settings = replace(settings, data_path=str(tmp_path / "tiny"), checkpoint_encoder=checkpointed)
    alone = train(settings, flags).folder
    both = replace(settings, output_dir=str(tmp_path / "both"))
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(tiny_model)]
    words = [*flags_of(both), *(f"--{name}={value}" for name, value in flags.items())]
    subprocess.run([*run, "train", *words], check=True, env=child_environment)
    losses = [[record["loss"]["loss"] for record in log(folder)] for folder in (alone, both.output_dir)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    one, other = (torch.cat([w.flatten() for w in weights(folder).values()]) for folder in (alone, both.output_dir))
    # On average: AdamW makes whole steps of gradients that are nothing but rounding. Its steps are of 1e-3.
    assert (one - other).abs().mean() < 1e-6


def test_two_processes_of_different_settings_are_refused(settings, two_processes):
    """The run would be described by the first process's alone."""
    starts = [["train", *flags_of(replace(settings, total_batch_size=4, lr=lr))] for lr in (1e-3, 1e-2)]
    (first, said), (second, _) = two_processes(*starts)
    assert 0 not in (first, second) and "the processes of this run differ in lr" in said
    assert not (Path(settings.output_dir) / "last.safetensors").exists()


@pytest.mark.slow
def test_diffiml_trains_on_real_photographs(bsds, child_environment, tmp_path):
    """The commands, from training to the report, on the CPU."""

    def run(verb, *words, **flags):
        words = [*words, *(f"--{name}={value}" for name, value in flags.items())]
        command = [sys.executable, "-m", "diffiml_plugin", verb, *words]
        return subprocess.run(command, check=True, env=child_environment, stdout=subprocess.PIPE, text=True).stdout

    trained, validation = tmp_path / "run", bsds / "val" / "list.json"
    run(
        "train",
        model="DiffIML",
        data_path=bsds / "train",
        test_data_path=validation,
        encoder="segformer_b0",
        image_size=64,
        batch_size=25,
        total_batch_size=25,
        epochs=2,
        lr=1e-3,
        ensemble_size=1,
        output_dir=trained,
    )
    losses = [record["loss"]["loss"] for record in log(trained)]
    assert losses[1] < 0.9 * losses[0]
    printed = run(
        "test", checkpoint_path=trained, test_data_path=validation, num_inference_steps=2, output_dir=tmp_path / "out"
    )
    assert "pixel F1" in printed
    results = json.load(open(tmp_path / "out" / "results.json"))
    assert results["datasets"]["val"]["images"] == 80 and results["settings"]["ensemble_size"] == 1
    run(
        "robust",
        checkpoint_path=trained,
        test_data_path=validation,
        num_inference_steps=1,
        output_dir=tmp_path / "out" / "robust",
    )
    run("report", str(tmp_path / "out"), output_dir=tmp_path / "report")
    found = [json.loads(line) for line in open(tmp_path / "out" / "per_image.jsonl")]
    f1 = fmean(record["f1"] for record in found if record["label"] == 1)
    text = (tmp_path / "report" / "report.md").read_text()
    assert f"| {f1:.4f} [" in text and "pixel-F1 by JPEG quality" in text
