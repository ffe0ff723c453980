import pytest
import torch
from diffusers import DDIMScheduler

from diffiml_plugin.method.sampler import SAMPLERS, ddim_sample, keyed_noise
from diffiml_plugin.method.schedule import NoiseSchedule


def _denoise(z, t):
    """Any smooth function of both arguments; a network stands here in use."""
    return torch.tanh(z * (1 + t / 1000)) - 0.1 * z


@pytest.mark.parametrize("steps", [1, 2, 4, 5, 8, 10, 20])
def test_ddim_agrees_with_diffusers(steps):
    theirs = DDIMScheduler(
        1000, 1e-4, 0.02, "linear", clip_sample=False, prediction_type="sample", timestep_spacing="trailing"
    )
    theirs.set_timesteps(steps)
    start = torch.randn(2, 8, 4, 4)
    expected = start
    for t in theirs.timesteps:
        expected = theirs.step(_denoise(expected, t.item()), t, expected, eta=0.0).prev_sample
    estimates = ddim_sample(_denoise, start[None], NoiseSchedule().respaced(steps))
    assert len(estimates) == steps
    torch.testing.assert_close(estimates[-1], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 8, 10, 20])
def test_leading_bounded_ddim_agrees_with_the_defaults_of_diffusers(steps):
    theirs = DDIMScheduler(1000, 1e-4, 0.02, "linear", prediction_type="sample")  # leading, clip_sample to 1
    theirs.set_timesteps(steps)
    start = 2 * torch.randn(2, 8, 4, 4)
    expected, schedule = start, NoiseSchedule().respaced(steps, "leading")
    for t in theirs.timesteps:
        expected = theirs.step(3 * _denoise(expected, t.item()), t, expected, eta=0.0).prev_sample
    estimates = ddim_sample(lambda z, t: 3 * _denoise(z, t), start[None], schedule, bound=1.0)
    assert [t for t, _, _ in schedule] == theirs.timesteps.tolist() and schedule[-1][0] == 0
    torch.testing.assert_close(estimates[-1], expected, atol=1e-4, rtol=1e-4)
    assert max(estimate.abs().max() for estimate in estimates) == 1


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_recover_a_gaussian(name):
    """With the optimal denoiser of N(mean, std²) the samples have that mean and deviation."""
    mean, std, schedule = 0.7, 0.5, NoiseSchedule()

    def optimal(z, t):
        abar = schedule.alphas_cumprod[t].item()
        gain = abar**0.5 * std**2 / (abar * std**2 + 1 - abar)
        return mean + gain * (z - abar**0.5 * mean)

    noise = keyed_noise([str(i) for i in range(64)], 200, (4, 16, 16))
    final = SAMPLERS[name](optimal, noise, schedule.respaced(200))[-1]
    assert final.mean().item() == pytest.approx(mean, abs=0.02)
    assert final.std().item() == pytest.approx(std, abs=0.03)


def test_noise_belongs_to_its_key_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    both, alone = keyed_noise(["a", "b"], 2, (4, 8, 8)), keyed_noise(["b"], 1, (4, 8, 8))
    assert torch.equal(both[0, 1], alone[0, 0])
    assert len({tuple(draw.flatten().tolist()) for draw in both.flatten(0, 1)}) == 4
    assert torch.equal(torch.get_rng_state(), before)
