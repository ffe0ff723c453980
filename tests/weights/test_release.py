import pytest
import torch
import torch.nn.functional as F

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.method.diffiml import DiffIML
from diffiml_plugin.method.encoders import build_encoder
from diffiml_plugin.weights.codecs import load_codec
from diffiml_plugin.weights.files import load_into
from diffiml_plugin.weights.release import codec_from_release, from_release, reconstruction_f1

CLOSE = {"atol": 1e-4, "rtol": 1e-4}


def ours(tensors, activation="relu"):
    """Our model with the weights of theirs."""
    config, renamed = from_release(tensors, "checkpoint.pth", activation)
    codec = load_codec(config.latent_codec, "none", config.codec_layout)
    model = DiffIML(config, build_encoder(config.encoder), codec).eval()
    load_into(model, renamed, "checkpoint.pth")
    return model


@pytest.fixture(scope="module")
def tensors(authors_release):
    torch.manual_seed(0)
    return authors_release.checkpoint("b0")


@pytest.fixture(scope="module")
def theirs(authors_release, tensors):
    return authors_release.Release(tensors)


@pytest.fixture(scope="module")
def model(tensors):
    return ours(tensors)


@pytest.fixture(scope="module")
def image():
    return torch.randn(1, 3, 96, 160, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_stages_and_condition(theirs, model, image):
    stages = model.condition_encoder(image)
    for found, expected in zip(stages, theirs.stages(image), strict=True):
        torch.testing.assert_close(found, expected, **CLOSE)
    torch.testing.assert_close(model.denoiser.condition(stages), theirs.condition(image), **CLOSE)


@pytest.mark.parametrize("t", [0, 875])
@torch.no_grad()
def test_unet(theirs, model, image, t):
    z = torch.randn(1, 8, 12, 20)
    denoiser = model.denoiser
    found = denoiser(z, denoiser.embed(torch.tensor([t])), denoiser.fuse(model.condition_encoder(image)))
    torch.testing.assert_close(found, theirs.denoise(z, t, theirs.condition(image)), **CLOSE)


@torch.no_grad()
def test_codec_both_ways(theirs, model):
    mask = (torch.rand(2, 1, 48, 64) > 0.7).float() * torch.rand(2, 1, 48, 64)  # whatever is not 0 counts
    latent = model.codec.encode(mask)
    torch.testing.assert_close(latent, theirs.encode(mask), **CLOSE)
    raw = theirs.decode(latent)
    torch.testing.assert_close(model.codec.decode(latent), raw.sigmoid(), **CLOSE)
    torch.testing.assert_close(model.codec.decode(latent, reading="clamp"), ((raw + 1) / 2).clamp(0, 1), **CLOSE)


@pytest.mark.parametrize("width, norm, activation", [(8, "group", "silu"), (16, "batch", "silu"), (8, "group", "relu")])
@torch.no_grad()
def test_codecs_of_other_layouts(authors_release, tensors, width, norm, activation):
    codec = authors_release.light_vae(width, norm)
    others = {key: value for key, value in tensors.items() if not key.startswith("vae.")}
    theirs = authors_release.Release(others | {f"vae.{key}": value for key, value in codec.items()})
    found = codec_from_release(codec, "light_vae_weights.pth", activation)
    assert found.layout == f"{width}-{norm}-{activation}"
    mask, function = (torch.rand(1, 1, 32, 32) > 0.5).float(), getattr(F, activation)
    latent = theirs.encode(mask, function)
    torch.testing.assert_close(found.encode(mask), latent, **CLOSE)
    torch.testing.assert_close(found.decode(latent), theirs.decode(latent, function).sigmoid(), **CLOSE)


def predict(model, theirs, image, tta, members=2, steps=3):
    """A whole prediction of ours, and of theirs from the same noise."""
    sampler = model.with_settings(ensemble_size=members, num_inference_steps=steps, tta=tta)
    noise = sampler.draw_noise(["a"], image.shape[-2:])  # [1, V, 1, N, C, h, w]
    found = sampler.sample(sampler.condition(image), noise).probability
    assert found.std() > 0.005  # no constant, which any would agree with
    return found, theirs.predict(image, noise[0, :, 0].unbind(1), steps, tta)


@pytest.mark.parametrize("tta", [False, True])
def test_a_whole_prediction(theirs, model, image, tta):
    found, expected = predict(model, theirs, image, tta)
    torch.testing.assert_close(found, expected, **CLOSE)
    assert model.config.tta and model.config.tta_fusion == "max"


@pytest.mark.slow
def test_a_whole_prediction_at_their_size(authors_release):
    torch.manual_seed(1)
    tensors = authors_release.checkpoint("b3")
    assert len(tensors) == 730
    model = ours(tensors)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(48.770, abs=5e-4)
    found, expected = predict(model, authors_release.Release(tensors, "b3"), torch.randn(1, 3, 512, 512), True, 1, 8)
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.slow
def test_their_state_with_stable_diffusions_vae(authors_release, image):
    torch.manual_seed(2)
    vae = {f"vae.{key}": value for key, value in authors_release.sd_vae().state_dict().items()}
    tensors = authors_release.checkpoint("b0", vae)
    model, theirs = ours(tensors), authors_release.Release(tensors)
    assert model.config.latent_codec == "sd-vae"
    mask = (torch.rand(1, 1, 96, 160) > 0.5).float()
    torch.testing.assert_close(model.codec.encode(mask), theirs.encode(mask), **CLOSE)
    found, expected = predict(model, theirs, image, False, 1)
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("depths, name", [((3, 4, 6, 3), "b2"), ((3, 8, 27, 3), "b4"), ((3, 6, 40, 3), "b5")])
def test_the_backbone_is_told_by_its_blocks(tensors, depths, name):
    backbone = "extractor.backbone."
    others = {key: value for key, value in tensors.items() if not key.startswith(backbone)}
    for stage, (channels, depth) in enumerate(zip((64, 128, 320, 512), depths, strict=True), start=1):
        others[f"{backbone}patch_embed{stage}.proj.weight"] = torch.zeros(channels, 1, 1, 1)
        others |= {f"{backbone}block{stage}.{block}.norm1.weight": torch.zeros(1) for block in range(depth)}
    assert from_release(others, "checkpoint.pth")[0].encoder == f"segformer_{name}"
    del others[f"{backbone}block3.0.norm1.weight"]
    with pytest.raises(DiffIMLError, match=rf"backbone of \({depths[0]}, {depths[1]}, {depths[2] - 1}, 3\) blocks"):
        from_release(others, "checkpoint.pth")


def test_a_model_without_edges(authors_release):
    tensors = authors_release.checkpoint("b0", latents=4)
    assert not ours(tensors).config.edge_supervision


def without(key):
    return lambda tensors: {name: value for name, value in tensors.items() if name != key}


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t | {"extractor.noise_branch.net.0.weight": torch.zeros(16, 3, 3, 3)}, "older state.*noise_branch"),
        (lambda t: t | {"extractor.conv.weight": torch.zeros(128, 512, 3, 3)}, r"last encoder stage alone.*\[128, 512"),
        (without("extractor.linear_fuse.0.weight"), "no known state.*lacks extractor.linear_fuse.0.weight"),
        (lambda t: t | {"unet.concat.weight": torch.zeros(64, 192, 3, 3)}, "U-Net of 64 channels"),
        (without("vae.encoder.0.weight"), "no codec that is known: it lacks vae.encoder.0.weight"),
        (without("unet.unet.mid_block.attentions.0.to_q.bias"), "lacks the attention"),
        (without("unet.unet.conv_out.bias"), r"1 missing \(denoiser.unet.out.2.bias\)"),
        (lambda t: t | {"unet.unet.extra": torch.zeros(1)}, r"1 unexpected \(unet.unet.extra\)"),
    ],
)
def test_other_states_are_refused_by_the_keys_that_decide(tensors, change, message):
    with pytest.raises(DiffIMLError, match=f"checkpoint.pth.*{message}"):
        ours(change(tensors))


def test_files_without_counts_of_batches_load(tensors, theirs, image):
    fewer = {key: value for key, value in tensors.items() if not key.endswith("num_batches_tracked")}
    found, expected = predict(ours(fewer), theirs, image, False, 1, 1)
    torch.testing.assert_close(found, expected, **CLOSE)


def test_a_drawn_mask_tells_a_trained_codec_from_a_random_one(authors_release):
    trained = authors_release.averaging_light_vae()
    assert reconstruction_f1(load_codec("lightvae")) > 0.98
    assert reconstruction_f1(codec_from_release(trained, "x.pth")) > 0.9
    assert reconstruction_f1(codec_from_release(trained, "x.pth", "silu")) < 0.5
    for seed in range(5):
        torch.manual_seed(seed)
        assert reconstruction_f1(codec_from_release(authors_release.light_vae(), "x.pth")) < 0.8
