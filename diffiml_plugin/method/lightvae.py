"""LightVAE: the mask autoencoder through which every mask and edge map passes (DiffIML, section 3)."""

import torch
from torch import Tensor, nn

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.method.config import LATENT_CHANNELS, LATENT_STRIDE

TARGETS = ("mask", "edge")
MAX_WIDTH = 1024  # channels


class LightVAE(nn.Module):
    """Three stride-2 convolutions to 4 latent channels at 1/8 resolution, and their transposed mirror.

    It has no attention and no sampling: the latent is a plain function of the map. Latents are normalised
    inside, per channel, for masks and for edge maps apart, by the buffers `latent_mean` and `latent_std`
    (identity until training sets them), so that a diffusion model sees about zero mean and unit variance.

    Args:
        width: channels at half resolution, doubled at each further stage; 19 makes 71,331 parameters.

    Raises:
        DiffIMLError: a width outside [1, 1024].
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, width: int = 19):
        super().__init__()
        if not 1 <= width <= MAX_WIDTH:
            raise DiffIMLError(f"a LightVAE of width {width} is not built; expected 1 to {MAX_WIDTH}, such as 19")
        self.width = width
        half, quarter, eighth = width, 2 * width, 4 * width
        self.encoder = nn.Sequential(
            nn.Conv2d(1, half, 4, 2, 1),
            _activation(),
            nn.Conv2d(half, quarter, 3, 2, 1),
            _activation(),
            nn.Conv2d(quarter, eighth, 3, 2, 1),
            _activation(),
            nn.Conv2d(eighth, LATENT_CHANNELS, 3, 1, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(LATENT_CHANNELS, eighth, 3, 1, 1),
            _activation(),
            nn.ConvTranspose2d(eighth, quarter, 3, 2, 1, output_padding=1),
            _activation(),
            nn.ConvTranspose2d(quarter, half, 3, 2, 1, output_padding=1),
            _activation(),
            nn.ConvTranspose2d(half, 1, 4, 2, 1),
        )
        self.register_buffer("latent_mean", torch.zeros(len(TARGETS), LATENT_CHANNELS))
        self.register_buffer("latent_std", torch.ones(len(TARGETS), LATENT_CHANNELS))

    @property
    def layout(self) -> str:
        """What `DiffIMLConfig.codec_layout` says of it: the width."""
        return str(self.width)

    def encode(self, y: Tensor, target: str = "mask") -> Tensor:
        """Maps [B, 1, H, W] in [0, 1], sides multiples of 8, to normalised latents [B, 4, H/8, W/8].

        Raises:
            DiffIMLError: a side that is no multiple of 8, or an unknown target (known: TARGETS).
        """
        check_map(y)
        mean, std = self._scale(target)
        latent: Tensor = self.encoder(y)
        return (latent - mean) / std

    def decode(self, z: Tensor, target: str = "mask", reading: str = "sigmoid") -> Tensor:
        """Normalised latents [B, 4, h, w] to probabilities [B, 1, 8h, 8w] in [0, 1]; `reading` as `read_decoded`."""
        mean, std = self._scale(target)
        return read_decoded(self.decoder(z * std + mean), reading)

    def _scale(self, target: str) -> tuple[Tensor, Tensor]:
        if target not in TARGETS:
            raise DiffIMLError(f"latent target {target!r} is not one of {', '.join(TARGETS)}")
        row = TARGETS.index(target)
        return self.latent_mean[row].view(1, -1, 1, 1), self.latent_std[row].view(1, -1, 1, 1)


def check_map(y: Tensor) -> None:
    """Raises DiffIMLError unless the sides of `y` [B, 1, H, W] are multiples of 8."""
    if y.shape[-2] % LATENT_STRIDE or y.shape[-1] % LATENT_STRIDE:
        raise DiffIMLError(
            f"a map of {y.shape[-2]}x{y.shape[-1]} pixels cannot be encoded; pad its sides to "
            f"multiples of {LATENT_STRIDE} and crop what is decoded"
        )


def read_decoded(value: Tensor, reading: str) -> Tensor:
    """What a decoder gives, as a probability: by "sigmoid", or by "clamp", (value + 1) / 2 cut to [0, 1].

    By "value" it stays what it is, for losses, whose gradient a saturated probability would lose.
    """
    if reading == "value":
        return value
    return value.sigmoid() if reading == "sigmoid" else (value / 2 + 0.5).clamp(0, 1)


def _activation() -> nn.Module:
    return nn.LeakyReLU(0.1, inplace=True)
