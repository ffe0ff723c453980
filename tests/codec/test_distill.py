import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from diffiml_plugin.codec import distill as module
from diffiml_plugin.codec.distill import WEIGHTS, distill, set_latent_scale
from diffiml_plugin.codec.drawn_masks import MaskMixture, synthetic_mask
from diffiml_plugin.codec.metrics import encode_maps, latent_statistics
from diffiml_plugin.codec.settings import DistillSettings
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.method.distillation import release_distillation_loss
from diffiml_plugin.method.edges import edge_map
from diffiml_plugin.method.lightvae import LightVAE
from diffiml_plugin.method.lightvae_release import ReleaseLightVAE
from diffiml_plugin.method.sdvae import SDVAE
from diffiml_plugin.signals import Stopped
from diffiml_plugin.training.log import LOG
from diffiml_plugin.training.optimization import Learner
from diffiml_plugin.weights.codecs import load_codec
from diffiml_plugin.weights.files import read_metadata
from diffiml_plugin.weights.lightvae import load_lightvae

TINY = {"width": 4, "image_size": 32, "batch_size": 8, "steps": 30, "lr": 1e-2, "num_workers": 0, "checks": 2}


@pytest.fixture
def held_out(monkeypatch):
    monkeypatch.setattr(module, "_SCALE_MASKS", 8)
    rng = np.random.default_rng(5)
    return [synthetic_mask(64, rng) for _ in range(6)]


def run(folder, held_out, teacher=None, **changes):
    folder.mkdir(exist_ok=True)
    settings = DistillSettings(**TINY | changes)
    codec = distill(settings, MaskMixture(), held_out, folder, {"teacher": "a test's"}, teacher, say=lambda line: None)
    return codec, [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def test_a_run_stores_the_codec_it_returns_with_its_provenance_and_figures(tmp_path, held_out):
    codec, log = run(tmp_path, held_out)
    stored, y = load_lightvae(tmp_path / WEIGHTS), torch.rand(1, 1, 32, 32)
    for target in ("mask", "edge"):
        assert torch.allclose(stored.encode(y, target), codec.encode(y, target), atol=1e-5)
    provenance = read_metadata(tmp_path / WEIGHTS)["provenance"]
    assert provenance["teacher"] == "a test's" and provenance["steps"] == 30 and provenance["width"] == 4
    assert provenance["validation"] == {key: log[-1][key] for key in provenance["validation"]}
    assert {"reconstruction", "mean", "latent", "lr"} <= set(log[0])
    assert {"mean2_error", "mean2_lattice", "mean5_error", "mean5_lattice"} <= set(log[-1])


def test_the_student_learns_the_latents_of_a_teacher(tmp_path, held_out):
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4,) * 4,
        norm_num_groups=2,
        latent_channels=4,
    )
    teacher = SDVAE(vae).eval()
    with torch.no_grad():  # far from where an untrained student starts
        vae.quant_conv.bias[:4] = torch.tensor([9.0, -9.0, 9.0, -9.0])
    student, log = run(tmp_path, held_out, teacher, steps=120, lr=2e-2, latent_weight=1.0, mean_weight=0.0)
    y = torch.from_numpy(np.stack(held_out))[:, None].float()
    distance = torch.nn.functional.mse_loss(student.encoder(y), teacher.encode(y))
    assert distance < 0.3 * log[0]["latent"]


def test_the_releases_codec_learns_masks_and_is_stored(tmp_path, held_out):
    changes = {"latent_codec": "lightvae-release", "width": 8, "steps": 60, "lr": 3e-2}
    codec, log = run(tmp_path, held_out, **changes)
    assert codec.layout == "8-batch-relu" and not codec.training
    stored = load_codec("lightvae-release", str(tmp_path / WEIGHTS), "8-batch-relu")
    assert all(torch.equal(value, codec.state_dict()[key]) for key, value in stored.state_dict().items())
    losses = [entry["reconstruction"] for entry in log if "reconstruction" in entry]
    assert losses[-1] < 0.6 * losses[0] and log[-1]["f1_mean"] > 0.6
    with pytest.raises(DiffIMLError, match="holds a codec of --latent_codec lightvae-release; say that"):
        run(tmp_path / "other", held_out, student=str(tmp_path / WEIGHTS))


def test_the_releases_loss_is_eq_6_on_the_raw_value():
    torch.manual_seed(0)
    student, maps = ReleaseLightVAE("8-batch-relu").train(), (torch.rand(4, 1, 32, 32) > 0.5).float()
    teacher = torch.randn(4, 4, 4, 4)
    loss = release_distillation_loss(student, maps, teacher, 0.01)
    raw = student.decoder(student.encoder(2 * maps - 1))
    assert loss.reconstruction.item() == pytest.approx((raw - (2 * maps - 1)).abs().mean().item(), rel=1e-4)
    expected = (0.18215 * student.encoder(2 * maps - 1) - teacher).square().mean()
    assert (loss.loss - loss.reconstruction).item() == pytest.approx(0.01 * expected.item(), rel=1e-3)


def test_scale_makes_masks_and_edge_maps_unit_variance_per_channel():
    rng = np.random.default_rng(0)
    masks = [synthetic_mask(64, rng) for _ in range(16)]
    torch.manual_seed(0)
    codec = LightVAE(width=4)
    for _ in range(2):  # a second time, from a scale that is not the identity
        set_latent_scale(codec, masks)
        for target, maps in (("mask", masks), ("edge", [edge_map(mask) for mask in masks])):
            means, deviations = latent_statistics(encode_maps(codec, maps, target))
            assert means == pytest.approx([0] * 4, abs=1e-3) and deviations == pytest.approx([1] * 4, abs=1e-3)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(tmp_path, held_out):
    with pytest.raises(DiffIMLError, match="at step 1"):
        run(tmp_path, held_out, latent_weight=float("inf"))


