import json

import numpy as np
import pytest
import torch
from torch import nn

from diffiml_plugin.codec import report as codec_report
from diffiml_plugin.codec.metrics import (
    averaging,
    boundary_f,
    disturbed,
    encode_maps,
    f1_score,
    iou,
    latent_statistics,
    reconstruction_f1,
)
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.method.lightvae import LightVAE


class Lossless(nn.Module):
    """A codec of 64 channels that keeps every pixel: what is lost is the harness's fault."""

    def __init__(self):
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))

    def encode(self, y, target="mask"):
        return nn.functional.pixel_unshuffle(y, 8)

    def decode(self, z, target="mask"):
        return nn.functional.pixel_shuffle(z, 8)


@pytest.mark.parametrize("shape", [(64, 64), (61, 83), (7, 9), (1, 1)])
def test_sides_that_are_no_multiple_of_8_come_back_exactly(shape):
    mask = (np.random.default_rng(0).random(shape) > 0.5).astype(np.uint8)
    mask[0, 0] = 1
    (latent,) = encode_maps(Lossless(), [mask], "mask")
    assert latent.shape[2:] == (-(-shape[0] // 8), -(-shape[1] // 8))
    assert reconstruction_f1(Lossless(), [mask]) == [1.0]


def test_scores_by_hand():
    truth, shifted = np.zeros((2, 20, 20), np.uint8)
    truth[5:15, 5:15] = 1
    shifted[5:15, 7:17] = 1
    assert f1_score(shifted, truth) == pytest.approx(0.8) and iou(shifted, truth) == pytest.approx(80 / 120)
    assert boundary_f(shifted, truth) == 1.0 and boundary_f(shifted, truth, tolerance=1) < 1.0
    empty = np.zeros_like(truth)
    for score in (f1_score, iou, boundary_f):
        assert score(empty, empty) == 1.0 and score(empty, truth) == 0.0 and score(truth, truth) == 1.0


def test_noise_is_repeatable_and_of_the_level_asked_for():
    latents = [torch.zeros(1, 4, 64, 64)] * 3
    first, again = disturbed(latents, 0.3), disturbed(latents, 0.3)
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    means, deviations = latent_statistics(first)
    assert max(map(abs, means)) < 0.02 and deviations == pytest.approx([0.3] * 4, abs=0.01)


class Averaged(nn.Module):
    """One value a cell, the cell's share, and on what is decoded a pattern that repeats from cell to cell."""

    def __init__(self, pattern):
        super().__init__()
        self.pattern = nn.Parameter(pattern)  # [8, 8]

    def encode(self, y, target="mask"):
        return nn.functional.avg_pool2d(y, 8)

    def decode(self, z, target="mask"):
        decoded = z.repeat_interleave(8, 2).repeat_interleave(8, 3)
        return decoded + self.pattern.repeat(z.shape[2], z.shape[3])


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    return [np.kron(rng.random((16, 16)) > 0.5, np.ones((8, 8))).astype(np.uint8) for _ in range(6)]


@pytest.mark.parametrize("members", [2, 5])
def test_means_of_latents_against_means_of_masks(cells, members):
    assert averaging(Averaged(torch.zeros(8, 8)), cells, members).error < 1e-6
    raised = averaging(Averaged(torch.full((8, 8), 0.1)), cells, members)  # off, but by no pattern
    assert raised.error == pytest.approx(0.1, abs=1e-4) and raised.lattice < 10
    for wave in (torch.eye(8) - 1 / 8, torch.cos(torch.arange(8) * torch.pi / 4).expand(8, 8)):
        marked = averaging(Averaged(0.1 * wave + 0.01 * torch.randn(8, 8)), cells, members)
        assert marked.lattice > 1000 and marked.error < 0.1
    rough = Averaged(torch.zeros(8, 8))
    rough.decode = lambda z, target="mask": torch.rand(1, 1, 128, 128)
    assert averaging(rough, cells, members).lattice < 10


def test_report_holds_the_promised_keys(tmp_path, monkeypatch):
    rival = LightVAE(width=2)
    monkeypatch.setattr(codec_report, "SDVAE", lambda: rival)
    rng = np.random.default_rng(0)
    masks = {f"<{index}>.png": (rng.random((40, 50)) > 0.5).astype(np.uint8) for index in range(12)}
    codec = LightVAE(width=4)
    result = codec_report.report_codec(codec, masks, 64, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "codec.json").read_text()) == result
    assert set(result["means"]) == {"2", "5"} and set(result["means"]["5"]) == {"error", "lattice"}
    assert set(result) == {
        "means",
        "reconstruction",
        "noise",
        "empty_false_area",
        "latents",
        "params_M",
        "time_ratio_sd_over_light",
        "weights",
    }
    assert set(result["reconstruction"]) == {"f1_mean", "f1_p5", "f1_min", "images"}
    assert set(result["noise"]) == {"0.1", "0.2", "0.3"}
    assert result["reconstruction"]["images"] == 12 and result["time_ratio_sd_over_light"] > 0
    assert len(result["latents"]["mean"]) == len(result["latents"]["std"]) == 8
    before = (tmp_path / "out" / "codec.json").read_bytes()
    with pytest.raises(DiffIMLError, match="codec.json was made with other weights"):
        codec_report.report_codec(LightVAE(width=4), masks, 64, tmp_path / "out")
    others = {**masks, min(masks): 1 - masks[min(masks)]}
    with pytest.raises(DiffIMLError, match="codec.json was made with other masks"):
        codec_report.report_codec(codec, others, 64, tmp_path / "out")
    assert (tmp_path / "out" / "codec.json").read_bytes() == before
    page = (tmp_path / "out" / "codec.html").read_text()
    assert page.count('<div class="strip">') == 10 and "random weights" in page and page.count("&gt;.png: F1") == 10
