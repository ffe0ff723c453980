import pytest

from diffiml_plugin.bench.models import build_model, model_class, post_function, resolve_flags
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


def test_building_without_pretrained_weights_fetches_nothing(monkeypatch):
    import torch

    def refuse(*args, **kwargs):
        raise AssertionError("a download")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    loaders = torch.load, torch.nn.Module.load_state_dict
    model = build_model("MVSSNet", resolve_flags("MVSSNet", {}), pretrained=False)
    assert sum(p.numel() for p in model.parameters()) > 1e8
    assert (torch.load, torch.nn.Module.load_state_dict) == loaders
