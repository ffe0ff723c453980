import pytest
import torch

from diffiml_plugin.method.unet import DENOISERS

CHANNELS = (8, 16, 24, 32)


def _features(batch, height, width):
    return [torch.randn(batch, c, height // s, width // s) for c, s in zip(CHANNELS, (4, 8, 16, 32), strict=True)]


@pytest.mark.parametrize("name", DENOISERS)
@pytest.mark.parametrize("size", [(32, 32), (96, 160)])
def test_any_multiple_of_32_keeps_the_latent_size(name, size):
    denoiser = DENOISERS[name](CHANNELS, 8)
    z = torch.randn(6, 8, size[0] // 8, size[1] // 8)  # two images, three members
    assert denoiser(z, denoiser.embed(torch.tensor([500])), denoiser.fuse(_features(2, *size))).shape == z.shape


@pytest.mark.parametrize("name", DENOISERS)
def test_members_of_an_image_share_its_condition(name):
    denoiser = DENOISERS[name](CHANNELS, 8).eval()
    fused, z = denoiser.fuse(_features(2, 64, 64)), torch.randn(4, 8, 8, 8)
    time = denoiser.embed(torch.tensor([7]))
    together, second = denoiser(z, time, fused), denoiser(z[2:], time, fused[1:])
    torch.testing.assert_close(together[2:], second, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", DENOISERS)
def test_every_parameter_is_trained(name):
    """DDP stalls on a parameter that a step does not use."""
    denoiser = DENOISERS[name](CHANNELS, 8)
    time = denoiser.embed(torch.tensor([3, 900]))
    out = denoiser(torch.randn(2, 8, 8, 8), time, denoiser.fuse(_features(2, 64, 64)))
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in denoiser.parameters())


def test_prediction_depends_on_the_timestep_and_the_condition():
    denoiser = DENOISERS["light"](CHANNELS, 8).eval()
    fused, z = denoiser.fuse(_features(1, 64, 64)), torch.randn(1, 8, 8, 8)
    early, late = denoiser.embed(torch.tensor([10, 900])).split(1)
    base = denoiser(z, early, fused)
    assert (denoiser(z, late, fused) - base).abs().max() > 1e-4
    assert (denoiser(z, early, denoiser.fuse(_features(1, 64, 64))) - base).abs().max() > 1e-4


@pytest.mark.parametrize("name", DENOISERS)
def test_timesteps_embed_together_as_each_alone(name):
    denoiser, timesteps = DENOISERS[name](CHANNELS, 8), torch.tensor([999, 500, 3])
    alone = torch.cat([denoiser.embed(timestep) for timestep in timesteps.split(1)])
    assert torch.equal(denoiser.embed(timesteps), alone)
