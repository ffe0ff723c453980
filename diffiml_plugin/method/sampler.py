"""The reverse diffusion: the DDIM and the ancestral update, and noise that belongs to an image and a member.

Knows no network: `denoise(z_t, t)` is any callable that returns the estimate of the clean latent.
"""

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Denoise = Callable[[Tensor, int], Tensor]
Step = tuple[int, float, float]  # (t, abar_t, abar_next), see NoiseSchedule.respaced


class KeyedNoise:
    """Standard normal noise from one generator for each key, so that no draw depends on the batch around it.

    Args:
        keys: one string for each row; the same key always gives the same noise, on every device.

    Never reads or moves the global random state.
    """

    def __init__(self, keys: Sequence[str]):
        self.generators = [torch.Generator().manual_seed(_seed(key)) for key in keys]

    def draw(self, shape: Sequence[int], device: torch.device) -> Tensor:
        """The next [len(keys), *shape] float32 values."""
        return torch.stack([torch.randn(*shape, generator=g) for g in self.generators]).to(device)


def _seed(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")


def ddim_sample(
    denoise: Denoise, noise: KeyedNoise, z: Tensor, steps: Sequence[Step], bound: float = 0.0
) -> tuple[Tensor, list[Tensor]]:
    """DDIM with sigma = 0 (Alg. 2) from z ~ N(0, I) [R, C, h, w].

    Args:
        noise: not drawn from.
        bound: above 0, the clean estimate is cut to [-bound, bound]; the noise is worked out from the uncut one.

    Returns:
        The final clean latent [R, C, h, w] and the estimate of it at each step.
    """
    estimates = []
    for t, abar, abar_next in steps:
        z0 = denoise(z, t)
        eps = (z - abar**0.5 * z0) / (1 - abar) ** 0.5
        z0 = _cut(z0, bound)
        z = abar_next**0.5 * z0 + (1 - abar_next) ** 0.5 * eps
        estimates.append(z0)
    return estimates[-1], estimates


def ancestral_sample(
    denoise: Denoise, noise: KeyedNoise, z: Tensor, steps: Sequence[Step], bound: float = 0.0
) -> tuple[Tensor, list[Tensor]]:
    """Ancestral (DDPM) sampling by the score of Eq. 3-5, s = (sqrt(abar_t) z0 - z_t) / (1 - abar_t).

    z_next = (z_t + beta s) / sqrt(1 - beta) + sqrt(beta (1 - abar_next) / (1 - abar_t)) n, n ~ N(0, I), where
    beta = 1 - abar_t / abar_next is the variance of the respaced step. Arguments and result as `ddim_sample`.
    """
    estimates = []
    for t, abar, abar_next in steps:
        z0 = _cut(denoise(z, t), bound)
        score = (abar**0.5 * z0 - z) / (1 - abar)
        beta = 1 - abar / abar_next
        std = (beta * (1 - abar_next) / (1 - abar)) ** 0.5
        z = (z + beta * score) / (1 - beta) ** 0.5 + std * noise.draw(z.shape[1:], z.device)
        estimates.append(z0)
    return estimates[-1], estimates


def _cut(z0: Tensor, bound: float) -> Tensor:
    return z0.clamp(-bound, bound) if bound else z0


SAMPLERS = {"ddim": ddim_sample, "ancestral": ancestral_sample}
