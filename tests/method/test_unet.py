import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel

from diffiml_plugin.method.unet import DENOISERS, UNet, resize

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


@torch.no_grad()
def test_the_unet_agrees_with_diffusers():
    """Of three levels; theirs begins with a convolution of its own, which is made the identity."""
    torch.manual_seed(0)
    channels = (128, 256, 128)
    theirs = UNet2DModel(
        in_channels=128,
        out_channels=8,
        block_out_channels=channels,
        down_block_types=("DownBlock2D",) * 3,
        up_block_types=("UpBlock2D",) * 3,
        layers_per_block=1,
        attention_head_dim=32,
    ).eval()
    torch.nn.init.dirac_(theirs.conv_in.weight)
    torch.nn.init.zeros_(theirs.conv_in.bias)
    ours = UNet(channels, 1, 8).eval()

    def copy(target, source):
        target.load_state_dict(source.state_dict())

    copy(ours.time[0], theirs.time_embedding.linear_1)
    copy(ours.time[2], theirs.time_embedding.linear_2)
    blocks = [*theirs.down_blocks, theirs.mid_block, *theirs.up_blocks]
    residual = [block for part in blocks for block in part.resnets]
    for target, source in zip(ours._residual_blocks(), residual, strict=True):
        copy(target.norm1, source.norm1)
        copy(target.conv1, source.conv1)
        copy(target.time, source.time_emb_proj)
        copy(target.norm2, source.norm2)
        copy(target.conv2, source.conv2)
        if source.conv_shortcut is not None:
            copy(target.skip, source.conv_shortcut)
    attention, own = theirs.mid_block.attentions[0], ours.middle[1]
    copy(own.norm, attention.group_norm)
    for name in ("weight", "bias"):
        rows = torch.cat([getattr(part, name) for part in (attention.to_q, attention.to_k, attention.to_v)])
        getattr(own.qkv, name).copy_(rows.view_as(getattr(own.qkv, name)))
        getattr(own.out, name).copy_(getattr(attention.to_out[0], name).view_as(getattr(own.out, name)))
    resampling = [part.downsamplers[0].conv for part in theirs.down_blocks[:-1]]
    resampling += [part.upsamplers[0].conv for part in theirs.up_blocks[:-1]]
    convolutions = [part for part in (*ours.down, *ours.up) if isinstance(part, torch.nn.Conv2d)]
    for target, source in zip(convolutions, resampling, strict=True):
        copy(target, source)
    copy(ours.out[0], theirs.conv_norm_out)
    copy(ours.out[2], theirs.conv_out)

    x, timestep = torch.randn(2, 128, 8, 12), torch.tensor([3, 900])
    torch.testing.assert_close(ours(x, ours.embed(timestep)), theirs(x, timestep).sample, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_split_convolution_is_one_over_latent_and_condition():
    torch.manual_seed(0)
    light, features, z = DENOISERS["light"](CHANNELS, 8).eval(), _features(2, 64, 96), torch.randn(2, 8, 8, 12)
    stages = [resize(project(f), (16, 24)) for project, f in zip(light.project, features, strict=True)]
    condition = F.avg_pool2d(light.mix(torch.cat(stages, 1)), 2)
    weight = torch.cat([light.latent_in.weight, light.condition_in.weight], 1)
    joint = F.conv2d(torch.cat([z, condition], 1), weight, light.condition_in.bias, padding=1)
    time = light.embed(torch.tensor([500]))
    found = light(z, time, light.fuse(features))
    torch.testing.assert_close(found, light.unet(joint, time), atol=1e-4, rtol=1e-4)


def test_resizing_is_bilinear_between_the_centres_of_cells():
    assert resize(torch.tensor([[[[0.0, 4.0]]]]), (1, 4)).flatten().tolist() == [0, 1, 3, 4]
