"""Alg. 1 and Alg. 2 as wholes. Parts whose every answer is known stand in for the three networks."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffiml_plugin.method.config import SAMPLERS, DiffIMLConfig
from diffiml_plugin.method.diffiml import DiffIML
from diffiml_plugin.method.edges import edge_map
from diffiml_plugin.method.encoders import STRIDES, build_encoder
from diffiml_plugin.weights.lightvae import load_lightvae

HEIGHT, WIDTH = 64, 96  # pixels; 8 x 12 latent cells


class Pyramid(nn.Module):
    """A condition encoder that only averages."""

    channels = (3, 3, 3, 3)

    def forward(self, image: Tensor) -> list[Tensor]:
        return [F.avg_pool2d(image, stride) for stride in STRIDES]


class Cells(nn.Module):
    """A codec without loss for maps that are constant in each cell; masks and edge maps have different latents."""

    codes = {"mask": (1.0, -1.0, 2.0, -2.0), "edge": (-4.0, 2.0, 1.0, -1.0)}

    def encode(self, y: Tensor, target: str) -> Tensor:
        return F.avg_pool2d(y, 8) * self._code(target)

    def decode(self, z: Tensor, target: str, reading: str = "sigmoid") -> Tensor:
        return (
            (z / self._code(target)).mean(1, keepdim=True).clamp(0, 1).repeat_interleave(8, 2).repeat_interleave(8, 3)
        )

    def _code(self, target: str) -> Tensor:
        return torch.tensor(self.codes[target]).view(1, 4, 1, 1)


class Call(NamedTuple):
    z: Tensor
    timestep: Tensor
    fused: Tensor
    estimate: Tensor


class Recorder(nn.Module):
    """A denoiser that answers by a function of (z, timestep, fused), and keeps what it was given."""

    def __init__(self, answer: Callable[[Tensor, Tensor, Tensor], Tensor]):
        super().__init__()
        self.answer, self.calls = answer, []

    def fuse(self, features: list[Tensor]) -> Tensor:
        return features[1]  # stride 8

    def embed(self, timestep: Tensor) -> Tensor:
        return timestep[:, None]

    def forward(self, z: Tensor, time: Tensor, fused: Tensor) -> Tensor:
        timestep = time[:, 0]
        self.calls.append(Call(z, timestep, fused, self.answer(z, timestep, fused)))
        return self.calls[-1].estimate


def truth(z: Tensor, timestep: Tensor, fused: Tensor) -> Tensor:
    """The true z0, read off the condition: the image's first two channels are the mask and the edge map."""
    code = torch.tensor([*Cells.codes["mask"], *Cells.codes["edge"]]).view(1, 8, 1, 1)
    return for_members(fused[:, [0] * 4 + [1] * 4] * code, z)[:, : z.shape[1]]


def curve(z: Tensor, timestep: Tensor, fused: Tensor) -> Tensor:
    """Any smooth function of all three; a network stands here in use."""
    return torch.tanh(z * (1 + timestep.view(-1, 1, 1, 1) / 1000)) + for_members(fused[:, [0, 1, 2] * 2 + [0, 1]], z)


