"""The parts that DiffIML is put together from: what each must offer. Any nn.Module that does will serve.

torch does not type the call of a module. So a part states `forward`, which it writes, and `__call__`, which runs it.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import Tensor, nn

Features = Sequence[Tensor]  # [B, C_i, H/s, W/s] for s in 4, 8, 16, 32


class ConditionEncoder(Protocol):
    """Turns images into features, once for each view."""

    @property
    def backbone(self) -> nn.Module:
        """The part that pretrained weights fill, which may be frozen or learn at a rate of its own."""

    @property
    def channels(self) -> Sequence[int]:
        """C_i, of the four feature maps."""

    def forward(self, image: Tensor) -> Features:
        """Images [B, 3, H, W], ImageNet-normalised, sides multiples of 32 → their feature maps."""

    def __call__(self, image: Tensor) -> Features: ...


class LatentCodec(Protocol):
    """Turns masks and edge maps into latents, of about unit variance, and back; DiffIML freezes it."""

    def encode(self, y: Tensor, target: str = ...) -> Tensor:
        """Maps [B, 1, H, W] in [0, 1] → latents [B, 4, H/8, W/8]. `target` says what they are: "mask" | "edge"."""

    def decode(self, z: Tensor, target: str = ..., reading: str = ...) -> Tensor:
        """Latents [B, 4, h, w] → probabilities [B, 1, 8h, 8w]; `reading` is one of the codec's in `config.READINGS`, or
        "value" for what becomes one."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Of nn.Module."""

    def requires_grad_(self, requires_grad: bool) -> object:
        """Of nn.Module."""


class Denoiser(Protocol):
    """Predicts the clean latent from a noisy one, its timestep and the condition.

    The last two have a method of their own, because what it gives serves many calls: of members, and of images.
    """

    def fuse(self, features: Features) -> Tensor:
        """The condition's share, once for each image: feature maps → [B, C', h, w]."""

    def embed(self, timestep: Tensor) -> Tensor:
        """The timesteps' share: [S] in 0..T-1 → [S, K], a row for each."""

    def forward(self, z: Tensor, time: Tensor, fused: Tensor) -> Tensor:
        """The clean latent [B·N, C, h, w] from z_t [B·N, C, h, w], `embed`'s [B·N or 1, K], `fuse`'s [B, C', h, w]."""

    def __call__(self, z: Tensor, time: Tensor, fused: Tensor) -> Tensor: ...
