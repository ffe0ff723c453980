import pytest
import torch
from torch import nn

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.framework.imdlbenco import MODELS, POSTFUNCS
from diffiml_plugin.models import registry as models
from diffiml_plugin.models.checkpoints import storable
from diffiml_plugin.models.inputs import InputSettings
from diffiml_plugin.models.registry import SEGFORMER, find_model
from diffiml_plugin.settings import layer, values_of
from diffiml_plugin.training.settings import TrainSettings

pytestmark = pytest.mark.usefixtures("tiny_model")


def test_unknown_model_gets_the_nearest_name():
    with pytest.raises(DiffIMLError, match="no model is called 'MVSNet'; did you mean 'MVSSNet'"):
        find_model("MVSNet")


def test_unknown_flag_gets_the_nearest_name():
    with pytest.raises(DiffIMLError, match="DiffIML has no flag --ensemble_sise; did you mean 'ensemble_size'"):
        find_model("DiffIML").resolve({"ensemble_sise": 3})


def test_flags_come_before_settings_of_the_run_before_defaults():
    assert find_model("TinyIML").resolve({"width": 8}, {"image_size": 64, "width": 2, "lr": 1}) == {
        "width": 8,
        "poison": "",
        "dropout": 0.0,
        "image_size": 64,
    }


def test_missing_required_flag_is_named():
    with pytest.raises(DiffIMLError, match="SPAN needs --weight_path"):
        find_model("SPAN").resolve({})


@pytest.mark.parametrize(("name", "flag"), [("Cat_Net", "cfg_file"), ("Trufor", "config_path")])
def test_the_frameworks_own_file_is_the_default(name, flag):
    assert find_model(name).resolve({})[flag].is_file()
    assert find_model(name).resolve({flag: None}) == find_model(name).resolve({})  # as argparse leaves it
    assert find_model(name).resolve({flag: "own.yaml"})[flag] == "own.yaml"
    with pytest.raises(
        DiffIMLError, match=f"{name}'s --{flag} own.py is no .yaml or .yml file; of another, the framewo"
    ):
        find_model(name).resolve({flag: "own.py"})
    assert flag not in storable(find_model(name).resolve({}))  # elsewhere it lies elsewhere


def test_post_function_is_found_by_name():
    assert find_model("DiffIML").post_function.__name__ == "diffiml_post_func"
    assert find_model("TinyIML").post_function is None


def test_a_model_that_wants_a_file_says_so(tmp_path):
    card = find_model("ObjectFormer")
    flags = card.resolve({"init_weight_path": str(tmp_path / "vit.pth")})
    with pytest.raises(DiffIMLError, match="ObjectFormer cannot be built: it wants a file that is not there"):
        card.build(flags)


@pytest.mark.parametrize(
    ("name", "flag"),
    [("Trufor", "--np_pretrain_weights"), ("PSCC_Net", "--pretrain_path"), ("MSCDI_Net", "--backbone_weights_path")],
)
def test_a_model_that_cannot_be_built_without_files_says_which_flags_name_them(name, flag):
    card = find_model(name)
    with pytest.raises(DiffIMLError, match=f"{name} cannot be built without files of its own .*give .*{flag}"):
        card.build(card.resolve({}))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_model_that_insists_on_a_gpu_says_so():
    card = find_model("Cat_Net")
    with pytest.raises(DiffIMLError, match="Cat_Net cannot be built without a CUDA device"):
        card.build(card.resolve({}))


def test_each_model_gets_the_input_it_was_made_for():
    wanted = layer(find_model("IML_ViT").input, "from IML_ViT")
    for settings, expected in (
        (TrainSettings(), InputSettings(1024, True, 7)),
        (TrainSettings(if_resizing=True, image_size=64), InputSettings(64, False, 7)),
    ):
        assert InputSettings(**values_of(InputSettings.settle(settings, wanted))) == expected
    assert find_model("PSCC_Net").resolve({}, {"image_size": 128})["input_size"] == 128
    assert find_model("SparseViT").resolve({"img_size": 64}, {"image_size": 128})["img_size"] == 64


def test_building_without_pretrained_weights_fetches_nothing(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a download")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    loaders = torch.load, torch.nn.Module.load_state_dict
    card = find_model("MVSSNet")
    model = card.build(card.resolve({}), pretrained=False)
    assert sum(p.numel() for p in model.parameters()) > 1e8
    assert (torch.load, torch.nn.Module.load_state_dict) == loaders


@pytest.fixture
def stub(monkeypatch):
    """Registers a model with the given constructor; gives its card."""

    def register(constructor):
        monkeypatch.setitem(MODELS.module_dict, "Stub", constructor)
        return find_model("Stub")

    return register


def test_unset_initial_weights_are_named(stub, tmp_path, caplog):
    weights = tmp_path / "mit_b3.pth"
    weights.touch()
    card = stub(lambda seg_pretrain_path=None, conv_pretrain=False, width=0: torch.nn.Identity())

    def told(**flags):
        caplog.clear()
        card.build(card.resolve(flags))
        return caplog.messages

    assert told() == ["Stub starts from random weights, for want of --seg_pretrain_path, --conv_pretrain"]
    assert "--seg_pretrain_path" in told(seg_pretrain_path=str(tmp_path / "other.pth"), conv_pretrain=True)[0]
    assert not told(seg_pretrain_path=str(weights), conv_pretrain=True)
    card.build(card.resolve({}), pretrained=False)
    assert not caplog.messages


def test_an_encoder_from_random_weights_is_said(caplog):
    caplog.set_level("INFO")
    for weights, said in (("none", "SegFormerIML's encoder starts from random weights"), ("xavier", "")):
        SEGFORMER.build(SEGFORMER.resolve({"encoder": "resnet10t", "encoder_weights": weights}))
        assert [said in text for text in caplog.messages] == [True] * (weights == "none")
        caplog.clear()


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("IML_ViT", "--vit_pretrain_path"),
        ("Mesorch", "--seg_pretrain_path, --conv_pretrain"),
        ("ObjectFormer", "--init_weight_path"),
        ("PSCC_Net", "--pretrain_path"),
        ("SparseViT", "--pretrained_path"),
    ],
)
def test_the_initial_weights_of_the_zoo_are_recognised(name, flags):
    assert ", ".join(f"--{flag}" for flag in find_model(name).flags if models._START_FLAG.search(flag)) == flags


def test_models_whose_names_differ_in_case_are_told_apart(monkeypatch):
    for name in ("MyIML", "MYIML"):
        monkeypatch.setitem(MODELS.module_dict, name, type(name, (nn.Module,), {}))
        monkeypatch.setitem(POSTFUNCS.module_dict, f"{name}_post_func", lambda sample, name=name: name)
    for name in ("MyIML", "MYIML"):
        assert find_model(name).name == name and find_model(name).post_function({}) == name
    with pytest.raises(DiffIMLError, match="'myiml' may be MyIML or MYIML; write it as one of these"):
        find_model("myiml")
