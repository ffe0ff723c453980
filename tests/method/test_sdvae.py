import importlib
import json
import resource
import sys

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.method.config import DiffIMLConfig
from diffiml_plugin.method.diffiml import DiffIML
from diffiml_plugin.method.encoders import build_encoder
from diffiml_plugin.method.sdvae import SDVAE
from diffiml_plugin.weights.sdvae import PUBLISHED, load_sdvae

ATTENTION = "decoder.mid_block.attentions.0"


def tiny_vae(stages=4, latent_channels=4):
    torch.manual_seed(0)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * stages,
        up_block_types=("UpDecoderBlock2D",) * stages,
        block_out_channels=(4,) * stages,
        norm_num_groups=2,
        latent_channels=latent_channels,
    ).eval()


def test_latents_are_the_scaled_mode_of_three_equal_channels():
    vae = tiny_vae()
    codec, y = SDVAE(vae), torch.rand(2, 1, 32, 48)
    latent = codec.encode(y)
    expected = vae.encode((2 * y - 1).repeat(1, 3, 1, 1)).latent_dist.mode() * 0.18215
    assert latent.shape == (2, 4, 4, 6) and torch.allclose(latent, expected, atol=1e-6)
    decoded = codec.decode(latent, "edge")
    picture = vae.decode(latent / 0.18215).sample
    assert torch.allclose(decoded, (picture.mean(1, keepdim=True) + 1).div(2).clamp(0, 1), atol=1e-6)
    sigmoid = codec.decode(latent, reading="sigmoid")
    assert torch.allclose(sigmoid, picture.mean(1, keepdim=True).sigmoid(), atol=1e-6)
    assert not any(parameter.requires_grad for parameter in codec.parameters())


def test_diffiml_trains_and_samples_on_it():
    config = DiffIMLConfig(encoder="segformer_b0", latent_codec="sd-vae", num_inference_steps=2, ensemble_size=2)
    model = DiffIML(config, build_encoder("segformer_b0"), SDVAE(tiny_vae()))
    image, mask = torch.randn(2, 3, 64, 64), (torch.rand(2, 1, 64, 64) > 0.5).float()
    model.training_loss(image, mask, mask).loss.backward()
    assert all(parameter.grad is None for parameter in model.codec.parameters())
    probability = model.eval().predict(image, ["a", "b"]).probability
    assert probability.shape == mask.shape and probability.min() >= 0 and probability.max() <= 1


def test_a_vae_of_other_latents_is_refused():
    with pytest.raises(DiffIMLError, match="stride 4"):
        SDVAE(tiny_vae(stages=3))
    with pytest.raises(DiffIMLError, match="8 latent channels"):
        SDVAE(tiny_vae(latent_channels=8))


def test_a_folder_is_loaded_and_a_missing_one_explained(tmp_path, monkeypatch):
    vae = tiny_vae()
    vae.save_pretrained(tmp_path / "vae")
    y = torch.rand(1, 1, 16, 16)
    before = torch.get_rng_state()
    assert torch.equal(load_sdvae(tmp_path / "vae").encode(y), SDVAE(vae).encode(y))
    assert torch.equal(torch.get_rng_state(), before)  # a seed gives the denoiser the same weights
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DiffIMLError, match="diffusion_pytorch_model.safetensors"):
        load_sdvae(tmp_path / "absent")
    (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"half a file")
    with pytest.raises(DiffIMLError, match="cannot load the SD VAE"):
        load_sdvae(tmp_path / "vae")


@pytest.mark.parametrize("odd", [{"norm_num_groups": 0}, {"block_out_channels": None}, {"act_fn": "exec"}])
def test_an_odd_configuration_of_a_folder_is_no_traceback(odd, tmp_path):
    tiny_vae().save_pretrained(tmp_path / "vae")
    file = tmp_path / "vae" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | odd))
    with pytest.raises(DiffIMLError, match="cannot load the SD VAE"):
        load_sdvae(tmp_path / "vae")


def test_without_diffusers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    modules = ("diffiml_plugin.method.sdvae", "diffiml_plugin.weights.sdvae")
    for module in modules:
        monkeypatch.delitem(sys.modules, module)
    for module in modules:
        with pytest.raises(DiffIMLError, match=r"pip install 'diffiml-plugin\[sd-vae\]'"):
            importlib.import_module(module)


