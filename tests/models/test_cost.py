import json

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.framework.imdlbenco import MODELS
from diffiml_plugin.models import cost
from diffiml_plugin.models.cost import complexity
from diffiml_plugin.models.registry import DIFFIML
from diffiml_plugin.models.untrained import blank_batch, build_untrained, untrained

SMALL = {"denoiser": "light", "encoder": "segformer_b0"}


@pytest.fixture(scope="module")
def rows():
    """By number of sampling steps."""
    return {steps: complexity("DiffIML", {**SMALL, "num_inference_steps": steps}, 64) for steps in (1, 2)}


def test_a_row_has_exactly_the_published_keys(rows):
    row = rows[1]
    assert list(row) == ["model", "image_size", "params_M", "GFLOPs", "settings", "GFLOPs_by_count"]
    assert (row["model"], row["image_size"]) == ("DiffIML", 64)
    assert list(row["params_M"]) == ["total", "condition_encoder", "denoiser", "codec"]
    assert list(row["GFLOPs"]) == ["N=1", "N=5"]
    assert row["settings"]["encoder"] == "segformer_b0" and "every sampling step" in row["settings"]["counted"]
    assert json.loads(json.dumps(row)) == row
    total, *parts = row["params_M"].values()
    assert total == pytest.approx(sum(parts))
    assert row["params_M"]["condition_encoder"] == pytest.approx(3.319392)


def test_every_step_of_every_member_is_counted_and_the_rest_once(rows):
    once, twice = rows[1]["GFLOPs"], rows[2]["GFLOPs"]
    step = twice["N=1"] - once["N=1"]
    assert step > 0.02
    assert twice["N=5"] - once["N=5"] == pytest.approx(5 * step, rel=0.01)  # under 1 % embeds t, once for all
    assert once["N=5"] - once["N=1"] == pytest.approx(4 * step, rel=0.01)


@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, {"ensemble_space": "pixel"}, {"ensemble_space": "pixel", "tta": True}])
def test_what_is_said_of_many_is_what_a_trace_of_all_of_it_counts(settings):
    flags = {**SMALL, **settings, "num_inference_steps": 3}
    said = complexity("DiffIML", flags, 64)["GFLOPs_by_count"]["run"]["N=5"]
    with untrained():
        model, _ = build_untrained(DIFFIML, {**flags, "ensemble_size": 5}, 64)
        traced = cost._trace("DiffIML", model, blank_batch(model, 64)).total() / 1e9
    assert said == pytest.approx(traced, rel=1e-6)


def test_a_schedule_of_one_timestep_is_counted_too():
    flags = {**SMALL, "num_train_timesteps": 1, "num_inference_steps": 1}
    assert complexity("DiffIML", flags, 64)["GFLOPs"]["N=1"] > 0


class _OnlyAttention(nn.Module):
    def forward(self, image, **kwargs):
        query = image.flatten(2)  # [1, 3, S·S] as 3 positions of S·S channels
        return {"pred_mask": F.scaled_dot_product_attention(query, query[:, :2], query[:, :2])}


@pytest.fixture
def registered(monkeypatch):
    def register(model):
        monkeypatch.setitem(MODELS.module_dict, "Probe", model)

    return register


def test_fused_attention_is_counted_as_its_two_products(registered):
    registered(_OnlyAttention)
    row = complexity("Probe", {}, 8)
    assert list(row["params_M"]) == ["total"] and list(row["GFLOPs"]) == ["N=1"]
    assert row["GFLOPs"]["N=1"] == pytest.approx(2 * 3 * 2 * 64 / 1e9)


class _WantsWeights(nn.Module):
    def __init__(self, weight_path: str):
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 1)
        self.load_state_dict(torch.load(weight_path))
        self.load_state_dict(torch.hub.load_state_dict_from_url("https://example.org/weights.pth"))
        self.cuda()

    def forward(self, image, mask, **kwargs):
        if image.shape[-1] == 33:
            raise RuntimeError("33 is unlucky")
        return {"pred_mask": self.conv(image) + mask.cuda()}


def test_a_model_that_insists_on_weights_is_built_without(registered):
    registered(_WantsWeights)
    row = complexity("Probe", {}, 32)
    assert row["params_M"] == {"total": 4e-6}
    assert row["GFLOPs"] == {"N=1": pytest.approx(3 * 32 * 32 / 1e9)}


