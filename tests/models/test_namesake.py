"""Another package, such as the authors' fork of the framework, registers a DiffIML of its own before we do."""

import pytest
import torch
from torch import nn

from diffiml_plugin.cli.main import main
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.evaluation.settings import TestSettings
from diffiml_plugin.evaluation.test import test as run_test
from diffiml_plugin.framework.adapters import diffiml_post_func, register
from diffiml_plugin.framework.imdlbenco import MODELS, POSTFUNCS
from diffiml_plugin.models import registry
from diffiml_plugin.models import zoo as zoo_module
from diffiml_plugin.models.registry import DIFFIML, SEGFORMER, find_model, look_up
from diffiml_plugin.training.engine import train
from diffiml_plugin.training.settings import TrainSettings

SHARED = {"image_size": 64, "num_workers": 0, "device": "cpu"}


class TheirDiffIML(nn.Module):
    def __init__(self, backbone: str = "b3"):
        super().__init__()
        self.convolution = nn.Conv2d(3, 1, 1)

    def forward(self, image, mask=None, seen=None, *args, **kwargs):
        assert seen == ["theirs"] * len(image) and "edge_map" not in kwargs
        logits = self.convolution(image)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, mask.float())
        return {"pred_mask": logits.sigmoid(), "backward_loss": loss, "visual_loss": {"loss": loss}}


def their_post_func(sample):
    sample["seen"] = "theirs"


@pytest.fixture(autouse=True)
def fork(monkeypatch):
    """The registries as the fork leaves them."""
    ours = ("DiffIML", "SegFormerIML", "diffiml_post_func")
    for entries, theirs in (
        (MODELS, {"DiffIML": TheirDiffIML}),
        (POSTFUNCS, {"diffiml_post_func": their_post_func}),
    ):
        others = {name: entry for name, entry in entries.module_dict.items() if name not in ours}
        monkeypatch.setattr(entries, "_module_dict", {**theirs, **others})
    registry._say_who_else_registered.cache_clear()


def test_their_registration_stays_and_none_of_ours_disappears():
    register()
    assert MODELS.module_dict["DiffIML"] is TheirDiffIML
    assert POSTFUNCS.module_dict["diffiml_post_func"] is their_post_func
    assert MODELS.module_dict["SegFormerIML"] is SEGFORMER.constructor


def test_their_model_does_not_get_our_post_function(monkeypatch):
    monkeypatch.delitem(POSTFUNCS.module_dict, "diffiml_post_func")
    register()
    assert not POSTFUNCS.has("diffiml_post_func")
    POSTFUNCS.register_module(module=diffiml_post_func)  # as if we had come first, and theirs were forced upon the name
    assert find_model("registry:DiffIML").post_function is None


def test_our_name_means_our_class_and_theirs_is_offered(caplog):
    assert find_model("DiffIML") is find_model("diffiml") is DIFFIML
    assert find_model("SegFormerIML") is SEGFORMER
    (said,) = caplog.messages
    assert f"another package registered a DiffIML, from {__name__}" in said and __file__ in said
    assert "theirs is --model registry:DiffIML" in said
    theirs = find_model("registry:DiffIML")
    assert (theirs.name, theirs.constructor) == ("registry:DiffIML", TheirDiffIML)
    assert theirs.post_function is their_post_func and not theirs.samples
    assert len(caplog.messages) == 1


def test_without_another_the_prefix_names_what_the_registry_has(monkeypatch):
    monkeypatch.setitem(MODELS.module_dict, "DiffIML", DIFFIML.constructor)
    assert look_up("registry:DiffIML") is DIFFIML
    assert look_up("registry:MVSSNet") == find_model("MVSSNet")
    with pytest.raises(DiffIMLError, match="no model is called 'registry:MVSNet'; did you mean"):
        find_model("registry:MVSNet")


def test_a_class_derived_from_ours_is_known_as_ours(monkeypatch):
    class Derived(DIFFIML.constructor):
        """DiffIML with another head, say."""

    monkeypatch.setitem(MODELS.module_dict, "Derived", Derived)
    card = find_model("Derived")
    assert card.samples and card.size_multiple == 32 and card.untrained == DIFFIML.untrained
    assert card.post_function is diffiml_post_func and card.table4_rows == ({},)


def test_the_command_line_offers_the_flags_of_each(capsys):
    assert main(["train", "--model", "registry:DiffIML", "--backbone", "b0", "--dry_run"]) == 0
    assert "model: registry:DiffIML" in (printed := capsys.readouterr().out) and "backbone: b0" in printed
    assert main(["train", "--model", "DiffIML", "--backbone", "b0", "--dry_run"]) == 2


def test_theirs_trains_is_tested_and_is_not_taken_for_ours(tiny_dataset, tmp_path, restore):
    listed, run = str(tiny_dataset / "list.json"), tmp_path / "run"
    settings = TrainSettings(
        model="registry:DiffIML", data_path=listed, batch_size=2, epochs=1, output_dir=str(run), **SHARED
    )
    last = train(settings).folder / "last.safetensors"
    restored = restore(last)
    assert restored.card.name == "registry:DiffIML" and isinstance(restored.model, TheirDiffIML)
    with pytest.raises(DiffIMLError, match="holds a registry:DiffIML, not a DiffIML"):
        restore(last, "DiffIML")
    tested = TestSettings(checkpoint_path=str(last), test_data_path=listed, output_dir=str(tmp_path / "out"), **SHARED)
    assert run_test(tested)["model"] == "registry:DiffIML"


def test_both_stand_in_table_4(monkeypatch):
    monkeypatch.setattr(zoo_module, "_measured", lambda entry, *_: {"model": entry.card.name, "fps": 1.0})
    rows = [row["model"] for row in zoo_module.zoo((), {}, None, torch.device("cpu"))]
    ours = len(DIFFIML.table4_rows)
    assert rows[:ours] == ["DiffIML"] * ours and "DiffIML" not in rows[ours:]
    assert {"registry:DiffIML", "SegFormerIML"} <= set(rows[ours:])