@pytest.mark.parametrize(
    ("odd", "told"),
    [
        ({"layers_per_block": 64}, "far fewer numbers"),
        ({"latent_channels": 4096}, "far fewer numbers"),
        ({"layers_per_block": 10**9}, "layers_per_block is 1000000000; expected 1 to 64"),
        ({"block_out_channels": [0], "norm_num_groups": 1}, r"block_out_channels is \[0\]; expected 1 to 4096"),
        ({"block_out_channels": "1"}, "block_out_channels is '1'; expected"),
        ({"norm_num_groups": -2}, "norm_num_groups is -2; expected 1 to 4096"),
        ({"in_channels": 1}, r"in_channels is 1; expected 3\)"),
        ({"force_upcast": 2}, "force_upcast is 2; expected bool"),
        ({"shift_factor": "x"}, "shift_factor is 'x'; expected"),
        ({"quantization_config": {"load_in_8bit": True}}, "does not know"),
    ],
)
def test_a_configuration_allocates_no_more_than_its_weights_fill(odd, told, tmp_path):
    tiny_vae().save_pretrained(tmp_path / "vae")
    file = tmp_path / "vae" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | odd))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DiffIMLError, match=f"cannot load the SD VAE .*{told}"):
        load_sdvae(tmp_path / "vae")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda tensors: tensors.pop("decoder.conv_out.weight"), r"1 missing \(decoder.conv_out.weight\)"),
        (lambda tensors: tensors.update(more=torch.zeros(1)), r"1 unexpected \(more\)"),
        (lambda tensors: tensors.update({"decoder.conv_out.bias": torch.zeros(4)}), r"1 of another shape .*\[4\] for"),
        (lambda tensors: tensors.update({"decoder.conv_out.bias": torch.zeros(3).int()}), "1 of another kind .*int32"),
        (lambda tensors: tensors.update({"decoder.conv_out.bias": torch.ones(3) / 0}), "1 not finite"),
        (lambda tensors: tensors.update({f"{ATTENTION}.query.bias": torch.zeros(4)}), r"1 unexpected \(.*query.bias"),
    ],
)
def test_tensors_that_do_not_fit_one_to_one_are_refused(change, told, tmp_path, caplog):
    tiny_vae().save_pretrained(tmp_path)
    tensors = load_file(file := tmp_path / "diffusion_pytorch_model.safetensors")
    change(tensors)
    save_file(tensors, file)
    with pytest.raises(DiffIMLError, match=f"cannot load the SD VAE .*{told}"):
        load_sdvae(tmp_path)
    assert not caplog.text


def test_whole_numbers_serve_as_fractions(tmp_path):
    tiny_vae().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"shift_factor": 0, "latents_mean": [0, 0, 0, 0]}))
    load_sdvae(tmp_path)


def test_the_published_one_is_no_folder_of_the_current_one(tmp_path, monkeypatch):
    tiny_vae().save_pretrained(tmp_path / PUBLISHED)
    monkeypatch.chdir(tmp_path)
    load_sdvae(PUBLISHED)  # which says the folder
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DiffIMLError, match=f"cannot load the SD VAE '{PUBLISHED}'"):
        load_sdvae()


def test_the_earlier_names_of_the_published_file_are_read(tmp_path):
    tiny_vae().save_pretrained(tmp_path)
    file, expected = tmp_path / "diffusion_pytorch_model.safetensors", load_sdvae(tmp_path).state_dict()
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    tensors = load_file(file)
    for present, earlier in names.items():
        tensors = {name.replace(present, earlier): tensor for name, tensor in tensors.items()}
    assert len(tensors.keys() - load_file(file).keys()) == 16
    save_file(tensors, file)
    for name, tensor in load_sdvae(tmp_path).state_dict().items():
        assert torch.equal(tensor, expected[name])


def test_no_other_files_are_read_than_the_two(tmp_path):
    tiny_vae().save_pretrained(tmp_path)
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"encoder.conv_in.weight": "other.safetensors"}}))
    with pytest.raises(DiffIMLError, match="index.json would have other files read than diffusion_pytorch_model.safe"):
        load_sdvae(tmp_path)