def for_members(fused: Tensor, z: Tensor) -> Tensor:
    """[B, C, h, w], once for each of the N members of an image: [B·N, C, h, w]."""
    return fused.repeat_interleave(len(z) // len(fused), 0)


def build(answer: Callable[[Tensor, Tensor, Tensor], Tensor], **settings) -> DiffIML:
    model = DiffIML(DiffIMLConfig(**settings), Pyramid(), Cells())
    model.denoiser = Recorder(answer)
    return model


def cells(batch: int) -> Tensor:
    """Random binary maps [batch, 3, HEIGHT, WIDTH], constant in each cell: mask, edge map and a third channel."""
    values = torch.randint(0, 2, (batch, 3, HEIGHT // 8, WIDTH // 8), generator=torch.Generator().manual_seed(batch))
    return values.float().repeat_interleave(8, 2).repeat_interleave(8, 3)


def assert_independent_standard_normal(rows: Tensor) -> None:
    """The second moments of [R, ...] are the identity, within five standard deviations of a sample's."""
    rows = rows.flatten(1)
    moments = rows @ rows.T / rows.shape[1]
    torch.testing.assert_close(moments, torch.eye(len(rows)), atol=5 * (2 / rows.shape[1]) ** 0.5, rtol=0)


def test_training_gives_the_denoiser_eq_15_at_the_timestep_it_is_told():
    """The runs without and with lambda = 1, of one seed, show eps and xi; a third must be made of the same."""
    image = cells(16)

    def given(prior_rate: float) -> Call:
        torch.manual_seed(0)
        model = build(truth, prior_rate=prior_rate)
        loss = model.training_loss(image, image[:, :1], image[:, 1:2])
        (call,) = model.denoiser.calls
        assert torch.equal(call.timestep, loss.timesteps)
        return call

    plain, timestep, _, z0 = given(0.0)
    assert len(timestep.unique()) > 12  # each image has its own
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)[timestep].float()
    abar = abar.view(-1, 1, 1, 1)
    eps = (plain - abar.sqrt() * z0) / (1 - abar).sqrt()
    xi = (given(1.0).z - plain) / abar.sqrt()
    assert_independent_standard_normal(torch.cat([eps, xi]))
    torch.testing.assert_close(given(0.3).z, abar.sqrt() * (z0 + 0.3 * xi) + (1 - abar).sqrt() * eps)


@pytest.mark.parametrize("edges", [True, False])
def test_a_denoiser_that_knows_the_answer_has_no_loss(edges):
    image = cells(4)
    loss = build(truth, edge_supervision=edges).training_loss(image, image[:, :1], image[:, 1:2] if edges else None)
    assert loss.loss == loss.mask_loss == 0
    assert loss.edge_loss == (0 if edges else None)


def test_alpha_weighs_the_error_in_the_masks_half():
    def astray(z: Tensor, timestep: Tensor, fused: Tensor) -> Tensor:
        return truth(z, timestep, fused) + torch.tensor([1.0] * 4 + [3.0] * 4).view(1, 8, 1, 1)

    image = cells(4)
    loss = build(astray, seg_weight=0.2).training_loss(image, image[:, :1], image[:, 1:2])
    assert (loss.mask_loss.item(), loss.edge_loss.item()) == pytest.approx((1, 9))
    assert loss.loss.item() == pytest.approx(0.2 * 1 + 0.8 * 9)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    "timesteps", [[999], [999, 499], [999, 749, 499, 249], [999, 874, 749, 624, 499, 374, 249, 124]]
)
def test_sampling_tells_the_denoiser_the_respaced_timesteps(sampler, timesteps):
    model = build(curve, sampler=sampler, num_inference_steps=len(timesteps))
    model.predict(cells(1), ["a"])
    assert [call.timestep.tolist() for call in model.denoiser.calls] == [[t] for t in timesteps]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("tta", [False, True])
def test_every_member_of_every_view_has_noise_of_its_own(sampler, tta):
    """Beside the true z0, z_t is distributed as in Eq. 2 at every step, independently in each row."""
    model = build(truth, sampler=sampler, num_inference_steps=4, ensemble_size=3, tta=tta)
    model.predict(cells(2), ["a", "b"])
    for t in (999, 749, 499, 249):
        calls = [call for call in model.denoiser.calls if call.timestep == t]
        z, z0 = (torch.cat([getattr(call, field) for call in calls]) for field in ("z", "estimate"))
        assert len(z) == 2 * 3 * (1 + tta)
        abar = model.schedule.alphas_cumprod[t]
        assert_independent_standard_normal((z - abar.sqrt() * z0) / (1 - abar).sqrt())


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 3, 8])
@pytest.mark.parametrize("members", [1, 5])
@pytest.mark.parametrize("tta", [False, True])
def test_a_denoiser_that_knows_the_answer_gives_back_the_mask(sampler, steps, members, tta):
    image = cells(2)
    model = build(truth, sampler=sampler, num_inference_steps=steps, ensemble_size=members, tta=tta)
    prediction = model.predict(image, ["a", "b"], details=True)
    mask, edge = image[:, :1], image[:, 1:2]
    assert torch.equal(prediction.probability, mask)
    assert torch.equal(prediction.edge, edge)
    assert torch.equal(prediction.members, mask[:, None].expand(-1, members * (1 + tta), -1, -1, -1))
    assert torch.equal(prediction.steps, mask[:, None].expand(-1, steps, -1, -1, -1))


