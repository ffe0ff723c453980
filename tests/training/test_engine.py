import json
import subprocess
import sys
from dataclasses import replace
from functools import wraps
from statistics import fmean

import pytest
import torch
import yaml
from PIL import Image

from diffiml_plugin.data.lists import NEGATIVE
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.framework.imdlbenco import MODELS
from diffiml_plugin.models.registry import DIFFIML
from diffiml_plugin.training import engine as training
from diffiml_plugin.training.engine import train
from diffiml_plugin.training.optimization import Learner


def test_a_run_learns_and_leaves_everything_behind(settings, capsys, log):
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


def test_accumulated_small_batches_equal_the_big_batch(settings, tmp_path, weights, equal, log):
    """Four images in updates of three: the last update, of one image, counts as well."""
    runs = [
        train(replace(settings, batch_size=batch, total_batch_size=3, output_dir=str(tmp_path / str(batch)))).folder
        for batch in (1, 3)
    ]
    assert equal(weights(runs[0]), weights(runs[1]), tolerance=1e-6)
    assert log(runs[0])[-1]["update"] == 4


def test_worker_count_does_not_matter(settings, tmp_path, weights, equal):
    one, other = (train(replace(settings, num_workers=n, output_dir=str(tmp_path / str(n)))).folder for n in (0, 2))
    assert equal(weights(one), weights(other))


def test_without_tampered_images_no_weights_are_called_best(settings, tmp_path, log):
    pairs = json.loads(open(settings.test_data_path).read())
    authentic = tmp_path / "tiny" / "authentic.json"
    authentic.write_text(json.dumps([[image, NEGATIVE] for image, _ in pairs]))
    done = train(replace(settings, test_data_path=str(authentic)))
    assert done.f1 is None and not (done.folder / "best.safetensors").exists()
    assert "f1" not in log(done.folder)[-1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_learns_in_every_precision(settings, precision, log):
    folder = train(replace(settings, device="cuda", precision=precision, epochs=4)).folder
    losses = [next(iter(record["loss"].values())) for record in log(folder)]
    assert losses[-1] < losses[0]


def test_ema_is_what_is_tested_and_stored(settings, weights, equal):
    plain = train(settings).folder
    averaged = train(replace(settings, ema_decay=0.9, output_dir=settings.output_dir + "ema")).folder
    state = torch.load(averaged / "training_state.pt", weights_only=True)
    assert equal(state["model"], weights(plain))  # the average does not touch the training
    assert equal(state["ema"], weights(averaged)) and not equal(state["ema"], state["model"])


def test_a_run_starts_from_a_checkpoint(settings, tmp_path, weights, equal):
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


def test_images_in_frames_of_their_own_are_validated_and_shown(settings, tmp_path, log):
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


@pytest.fixture
def normalising(tiny_model, monkeypatch):
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


def test_a_last_batch_of_one_image_has_a_variance(settings, normalising, log, seven):
    settings = replace(settings, total_batch_size=2, data_path=seven, test_data_path="")
    assert log(train(settings, {"width": 4}).folder)[-1]["update"] == 8


def test_batches_of_one_image_without_a_variance_are_refused(settings, normalising):
    with pytest.raises(DiffIMLError, match="TinyIML normalises over the images of a batch, and --batch_size 1 gives"):
        train(replace(settings, batch_size=1))


def test_deterministic_training_does_not_depend_on_the_cores(settings, tmp_path, monkeypatch, weights, equal):
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


def test_a_rate_for_an_encoder_that_is_not_there_is_refused(settings):
    with pytest.raises(DiffIMLError, match="--encoder_lr 0.001 is of DiffIML's encoders; TinyIML has none"):
        train(replace(settings, encoder_lr=1e-3))


@pytest.mark.parametrize("encoder", ["segformer_b0", "resnet18"])
def test_checkpointing_the_encoder_changes_no_gradient(encoder, equal):
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


def test_checkpointing_the_encoder_counts_each_batch_once(settings, tmp_path, weights, equal):
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


def test_data_without_what_the_model_needs_is_named(settings, monkeypatch):
    def forward(self, image, edge_mask, **kwargs):
        """Is never called."""

    monkeypatch.setattr(MODELS.module_dict["TinyIML"], "forward", forward)
    with pytest.raises(DiffIMLError, match="TinyIML needs edge_mask.*--edge_mask_width"):
        train(settings)


@pytest.mark.slow
def test_a_model_of_the_zoo_trains(settings, monkeypatch, log):
    monkeypatch.setattr("torch.utils.model_zoo.load_url", lambda url: {})  # offline
    done = train(replace(settings, model="MVSSNet", epochs=1))
    (record,) = log(done.folder)
    assert record["loss"].keys() == {"predict_loss", "edge_loss", "label_loss", "combined_loss"}
    assert record["test"]["tiny"]["images"] == 4 and done.f1 > 0


@pytest.mark.slow
def test_diffiml_trains_on_real_photographs(bsds, child_environment, tmp_path, log):
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
