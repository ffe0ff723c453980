import pytest
import torch

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.models.inputs import InputSettings
from diffiml_plugin.models.opened import open_model
from diffiml_plugin.models.registry import RegisteredModel
from diffiml_plugin.settings import CommonSettings

pytestmark = pytest.mark.usefixtures("tiny_model")
CPU = torch.device("cpu")


def test_a_checkpoint_comes_with_its_model_its_flags_and_its_inputs(stored):
    path = stored(width=6)
    opened = open_model(path, CommonSettings(), CPU)
    assert (opened.card.name, opened.flags["width"], opened.inputs, opened.path) == (
        "TinyIML",
        6,
        InputSettings(64),
        path,
    )
    assert opened.build().layers[0].out_channels == 6


def test_settings_of_the_run_come_before_what_was_stored(stored):
    opened = open_model(stored(), CommonSettings(image_size=96, if_padding=True), CPU, model_flags={"poison": "x"})
    assert opened.inputs == InputSettings(96, True)
    assert (opened.flags["image_size"], opened.build().poison) == (96, "x")


def test_a_new_model_is_built_later_and_has_the_inputs_it_was_made_for(monkeypatch):
    built = []
    monkeypatch.setattr(RegisteredModel, "build", lambda card, flags, pretrained: built.append((flags, pretrained)))
    opened = open_model(None, CommonSettings(), CPU, "PSCC_Net", {"pretrain_path": "x.pth"})
    assert not built and opened.inputs == InputSettings(256) and opened.flags["input_size"] == 256
    opened.build()
    opened.build(pretrained=False)
    assert built == [(opened.flags, True), ({**opened.flags, "pretrain_path": ""}, False)]


def test_no_checkpoint_is_not_a_new_model():
    with pytest.raises(DiffIMLError, match="the checkpoint.s path is empty"):
        open_model("", CommonSettings(), CPU, "DiffIML")


@pytest.mark.parametrize("stored_model", [True, False])
def test_a_size_that_the_model_cannot_take_is_refused(stored, stored_model):
    flags = {"encoder": "resnet10t", "encoder_weights": "none"}
    path = stored("SegFormerIML", **flags) if stored_model else None
    with pytest.raises(DiffIMLError, match="--image_size 72 is not a multiple of 32, which SegFormerIML needs; try 64"):
        open_model(path, CommonSettings(image_size=72), CPU, "SegFormerIML")