@pytest.mark.parametrize("tta", [False, True])
def test_a_prediction_decodes_the_mean_of_the_members_latents(tta):
    image = cells(2)
    model = build(curve, num_inference_steps=3, ensemble_size=4, tta=tta)
    prediction = model.predict(image, ["a", "b"], details=True)
    views = [image, image.flip(-1)][: 1 + tta]
    estimates = torch.stack([call.estimate for call in model.denoiser.calls])
    estimates = estimates.unflatten(0, (len(views), 3)).unflatten(2, (2, 4))  # [views, S, B, N, 8, h, w]
    for view, call in zip(views, model.denoiser.calls[::3], strict=True):
        assert torch.equal(call.fused, F.avg_pool2d(view, 8))

    def masks(latents: Tensor) -> Tensor:
        """[views, B, ..., 8, h, w] to upright masks [views, B, ..., 1, HEIGHT, WIDTH]."""
        decoded = Cells().decode(latents[..., :4, :, :].flatten(0, -4), "mask").unflatten(0, latents.shape[:-3])
        return torch.stack([decoded[0], *decoded[1:].flip(-1)])

    final = estimates[:, -1]  # [views, B, N, 8, h, w]
    torch.testing.assert_close(prediction.probability, masks(final.mean(2)).mean(0))
    torch.testing.assert_close(prediction.members, torch.cat([*masks(final)], 1))
    torch.testing.assert_close(prediction.steps, masks(estimates[:, :, :, 0].transpose(1, 2))[0])
    torch.testing.assert_close(prediction.edge, Cells().decode(final[0].mean(1)[:, 4:], "edge"))
    assert not torch.allclose(prediction.probability, prediction.members.mean(1))  # latents are averaged, not masks


def noise_with_a_bright_rectangle(count: int, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Images [count, 3, 64, 64] of noise, in each a rectangle that is brighter by less than the noise's range."""
    mask = torch.zeros(count, 1, 64, 64)
    for plane in mask[:, 0]:
        top, left = torch.randint(0, 32, (2,), generator=random).tolist()
        height, width = torch.randint(16, 33, (2,), generator=random).tolist()
        plane[top : top + height, left : left + width] = 1
    edge = np.stack([edge_map(plane) for plane in mask[:, 0].numpy().astype(np.uint8)])
    return torch.randn(count, 3, 64, 64, generator=random) + 1.5 * mask, mask, torch.from_numpy(edge)[:, None].float()


@pytest.mark.slow
def test_a_short_training_learns_to_sample_the_masks_of_unseen_images():
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(1)
    model = DiffIML(DiffIMLConfig(), build_encoder("segformer_b0"), load_lightvae()).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-3)
    losses = []
    for _ in range(200):
        loss = model.training_loss(*noise_with_a_bright_rectangle(8, random)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-20:]) < np.mean(losses[:20]) / 3

    image, mask, _ = noise_with_a_bright_rectangle(16, random)
    found = model.eval().predict(image, [str(i) for i in range(16)]).probability > 0.5
    f1 = 2 * (found * mask).sum((1, 2, 3)) / (found.sum((1, 2, 3)) + mask.sum((1, 2, 3)))
    assert f1.mean() > 0.9
