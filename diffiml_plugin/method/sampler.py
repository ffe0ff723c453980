"""The reverse diffusion: the DDIM and the ancestral update, and noise that belongs to an image and a member.

Knows no network: `denoise(z_t, t)` is any callable that returns the estimate of the clean latent. Nothing here asks the
device for a value or brings it one, so that the whole of a sampling can be compiled or captured.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Denoise = Callable[[Tensor, Any], Tensor]
Step = tuple[Any, float, float]  # (t as `denoise` takes it, abar_t, abar_next), see NoiseSchedule.respaced


def keyed_noise(keys: Sequence[str], draws: int, shape: Sequence[int]) -> Tensor:
    """Standard normal noise [draws, len(keys), *shape] float32 on the CPU, from one generator for each key.

    The same key always gives the same noise, whatever the batch around it; the global random state stays as it is.
    """
    noise = torch.empty(draws, len(keys), *shape)
    for row, key in enumerate(keys):
        generator = torch.Generator().manual_seed(_seed(key))
        for draw in noise:
            draw[row].normal_(generator=generator)
    return noise


def _seed(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")


def ddim_sample(denoise: Denoise, noise: Tensor, steps: Sequence[Step], bound: float = 0.0) -> list[Tensor]:
    """DDIM with sigma = 0 (Alg. 2).

    Args:
        noise: N(0, I) [1 or more, R, C, h, w], of which the first is where sampling starts; the others are not used.
        bound: above 0, the clean estimate is cut to [-bound, bound]; the noise is worked out from the uncut one.

    Returns:
        The estimate of the clean latent at each step, [R, C, h, w]; the last is the sample.
    """
    z, estimates = noise[0], []
    for number, (t, abar, abar_next) in enumerate(steps, start=1):
        z0 = denoise(z, t)
        estimates.append(_cut(z0, bound))
        if number < len(steps):
            eps = (z - abar**0.5 * z0) / (1 - abar) ** 0.5
            z = abar_next**0.5 * estimates[-1] + (1 - abar_next) ** 0.5 * eps
    return estimates


def ancestral_sample(denoise: Denoise, noise: Tensor, steps: Sequence[Step], bound: float = 0.0) -> list[Tensor]:
    """Ancestral (DDPM) sampling by the score of Eq. 3-5, s = (sqrt(abar_t) z0 - z_t) / (1 - abar_t).

    z_next = (z_t + beta s) / sqrt(1 - beta) + sqrt(beta (1 - abar_next) / (1 - abar_t)) n, n ~ N(0, I), where
    beta = 1 - abar_t / abar_next is the variance of the respaced step. Arguments and result as `ddim_sample`, with
    noise [S, R, C, h, w]: after the start, one for each step but the last.
    """
    z, estimates = noise[0], []
    for number, (t, abar, abar_next) in enumerate(steps, start=1):
        z0 = _cut(denoise(z, t), bound)
        estimates.append(z0)
        if number < len(steps):
            score = (abar**0.5 * z0 - z) / (1 - abar)
            beta = 1 - abar / abar_next
            std = (beta * (1 - abar_next) / (1 - abar)) ** 0.5
            z = (z + beta * score) / (1 - beta) ** 0.5 + std * noise[number]
    return estimates


def _cut(z0: Tensor, bound: float) -> Tensor:
    return z0.clamp(-bound, bound) if bound else z0


SAMPLERS = {"ddim": ddim_sample, "ancestral": ancestral_sample}
