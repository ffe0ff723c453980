import pytest
import torch

from diffiml_plugin.method.distillation import distillation_loss
from diffiml_plugin.method.lightvae import LightVAE


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(0)
    cells = (torch.rand(6, 1, 4, 4, generator=generator) > 0.5).float()
    return cells.repeat_interleave(8, 2).repeat_interleave(8, 3)


def test_latent_term_is_the_mean_squared_distance_to_the_teacher(maps):
    student = LightVAE(width=2)
    own = student.encoder(maps).detach()
    for teacher, expected in ((own, 0.0), (own + 2, 4.0), (None, own.square().mean().item())):
        loss = distillation_loss(student, maps, 2, teacher, latent_weight=0.5, noise=0.0)
        assert loss.latent.item() == pytest.approx(expected, rel=1e-4, abs=1e-8)
        assert loss.loss.item() == pytest.approx(loss.reconstruction.item() + 0.5 * expected, rel=1e-4)


def test_noise_reaches_the_decoder_in_units_of_the_latents_spread(maps):
    torch.manual_seed(1)
    student = LightVAE(width=4)
    exact = distillation_loss(student, maps, 2, None, 0.0, noise=0.0).reconstruction
    assert distillation_loss(student, maps, 2, None, 0.0, noise=2.0).reconstruction != exact
    with torch.no_grad():  # latents of no spread: then there is no noise either
        student.encoder[-1].weight.zero_()
    flat = distillation_loss(student, maps, 2, None, 0.0, noise=0.0).reconstruction
    assert distillation_loss(student, maps, 2, None, 0.0, noise=2.0).reconstruction == flat


def test_a_step_lowers_the_loss(maps):
    torch.manual_seed(0)
    student = LightVAE(width=4)
    optimizer = torch.optim.AdamW(student.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        loss = distillation_loss(student, maps, 0, None, 1e-3, noise=0.1)
        optimizer.zero_grad()
        loss.loss.backward()
        optimizer.step()
        losses.append(loss.loss.item())
    assert losses[-1] < 0.9 * losses[0]
