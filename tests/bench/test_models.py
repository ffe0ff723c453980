import pytest

from diffiml_plugin.bench.data import InputSettings
from diffiml_plugin.bench.models import build_model, model_class, post_function, resolve_flags
from diffiml_plugin.bench.settings import TrainSettings
from diffiml_plugin.errors import DiffIMLError

pytestmark = pytest.mark.usefixtures("tiny_model")


def test_unknown_model_gets_the_nearest_name():
    with pytest.raises(DiffIMLError, match="no model is called 'MVSNet'; did you mean 'MVSSNet'"):
        model_class("MVSNet")


def test_unknown_flag_gets_the_nearest_name():
    with pytest.raises(DiffIMLError, match="DiffIML has no flag --ensemble_sise; did you mean 'ensemble_size'"):
        resolve_flags("DiffIML", {"ensemble_sise": 3})


def test_flags_come_before_settings_of_the_run_before_defaults():
    assert resolve_flags("TinyIML", {"width": 8}, {"image_size": 64, "width": 2, "lr": 1}) == {
        "width": 8, "poison": "", "image_size": 64}


def test_missing_required_flag_is_named():
    with pytest.raises(DiffIMLError, match="Cat_Net needs --cfg_file"):
        resolve_flags("Cat_Net", {})


def test_post_function_is_found_by_name():
    assert post_function("DiffIML").__name__ == "diffiml_post_func"
    assert post_function("TinyIML") is None


def test_a_model_that_wants_a_file_says_so(tmp_path):
    flags = resolve_flags("ObjectFormer", {"init_weight_path": str(tmp_path / "vit.pth")})
    with pytest.raises(DiffIMLError, match="ObjectFormer cannot be built: it wants a file that is not there"):
        build_model("ObjectFormer", flags)


@pytest.mark.parametrize(("name", "flag"), [
    ("Trufor", "--config_path"), ("PSCC_Net", "--pretrain_path"), ("MSCDI_Net", "--backbone_weights_path")])
def test_a_model_that_cannot_be_built_without_files_says_which_flags_name_them(name, flag):
    with pytest.raises(DiffIMLError, match=f"{name} cannot be built without files of its own .*give .*{flag}"):
        build_model(name, resolve_flags(name, {}))


def test_each_model_gets_the_input_it_was_made_for():
    assert InputSettings.of(TrainSettings(model="IML_ViT")) == InputSettings(1024, True, 7)
    resized = TrainSettings(model="IML_ViT", if_resizing=True, image_size=64)
    assert InputSettings.of(resized) == InputSettings(64, False, 7)
    assert InputSettings.of(TrainSettings(model="MVSSNet"), {"image_size": 64}) == InputSettings(64)  # as it was stored
    assert resolve_flags("PSCC_Net", {}, {"image_size": 128})["input_size"] == 128
    assert resolve_flags("SparseViT", {"img_size": 64}, {"image_size": 128})["img_size"] == 64


def test_building_without_pretrained_weights_fetches_nothing(monkeypatch):
    import torch

    def refuse(*args, **kwargs):
        raise AssertionError("a download")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    loaders = torch.load, torch.nn.Module.load_state_dict
    model = build_model("MVSSNet", resolve_flags("MVSSNet", {}), pretrained=False)
    assert sum(p.numel() for p in model.parameters()) > 1e8
    assert (torch.load, torch.nn.Module.load_state_dict) == loaders
