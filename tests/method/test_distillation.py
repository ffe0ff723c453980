import math

import pytest
import torch

from diffiml_plugin.method.distillation import distillation_loss, random_means
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


def test_noise_is_uniform_in_level_up_to_that_of_its_kind_and_channel():
    torch.manual_seed(0)
    spread = torch.tensor([[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]])  # of the masks, of the edge maps
    latents = torch.randn(600, 4, 8, 8) * spread[[0] * 400 + [1] * 200][:, :, None, None]
    student, given = LightVAE(width=2), []
    student.encoder = torch.nn.Identity()
    student.encoder.register_forward_hook(lambda *_: latents)
    student.decoder = torch.nn.Conv2d(4, 1, 1)
    student.decoder.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    distillation_loss(student, torch.zeros(600, 1, 8, 8), 200, None, 0.0, noise=0.5)
    kinds = zip((given[0] - latents).split([400, 200]), latents.split([400, 200]), strict=True)
    level = torch.cat([noise.std((2, 3)) / kind.std((0, 2, 3)) for noise, kind in kinds])  # [600, 4]
    assert level.mean(0) == pytest.approx([0.25] * 4, abs=0.02)
    assert level.mean(1).quantile(torch.tensor([0.1, 0.9])).tolist() == pytest.approx([0.05, 0.45], abs=0.02)


def test_pixels_within_two_of_a_contour_weigh_four_times():
    """At logits of 0 each pixel's L1 error is 1/2, its cross-entropy ln 2."""
    student, halves = LightVAE(width=2), torch.zeros(1, 1, 32, 32)
    halves[..., 16:] = 1
    torch.nn.init.zeros_(student.decoder[-1].weight)
    torch.nn.init.zeros_(student.decoder[-1].bias)
    for maps in (halves, halves.mT.contiguous()):
        loss = distillation_loss(student, maps, 0, None, 0.0, noise=0.0)
        weight = (28 * 1 + 4 * 4) / 32
        assert loss.reconstruction.item() == pytest.approx(weight * (1 / 2 + math.log(2) / 2))


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


def test_each_map_is_averaged_with_one_to_four_others_of_its_kind(maps):
    torch.manual_seed(0)
    shares = torch.stack([random_means(7, 5) for _ in range(50)])
    assert torch.allclose(shares.sum(2), torch.ones(50, 7))
    members = (shares > 0).sum(2)
    assert set(members.unique().tolist()) == {2, 3, 4, 5}
    assert torch.allclose(shares.amax(2), 1 / members)  # equal shares
    assert (shares.diagonal(dim1=1, dim2=2) > 0).all() and ((shares > 0).sum(0) > 0).all()
    assert torch.equal(random_means(1, 5), torch.ones(1, 1)) and (random_means(3, 5) > 0).sum(1).max() <= 3


def test_the_means_of_latents_decode_to_the_means_of_maps_at_no_loss(maps):
    class Linear(LightVAE):  # of one value a cell, kept: its logits are those of the mean
        def __init__(self):
            super().__init__(width=1)
            self.encoder = torch.nn.AvgPool2d(8)
            self.decoder = Upsampled()

    class Upsampled(torch.nn.Module):
        def forward(self, z):
            return torch.logit(z.clamp(1e-6, 1 - 1e-6)).repeat_interleave(8, 2).repeat_interleave(8, 3)

    torch.manual_seed(0)
    exact = distillation_loss(Linear(), maps, 2, None, 0.0, 0.0, mean_weight=1.0)
    assert exact.reconstruction < 1e-3 and exact.mean < 1e-4
    student = LightVAE(width=2)
    off = distillation_loss(student, maps, 2, None, 0.0, 0.0)
    assert off.mean == 0 and off.loss == off.reconstruction
    on = distillation_loss(student, maps, 2, None, 0.0, 0.0, mean_weight=3.0)
    assert on.loss.item() == pytest.approx(on.reconstruction.item() + 3 * on.mean.item(), rel=1e-5)


def test_what_repeats_from_cell_to_cell_costs_more_than_the_same_error_elsewhere():
    class Drawing(torch.nn.Module):
        def __init__(self, *places):
            super().__init__()
            self.places = places

        def forward(self, z):
            logits = torch.full((len(z), 1, 32, 32), -10.0)
            logits[(..., *self.places)] = 10
            return logits

    def error_of(*places):  # 16 wrong pixels, by 1
        student = LightVAE(width=1)
        student.decoder = Drawing(*places)
        return distillation_loss(student, torch.zeros(4, 1, 32, 32), 0, None, 0.0, 0.0, mean_weight=1.0).mean

    repeated, once = error_of(slice(None, None, 8), slice(None, None, 8)), error_of(slice(4), slice(4))
    share = 16 / 32**2
    assert once.item() == pytest.approx(2 * share + 4 * 2 * 16 / 64 * 48 / 64 / 16, rel=0.01)
    assert repeated.item() == pytest.approx(2 * share + 4 * 2 / 64 * 63 / 64, rel=0.01)


def test_training_makes_latents_average(maps):
    torch.manual_seed(0)
    student = LightVAE(width=4)
    optimizer = torch.optim.AdamW(student.parameters(), 1e-2)
    means = []
    for _ in range(60):
        loss = distillation_loss(student, maps, 0, None, 1e-3, noise=0.1, mean_weight=1.0)
        optimizer.zero_grad()
        loss.loss.backward()
        optimizer.step()
        means.append(loss.mean.item())
    assert sum(means[-5:]) < 0.9 * sum(means[:5])
