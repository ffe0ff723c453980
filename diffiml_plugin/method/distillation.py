"""The losses that train LightVAE, ours and the release's (DiffIML, Eq. 6), and what lets latents be averaged."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from diffiml_plugin.method.config import LATENT_SCALE, LATENT_STRIDE
from diffiml_plugin.method.lightvae import LightVAE
from diffiml_plugin.method.lightvae_release import ReleaseLightVAE

_BORDER_WEIGHT = 3.0  # extra weight of pixels near a contour, where all the errors are
_BORDER = 5  # pixels, side of the window that calls a pixel near
_LATTICE_WEIGHT = 4.0  # of what a mean's error repeats in each latent cell, a tenth of it and seen as a lattice of dots
_LIKELIHOOD_WEIGHT = 0.5  # of the cross-entropy beside the L1 term, whose gradient dies where the sigmoid saturates


@dataclass(frozen=True)
class DistillationLoss:
    """`loss` is the scalar to minimise: `reconstruction + latent_weight * latent + mean_weight * mean`."""

    loss: Tensor
    reconstruction: Tensor
    latent: Tensor
    mean: Tensor


def distillation_loss(
    student: LightVAE,
    maps: Tensor,
    edges: int,
    teacher_latents: Tensor | None,
    latent_weight: float,
    noise: float,
    mean_weight: float = 0.0,
    mean_members: int = 5,
) -> DistillationLoss:
    """Eq. 6, `|D(E(y)) - y|_1 + lambda_lat * |E(y) - z_T|^2`, per element, and `D(mean E(y)) ~ mean y`.

    Ours: pixels near a contour weigh more, cross-entropy is added, and the decoder sees latents with
    Gaussian noise, because what DiffIML decodes is an average of samples and never exact. For the same
    reason the mean of a few latents is to decode to the mean of their maps, by its L1 and mean squared error, and
    without a lattice: the error's mean over all cells, at each place in a cell, is to be the same.

    Args:
        maps: [B, 1, H, W] in {0, 1}; the last `edges` of them are edge maps.
        teacher_latents: z_T [B, 4, H/8, W/8]; None (no teacher) takes 0, which keeps the latents' scale bounded.
        latent_weight: lambda_lat.
        noise: highest standard deviation of the noise, in those of each channel of the masks' or the edge maps'
            latents; that of each map is uniform below it.
        mean_weight: of the means' error; 0 leaves them out.
        mean_members: most latents in a mean, 2 or more.
    """
    latents = student.encoder(maps)  # [B, 4, h, w], before normalisation
    counts = [count for count in (len(maps) - edges, edges) if count]  # of each kind
    with torch.no_grad():
        spread = torch.cat([kind.std((0, 2, 3), keepdim=True).expand_as(kind) for kind in latents.split(counts)])
        level = noise * torch.rand(len(maps), 1, 1, 1, device=maps.device)
        disturbance = level * spread * torch.randn_like(latents)
    disturbed = latents + disturbance
    logits = student.decoder(disturbed)  # [B, 1, H, W]
    weights = 1 + _BORDER_WEIGHT * _near_contour(maps)
    likelihood = F.binary_cross_entropy_with_logits(logits, maps, weights)
    reconstruction = (weights * (logits.sigmoid() - maps).abs()).mean() + _LIKELIHOOD_WEIGHT * likelihood
    target = torch.zeros_like(latents) if teacher_latents is None else teacher_latents
    latent = F.mse_loss(latents, target)
    mean = reconstruction.new_zeros(())
    if mean_weight:
        of_kinds = [random_means(count, mean_members, maps.device) for count in counts]
        shares: Tensor = torch.block_diag(*of_kinds)  # type: ignore[no-untyped-call]
        error = student.decoder(_averaged(shares, disturbed)).sigmoid() - _averaged(shares, maps)
        mean = error.abs().mean() + error.square().mean() + _LATTICE_WEIGHT * _lattice(error)
    loss = reconstruction + latent_weight * latent + mean_weight * mean
    return DistillationLoss(loss, reconstruction.detach(), latent.detach(), mean.detach())


def release_distillation_loss(
    student: ReleaseLightVAE, maps: Tensor, teacher_latents: Tensor | None, latent_weight: float
) -> DistillationLoss:
    """Eq. 6 as the release trains its LightVAE, `|v - (2 y - 1)|_1 + lambda_lat * |E(y) - z_T|^2` of the raw value v.

    Without a teacher (ours) the decoder sees the latents cut to ±1, as the release's sampler cuts what it decodes.

    Args:
        maps: [B, 1, H, W] in {0, 1}, masks and edge maps in one batch, whose statistics the student's BatchNorm takes.
        teacher_latents: z_T [B, 4, H/8, W/8], times 0.18215 as `encode` gives them; None (no teacher) takes 0.
        latent_weight: lambda_lat, of latents times 0.18215.
    """
    latents = student.encode(maps)
    seen = latents.clamp(-1, 1) if teacher_latents is None else latents
    reconstruction = (student.decoder(seen / LATENT_SCALE) - (2 * maps - 1)).abs().mean()
    latent = F.mse_loss(latents, torch.zeros_like(latents) if teacher_latents is None else teacher_latents)
    loss = reconstruction + latent_weight * latent
    return DistillationLoss(loss, reconstruction.detach(), latent.detach(), reconstruction.new_zeros(()))


def random_means(count: int, members: int, device: torch.device | str = "cpu") -> Tensor:
    """The shares [count, count] of each of `count` maps in as many means.

    Row i averages map i with others drawn at random, 2 to `members` in all, or as many as there are.
    """
    order = torch.rand(count, count, device=device).fill_diagonal_(-1).argsort(1).argsort(1)  # the map itself is first
    size = torch.randint(2, members + 1, (count, 1), device=device).clamp(max=count)
    return (order < size) / size


def _averaged(shares: Tensor, values: Tensor) -> Tensor:
    with torch.autocast(values.device.type, enabled=False):
        return torch.einsum("mb,bchw->mchw", shares, values.float())


def _lattice(error: Tensor) -> Tensor:
    """How far an error [B, 1, H, W] repeats from one latent cell to the next: the mean of |its mean at each of the 64
    places in a cell - its mean|."""
    places = F.pixel_unshuffle(error, LATENT_STRIDE).mean((2, 3))  # [B, 64]
    return (places - places.mean(1, keepdim=True)).abs().mean()


def _near_contour(maps: Tensor) -> Tensor:
    """1 where a `_BORDER` wide window of the map holds both values, else 0."""

    def highest(values: Tensor) -> Tensor:  # one axis at a time: a fifth of the work
        across = F.max_pool2d(values, (1, _BORDER), 1, (0, _BORDER // 2))
        return F.max_pool2d(across, (_BORDER, 1), 1, (_BORDER // 2, 0))

    return highest(maps) + highest(-maps)
