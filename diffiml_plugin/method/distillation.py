"""The loss that trains LightVAE (DiffIML, Eq. 6)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from diffiml_plugin.method.lightvae import LightVAE

_BORDER_WEIGHT = 3.0  # extra weight of pixels near a contour, where all the errors are
_BORDER = 5  # pixels, side of the window that calls a pixel near
_LIKELIHOOD_WEIGHT = 0.5  # of the cross-entropy beside the L1 term, whose gradient dies where the sigmoid saturates


@dataclass(frozen=True)
class DistillationLoss:
    """`loss` is the scalar to minimise: `reconstruction + latent_weight * latent`."""

    loss: Tensor
    reconstruction: Tensor
    latent: Tensor


def distillation_loss(
    student: LightVAE, maps: Tensor, edges: int, teacher_latents: Tensor | None, latent_weight: float, noise: float
) -> DistillationLoss:
    """Eq. 6, `|D(E(y)) - y|_1 + lambda_lat * |E(y) - z_T|^2`, per element.

    Ours: pixels near a contour weigh more, cross-entropy is added, and the decoder sees latents with
    Gaussian noise, because what DiffIML decodes is an average of samples and never exact.

    Args:
        maps: [B, 1, H, W] in {0, 1}; the last `edges` of them are edge maps.
        teacher_latents: z_T [B, 4, H/8, W/8]; None (no teacher) takes 0, which keeps the latents' scale bounded.
        latent_weight: lambda_lat.
        noise: highest standard deviation of the noise, in those of each channel of the masks' or the edge maps'
            latents; that of each map is uniform below it.
    """
    latents = student.encoder(maps)  # [B, 4, h, w], before normalisation
    with torch.no_grad():
        kinds = [kind for kind in latents.split([len(maps) - edges, edges]) if len(kind)]
        spread = torch.cat([kind.std((0, 2, 3), keepdim=True).expand_as(kind) for kind in kinds])
        level = noise * torch.rand(len(maps), 1, 1, 1, device=maps.device)
        disturbance = level * spread * torch.randn_like(latents)
    logits = student.decoder(latents + disturbance)  # [B, 1, H, W]
    weights = 1 + _BORDER_WEIGHT * _near_contour(maps)
    likelihood = F.binary_cross_entropy_with_logits(logits, maps, weights)
    reconstruction = (weights * (logits.sigmoid() - maps).abs()).mean() + _LIKELIHOOD_WEIGHT * likelihood
    target = torch.zeros_like(latents) if teacher_latents is None else teacher_latents
    latent = F.mse_loss(latents, target)
    return DistillationLoss(reconstruction + latent_weight * latent, reconstruction.detach(), latent.detach())


def _near_contour(maps: Tensor) -> Tensor:
    """1 where a `_BORDER` wide window of the map holds both values, else 0."""

    def highest(values: Tensor) -> Tensor:  # one axis at a time: a fifth of the work
        across = F.max_pool2d(values, (1, _BORDER), 1, (0, _BORDER // 2))
        return F.max_pool2d(across, (_BORDER, 1), 1, (_BORDER // 2, 0))

    return highest(maps) + highest(-maps)
