"""Stable Diffusion's VAE as a latent codec: the "VAE" row of DiffIML's Table 4, and LightVAE's teacher."""

from torch import Tensor, nn

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.method.config import LATENT_CHANNELS, LATENT_SCALE, LATENT_STRIDE
from diffiml_plugin.method.lightvae import check_map, read_decoded

try:
    from diffusers import AutoencoderKL
except ImportError as error:
    raise DiffIMLError("Stable Diffusion's VAE needs diffusers; pip install 'diffiml-plugin[sd-vae]'") from error

_WIDTHS = (128, 256, 512, 512)


class SDVAE(nn.Module):
    """The frozen SD VAE behind LightVAE's interface.

    Args:
        vae: a diffusers AutoencoderKL with four latent channels; None builds Stable Diffusion's own
            architecture (83.65 M parameters) with random weights.
    """

    def __init__(self, vae: AutoencoderKL | None = None):
        super().__init__()
        stages = len(_WIDTHS)
        self.vae = vae or AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * stages,
            up_block_types=("UpDecoderBlock2D",) * stages,
            block_out_channels=_WIDTHS,
            layers_per_block=2,
            latent_channels=LATENT_CHANNELS,
        )
        stride = 2 ** (len(self.vae.config.block_out_channels) - 1)
        if (self.vae.config.latent_channels, stride) != (LATENT_CHANNELS, LATENT_STRIDE):
            raise DiffIMLError(
                f"this AutoencoderKL has {self.vae.config.latent_channels} latent channels at stride "
                f"{stride}; expected {LATENT_CHANNELS} at {LATENT_STRIDE}, as Stable Diffusion's"
            )
        self.requires_grad_(False)

    def encode(self, y: Tensor, target: str = "mask") -> Tensor:
        """Maps [B, 1, H, W] in [0, 1], sides multiples of 8, to [B, 4, H/8, W/8]: the mode times 0.18215.

        `target` ("mask" | "edge") makes no difference here: one published scale serves both.
        """
        check_map(y)
        picture = 2 * y.to(self.vae.dtype).expand(-1, 3, -1, -1) - 1  # [B, 3, H, W] in [-1, 1]
        latent: Tensor = self.vae.encode(picture).latent_dist.mode()
        return latent * LATENT_SCALE

    def decode(self, z: Tensor, target: str = "mask", reading: str = "clamp") -> Tensor:
        """Latents [B, 4, h, w] to probabilities [B, 1, 8h, 8w] in [0, 1], of the mean of the three channels."""
        picture = self.vae.decode(z.to(self.vae.dtype) / LATENT_SCALE).sample  # [B, 3, 8h, 8w]
        return read_decoded(picture.mean(1, keepdim=True), reading)
