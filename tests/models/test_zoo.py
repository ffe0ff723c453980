import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.framework.adapters import register
from diffiml_plugin.framework.imdlbenco import MODELS
from diffiml_plugin.models import cost, registry
from diffiml_plugin.models import zoo as zoo_module
from diffiml_plugin.models.cost import complexity
from diffiml_plugin.models.zoo import RATIO, zoo

SMALL = {"encoder": "segformer_b0", "num_inference_steps": 1}
CPU = torch.device("cpu")


class _Broken(nn.Module):
    def forward(self, image, **kwargs):
        raise RuntimeError("it never\nworked")


class _Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 1)

    def forward(self, image, **kwargs):
        return {"pred_mask": self.conv(image)}


@pytest.fixture(scope="module")
def rows():
    """Of a registry with a model that fails before one that works."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cost, "_SECONDS", 0.0)
        patched.setattr(MODELS, "_module_dict", {"Broken": _Broken, "Plain": _Plain})
        return list(zoo(["Broken", "Plain"], SMALL, 64, CPU))


def test_a_row_is_that_of_one_model_with_its_speed(rows):
    alone = complexity("DiffIML", {**SMALL, "denoiser": "light"}, 64)
    light, five, release, release_five, sd, _, plain = rows
    assert list(light) == [*alone, "fps", RATIO] and light.keys() - plain.keys() == {"GFLOPs_by_count"}
    assert light["params_M"] == alone["params_M"]
    assert {**light["GFLOPs"], **five["GFLOPs"]} == alone["GFLOPs"]
    assert [row["settings"]["denoiser"] for row in rows[:5]] == ["light"] * 2 + ["release"] * 3
    assert release["settings"]["latent_codec"] == release_five["settings"]["latent_codec"] == "lightvae-release"
    assert list(release_five["GFLOPs"]) == ["N=5"] and sd["params_M"]["codec"] > 80
    assert plain["GFLOPs"] == {"N=1": pytest.approx(3 * 64 * 64 / 1e9)}
    assert json.loads(json.dumps(rows)) == rows


def test_speeds_relate_to_the_first_row(rows):
    light, five, *_, plain = rows
    assert light[RATIO] == 1 and plain[RATIO] > 1
    assert five[RATIO] == five["fps"] / light["fps"]  # below 1, but on a busy machine


def test_a_model_that_fails_says_why_and_the_next_is_measured(rows):
    broken = rows[5]
    assert broken["model"] == "Broken"
    assert broken["error"].startswith("Broken does not run at 64×64 on the CPU (it never worked)")
    assert broken["fps"] is broken[RATIO] is broken["params_M"]["total"] is broken["GFLOPs"]["N=1"] is None


def test_the_row_that_others_relate_to_must_not_fail():
    with pytest.raises(DiffIMLError, match="not multiples of 32"):
        next(zoo((), SMALL, 72, CPU))


def test_an_unknown_model_is_told_before_anything_is_measured():
    with pytest.raises(DiffIMLError, match="did you mean 'MVSSNet'"):
        next(zoo(["MVSNet"], SMALL, 72, CPU))


def test_each_model_has_the_size_of_table_4_or_of_its_input_mode(monkeypatch):
    monkeypatch.setattr(
        zoo_module,
        "_measured",
        lambda entry, *_: {"model": entry.card.name, "image_size": entry.image_size, "fps": 1.0},
    )
    sizes = {row["model"]: row["image_size"] for row in zoo((), {}, None, CPU)}
    assert sizes["DiffIML"] == sizes["MVSSNet"] == sizes["Trufor"] == 512
    assert (sizes["PSCC_Net"], sizes["MantraNet"], sizes["ObjectFormer"], sizes["IML_ViT"]) == (256, 256, 224, 1024)
    assert sizes["SPAN"] == 224
    assert sizes.keys() >= {"Cat_Net", "Mesorch", "SparseViT", "unet"}


@pytest.mark.slow
def test_every_model_of_the_registry_is_measured(monkeypatch):
    """At its own size where it takes no other, else at 64 pixels."""

    def offline(*args, **kwargs):
        raise OSError("offline")

    one_row = replace(zoo_module.DIFFIML, table4_rows=zoo_module.DIFFIML.table4_rows[:1])
    monkeypatch.setattr(zoo_module, "DIFFIML", one_row)
    monkeypatch.setitem(registry._OURS, "DiffIML", one_row)
    monkeypatch.setattr(zoo_module, "seconds_per_call", lambda call: 1.0)  # it ran when it was counted
    monkeypatch.setattr(torch.hub, "load", offline)
    register()
    fixed = ("vit", "vit16", "swin", "Mesorch", "MSCDI_Net", "ObjectFormer", "SparseViT")
    own = [name for name in MODELS.module_dict if name.endswith(fixed)]
    others = [name for name in MODELS.module_dict if name not in own]
    rows = {row["model"]: row for row in (*zoo(own, SMALL, None, CPU), *zoo(others, SMALL, 64, CPU))}
    assert rows.keys() == MODELS.module_dict.keys() and len(own) > 20
    errors = {name: row["error"] for name, row in rows.items() if not (row["fps"] and row["params_M"]["total"])}
    downloads = {name for name in rows if name.endswith("unet")}  # their very code
    assert errors.keys() == {*downloads, "SparseViTBackbone"}, errors  # which gives features, no mask


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu(monkeypatch):
    monkeypatch.setattr(cost, "_SECONDS", 0.0)
    rows = list(zoo(["MVSSNet"], SMALL, 64, torch.device("cuda")))
    assert all(row["fps"] and torch.cuda.get_device_name() in row["settings"]["timed"] for row in rows)