def test_minutes_end_a_run_early(tmp_path, held_out):
    _, log = run(tmp_path, held_out, steps=10**6, minutes=0.03)
    assert log[-1]["step"] < 10**4


def test_settings_are_checked():
    with pytest.raises(DiffIMLError, match="--batch_size 4"):
        DistillSettings(batch_size=4)
    with pytest.raises(DiffIMLError, match="multiple of 16"):
        DistillSettings(image_size=520)
    with pytest.raises(DiffIMLError, match="--mean_members 1"):
        DistillSettings(mean_members=1)
    with pytest.raises(DiffIMLError, match="--resume yes"):
        DistillSettings(resume="yes")


def test_going_on_from_stored_weights_starts_where_they_end(tmp_path, held_out):
    run(tmp_path / "first", held_out)
    weights = tmp_path / "first" / WEIGHTS
    codec, _ = run(tmp_path / "second", held_out, student=str(weights), steps=1, lr=1e-9, width=7)
    before, after = load_lightvae(weights).state_dict(), codec.state_dict()
    assert all(torch.allclose(before[name], after[name], atol=1e-4) for name in before)
    provenance = read_metadata(tmp_path / "second" / WEIGHTS)["provenance"]
    assert provenance["went_on_from"] == read_metadata(weights)["provenance"]
    assert provenance["width"] == codec.width == 4  # the file's


class Interrupted(Exception):
    pass


def test_an_interrupted_run_goes_on_to_the_same_weights(tmp_path, held_out):
    whole, log = run(tmp_path / "whole", held_out)

    def interrupt(line):
        raise Interrupted

    folder = tmp_path / "halved"
    folder.mkdir()
    with pytest.raises(Interrupted):  # at the first of two validations
        distill(DistillSettings(**TINY), MaskMixture(), held_out, folder, {"teacher": "a test's"}, say=interrupt)
    with pytest.raises(DiffIMLError, match=r"--lr 0.01 \(now 0.5\)"):
        run(folder, held_out, resume="auto", lr=0.5)
    codec, resumed = run(folder, held_out, resume="auto")
    assert [entry["step"] for entry in resumed] == [entry["step"] for entry in log]
    assert all(torch.equal(codec.state_dict()[name], value) for name, value in whole.state_dict().items())


def test_a_finished_run_is_left_as_it_is(tmp_path, held_out):
    codec, log = run(tmp_path, held_out)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    again, resumed = run(tmp_path, held_out, resume="auto")
    assert resumed == log and before == {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert all(torch.equal(again.state_dict()[name], value) for name, value in codec.state_dict().items())
    (tmp_path / WEIGHTS).unlink()
    run(tmp_path, held_out, resume="auto")
    assert (tmp_path / WEIGHTS).is_file()


@pytest.mark.parametrize("of", ["masks", "label_maps", "held_out"])
def test_a_run_goes_on_with_the_same_masks_alone(tmp_path, held_out, of):
    parts = {name: [mask.copy() for mask in held_out] for name in ("masks", "label_maps", "held_out")}

    def start(**changes):
        mixture = MaskMixture(parts["masks"], parts["label_maps"])
        settings = DistillSettings(**TINY | {"steps": 2, "checks": 1} | changes)
        distill(settings, mixture, parts["held_out"], tmp_path, {}, say=lambda line: None)

    start()
    start(resume="auto")
    parts[of][3][0, 0] ^= 1
    before = (tmp_path / WEIGHTS).read_bytes()
    with pytest.raises(DiffIMLError, match="masks are not what they were"):
        start(resume="auto")
    assert (tmp_path / WEIGHTS).read_bytes() == before


@pytest.mark.parametrize("at", [1, 7, 20])
def test_a_run_that_a_signal_stops_goes_on_to_the_same_weights(tmp_path, held_out, monkeypatch, at):
    whole, log = run(tmp_path / "whole", held_out)
    update, folder = Learner.update, tmp_path / "stopped"

    def counted(self, rate):
        update(self, rate)
        if self.updates == at:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(Stopped, match="SIGTERM; go on with --resume auto"):
        patch.setattr(Learner, "update", counted)
        run(folder, held_out)
    codec, resumed = run(folder, held_out, resume="auto")
    assert [entry["step"] for entry in resumed] == [entry["step"] for entry in log]
    assert all(torch.equal(codec.state_dict()[name], value) for name, value in whole.state_dict().items())


def test_batches_do_not_depend_on_who_draws_them(monkeypatch):
    drawn = []
    for workers in (0, 2):
        settings = DistillSettings(**TINY | {"num_workers": workers})
        batches = module._batches(MaskMixture(), settings, 26, torch.device("cpu"))
        drawn.append([(maps.dtype, maps.sum().item(), edges) for maps, edges in batches])
    assert drawn[0] == drawn[1] and len(drawn[0]) == 4 and drawn[0][0][0] == torch.uint8


def test_without_a_teacher_neither_the_framework_nor_diffusers_is_needed():
    code = "import diffiml_plugin.codec.distill, diffiml_plugin.codec.sources, sys; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in modules and not {"IMDLBenCo", "albumentations", "diffusers", "timm"} & set(modules)


def test_a_terminal_sees_a_bar_and_every_printed_line(tmp_path, held_out, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    distill(DistillSettings(**TINY), MaskMixture(), held_out, tmp_path, {})
    seen = capsys.readouterr()
    assert "/30" in seen.err and [line.split(" ")[1] for line in seen.out.splitlines()] == ["15", "30"]
