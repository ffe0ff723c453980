import argparse

import pytest
import torch

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.models.converted import convert
from diffiml_plugin.weights.codecs import load_codec
from diffiml_plugin.weights.files import read_metadata


@pytest.fixture(scope="module")
def tensors(authors_release):
    """A checkpoint of theirs on the smallest backbone, with a codec that works."""
    torch.manual_seed(0)
    return authors_release.checkpoint("b0", authors_release.averaging_light_vae())


@pytest.fixture
def source(tensors, tmp_path):
    path = tmp_path / "checkpoint-59.pth"
    torch.save({"model": tensors, "epoch": 59, "args": argparse.Namespace(model="DiffIML")}, path)
    return path


def test_a_converted_checkpoint_is_a_checkpoint(source, tmp_path, authors_release, tensors, restore):
    target = tmp_path / "x.safetensors"
    assert convert(source, target).startswith("the release's model on segformer_b0 with lightvae-release; pixel-F1")
    restored = restore(target)
    config = restored.model.diffiml.config
    assert (config.denoiser, config.codec_layout, restored.input["image_size"]) == ("release", "8-batch-relu", 512)
    assert (config.timestep_spacing, config.clip_latents, config.tta_fusion) == ("leading", 1.0, "max")
    assert (config.num_inference_steps, config.ensemble_size, config.mask_reading) == (8, 5, "sigmoid")
    image = torch.randn(1, 3, 64, 64)
    expected = authors_release.Release(tensors).condition(image)
    with torch.no_grad():
        model = restored.model.eval().diffiml
        found = model.denoiser.condition(model.condition_encoder(image))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert read_metadata(target)["provenance"]["converted_from"] == "checkpoint-59.pth"


def test_the_codec_alone(authors_release, tmp_path):
    codec = authors_release.averaging_light_vae()
    torch.save({"model": codec, "epoch": 39}, tmp_path / "light_vae_weights.pth")
    convert(tmp_path / "light_vae_weights.pth", tmp_path / "codec.safetensors")
    path = str(tmp_path / "codec.safetensors")
    loaded = load_codec("lightvae-release", path, "8-batch-relu")
    assert all(torch.equal(codec[key], value) for key, value in loaded.state_dict().items())
    with pytest.raises(DiffIMLError, match="layout 8-batch-relu, not 32-batch-relu; say --codec_layout 8-batch-relu"):
        load_codec("lightvae-release", path)
    with pytest.raises(DiffIMLError, match="holds the codec of --latent_codec lightvae-release, not of lightvae"):
        load_codec("lightvae", path)


def test_a_random_codec_is_refused_with_its_figure_unless_forced(authors_release, tmp_path):
    torch.manual_seed(0)
    torch.save(authors_release.light_vae(), tmp_path / "light_vae_weights.pth")
    source, target = tmp_path / "light_vae_weights.pth", tmp_path / "codec.safetensors"
    with pytest.raises(DiffIMLError, match=r"pixel-F1 of 0\.\d{3}.*random.*--activation silu.*--force"):
        convert(source, target)
    assert not target.exists()
    convert(source, target, force=True)
    assert read_metadata(target)["provenance"]["mask_f1"] < 0.9


def test_the_figure_tells_a_wrong_activation(source, tmp_path):
    with pytest.raises(DiffIMLError, match=r"pixel-F1 of 0\.\d{3}.*not silu \(try --activation relu\)"):
        convert(source, tmp_path / "x.safetensors", "silu")


@pytest.mark.parametrize(
    "content, message",
    [
        ({"patch_embed1.proj.weight": torch.zeros(1)}, "Mix Transformer, which needs no conversion.*--encoder_weights"),
        ({"diffiml.denoiser.x": torch.zeros(1)}, "a DiffIML of this package.*--checkpoint_path"),
        ({"conv1.weight": torch.zeros(1)}, "no checkpoint of the authors' release.*first tensors are conv1.weight"),
    ],
)
def test_other_files_are_named(content, message, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(DiffIMLError, match=f"w.pth .*{message}"):
        convert(tmp_path / "w.pth", tmp_path / "x.safetensors")


def test_nothing_is_overwritten(source, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"mine")
    for target, message in (("x.safetensors", "is there already"), ("x.pth", "no .safetensors file")):
        with pytest.raises(DiffIMLError, match=message):
            convert(source, tmp_path / target)
    assert (tmp_path / "x.safetensors").read_bytes() == b"mine"


def test_an_unconverted_checkpoint_is_told_how_to_become_one(source, restore):
    with pytest.raises(DiffIMLError, match=r"authors' release \(extractor.*benco convert .*checkpoint-59.pth --output"):
        restore(source)


def test_a_checkpoint_of_the_former_denoiser_is_told_what_became_of_it(stored):
    with pytest.raises(DiffIMLError, match="denoiser='paper' is no longer built: .* take release"):
        stored("DiffIML", encoder="segformer_b0", denoiser="paper")


def test_a_codec_of_another_layout_travels_with_its_checkpoint(stored, restore):
    flags = {"latent_codec": "lightvae-release", "codec_layout": "8-group-silu", "codec_weights": "none"}
    path = stored("DiffIML", encoder="segformer_b0", **flags)
    assert restore(path).model.diffiml.codec.layout == "8-group-silu"
    flags = {"codec_layout": "5", "codec_weights": "none"}
    assert restore(stored("DiffIML", encoder="segformer_b0", **flags)).model.diffiml.codec.width == 5


@pytest.mark.parametrize(
    "name, layout, message",
    [
        ("lightvae", "wide", "not a width"),
        ("lightvae-release", "32-relu", "not WIDTH-NORM-ACTIVATION"),
        ("lightvae-release", "12-group-relu", "multiple of 8"),
        ("sd-vae", "3", "one layout only"),
    ],
)
def test_unknown_layouts_are_refused(name, layout, message):
    with pytest.raises(DiffIMLError, match=message):
        load_codec(name, "none", layout)


def test_no_weights_of_their_codec_travel_with_the_package():
    with pytest.raises(DiffIMLError, match="no weights of latent_codec lightvae-release.*benco convert"):
        load_codec("lightvae-release")
