import numpy as np
import pytest
import torch

from diffiml_plugin.method.schedule import NoiseSchedule


def test_alphas_cumprod_is_the_product_of_a_linear_schedule():
    betas = np.linspace(1e-4, 0.02, 1000)
    np.testing.assert_allclose(NoiseSchedule().alphas_cumprod.numpy(), np.cumprod(1 - betas), rtol=1e-5)


def test_schedule_is_not_stored():
    assert not NoiseSchedule().state_dict()


def test_noised_latent_has_the_moments_of_eq_15():
    schedule, t, rate = NoiseSchedule(), torch.full((64,), 300), 0.3
    z0 = torch.full((64, 4, 32, 32), 2.0)
    zt = schedule.add_noise(z0, t, torch.randn_like(z0), torch.randn_like(z0), rate)
    abar = schedule.alphas_cumprod[300].item()
    assert zt.mean().item() == pytest.approx(2 * abar**0.5, abs=0.01)
    assert zt.var().item() == pytest.approx(abar * rate**2 + 1 - abar, rel=0.01)


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 10, 1000])
def test_respaced_steps_run_from_the_last_trained_one_to_the_clean_latent(steps):
    spaced = NoiseSchedule().respaced(steps)
    timesteps = [t for t, _, _ in spaced]
    assert len(spaced) == steps and timesteps[0] == 999 and timesteps == sorted(set(timesteps), reverse=True)
    assert [following for _, _, following in spaced[:-1]] == [abar for _, abar, _ in spaced[1:]]
    assert spaced[-1][2] == 1.0


@pytest.mark.parametrize("steps, expected", [(8, [875, 750, 625, 500, 375, 250, 125, 0]), (3, [666, 333, 0]), (1, [0])])
def test_leading_steps_end_at_the_first_trained_one(steps, expected):
    spaced = NoiseSchedule().respaced(steps, "leading")
    assert [t for t, _, _ in spaced] == expected
    assert [following for _, _, following in spaced] == [*(abar for _, abar, _ in spaced[1:]), 1.0]