def test_the_stand_ins_are_gone_afterwards(registered):
    before = (torch.load, torch.Tensor.cuda, nn.Module.load_state_dict, timm.create_model)
    registered(_WantsWeights)
    complexity("Probe", {}, 32)
    assert (torch.load, torch.Tensor.cuda, nn.Module.load_state_dict, timm.create_model) == before


def test_a_size_at_which_the_model_fails_is_an_error(registered):
    registered(_WantsWeights)
    with pytest.raises(DiffIMLError, match=r"Probe does not run at 33×33 on the CPU \(33 is unlucky\)"):
        complexity("Probe", {}, 33)
    with pytest.raises(DiffIMLError, match=r"\(72, 72\) are not multiples of 32"):
        complexity("DiffIML", SMALL, 72)


def test_a_model_that_cannot_be_traced_still_has_its_parameters():
    row = complexity("MantraNet", {}, 32)
    assert row["params_M"] == {"total": pytest.approx(3.805625)}
    assert row["GFLOPs"] == {"N=1": None}
    assert json.loads(json.dumps(row)) == row


def test_an_unknown_flag_is_refused():
    with pytest.raises(DiffIMLError, match="encoder"):
        complexity("DiffIML", {"encodr": "segformer_b0"}, 64)


def test_what_is_counted(rows):
    """Against a trace of the whole prediction, which is what runs."""
    flags = {**SMALL, "num_inference_steps": 3, "ensemble_size": 2}
    with untrained():
        model, _ = build_untrained(DIFFIML, flags, 64)
        batch = blank_batch(model, 64)
        traced = cost.count_flops(cost._MaskOf(model, batch), batch["image"]) / 1e9
        counted = cost.count_all(DIFFIML, model, batch, [2])
    assert counted["run"]["N=2"] == pytest.approx(traced, rel=0.01)  # under 1 % embeds t, once for all members
    share = 64 * 32 * 9 * 8 * 8 / 1e9  # 3x3 convolution from 64 to 32 channels on the latent's grid
    assert counted["whole"]["N=2"] - counted["run"]["N=2"] == pytest.approx(5 * share)
    assert model.diffiml.config.num_inference_steps == 3
    one_step = rows[1]["GFLOPs_by_count"]
    attention = one_step["run"]["N=1"] - one_step["published"]["N=1"]
    assert attention == pytest.approx(
        2 * 1 * 1 * 128 / 1e9
    )  # one cell at the coarsest level: q·k and its product with v


@pytest.mark.slow
def test_the_published_cost():
    """Table 4, LightVAE: the network of ours with every step, the release's as its authors count it, and whole."""
    light = complexity("DiffIML", {"denoiser": "light"}, 512)
    assert light["params_M"]["total"] == pytest.approx(48.51, rel=0.01)
    assert light["GFLOPs"]["N=1"] <= 53.01 and light["GFLOPs"]["N=5"] <= 102.36
    release = complexity("DiffIML", {"denoiser": "release", "latent_codec": "lightvae-release"}, 512, "published")
    assert release["params_M"]["total"] == pytest.approx(48.770, abs=5e-4)
    assert release["GFLOPs"] == {"N=1": pytest.approx(53.272, rel=5e-3), "N=5": pytest.approx(102.364, rel=5e-3)}
    whole = release["GFLOPs_by_count"]["whole"]
    assert whole == {"N=1": pytest.approx(173.5, rel=5e-3), "N=5": pytest.approx(703.7, rel=5e-3)}
    assert "one sampling step, without the denoiser's self-attention" in release["settings"]["counted"]


def test_a_model_of_the_zoo():
    row = complexity("MVSSNet", {}, 512)
    assert row["params_M"]["total"] == pytest.approx(146.88, abs=0.01)
    assert row["GFLOPs"]["N=1"] == pytest.approx(166.5, abs=0.1)


def test_the_median_call_counts_and_the_first_does_not(monkeypatch):
    clock = iter([0, 9, 9, 10, 10, 13, 13, 15])  # calls of 9, 1, 3 and 2 seconds
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    monkeypatch.setattr(cost, "_SECONDS", 0.0)
    assert cost.seconds_per_call(lambda: torch.zeros(1), fewest=4) == 2


def test_one_slow_call_is_enough_where_one_is_asked_for(monkeypatch):
    clock = iter([0.0, 60.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    assert cost.seconds_per_call(lambda: torch.zeros(1), fewest=1) == 60
