"""The forward diffusion: linear betas, the noising of Eq. 2 with the error prior of Eq. 15, respaced timesteps."""

import torch
from torch import Tensor, nn


class NoiseSchedule(nn.Module):
    """Linear beta schedule over `num_train_timesteps` steps; timestep t in 0..T-1 is the paper's t+1.

    Args:
        num_train_timesteps: T.
        beta_start, beta_end: variance of the first and the last step.

    `alphas_cumprod` is worked out in float64, kept in float32 of shape [T], and not stored in checkpoints; no more is
    `timesteps`, 0..T-1 in int64, from which sampling takes its own without a copy from the host.
    """

    alphas_cumprod: Tensor
    timesteps: Tensor

    def __init__(self, num_train_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02):
        super().__init__()
        betas = torch.linspace(beta_start, beta_end, num_train_timesteps, dtype=torch.float64)
        self.register_buffer("alphas_cumprod", torch.cumprod(1 - betas, 0).float(), persistent=False)
        self.register_buffer("timesteps", torch.arange(num_train_timesteps), persistent=False)
        self._abar = tuple(self.alphas_cumprod.tolist())  # on the host: sampling must not wait for the device

    def add_noise(self, z0: Tensor, timestep: Tensor, noise: Tensor, prior_noise: Tensor, prior_rate: float) -> Tensor:
        """Eq. 15: z_t = sqrt(abar_t)(z0 + lambda xi) + sqrt(1 - abar_t) eps; lambda = 0 gives Eq. 2.

        Args:
            z0, noise, prior_noise: [B, C, h, w]: the clean latent, eps and xi.
            timestep: [B] int64 in 0..T-1.
            prior_rate: lambda, in standard deviations of the latent.
        """
        abar = self.alphas_cumprod[timestep].view(-1, 1, 1, 1)  # [B, 1, 1, 1]
        return abar.sqrt() * (z0 + prior_rate * prior_noise) + (1 - abar).sqrt() * noise

    def respaced(self, num_inference_steps: int, spacing: str = "trailing") -> list[tuple[int, float, float]]:
        """The S sampling steps as (t, abar_t, abar_next), from much noise down to the clean latent (abar_next = 1).

        Args:
            spacing: "trailing" starts at the last trained step, t = T-1, where the latent is pure noise; "leading"
                ends at t = 0, as diffusers' DDIMScheduler does by default, so that S = 1 is t = 0 alone.
        """
        total = len(self._abar)
        if spacing == "leading":
            timesteps = [total // num_inference_steps * i for i in reversed(range(num_inference_steps))]
        else:
            timesteps = [round(total - i * total / num_inference_steps) - 1 for i in range(num_inference_steps)]
        return [
            (t, self._abar[t], self._abar[t_next] if t_next is not None else 1.0)
            for t, t_next in zip(timesteps, [*timesteps[1:], None], strict=True)
        ]
