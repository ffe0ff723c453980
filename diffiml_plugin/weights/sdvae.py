"""Stable Diffusion's VAE, from the hub or from a folder that diffusers wrote."""

from pathlib import Path

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.method.sdvae import SDVAE

PUBLISHED = "stabilityai/sd-vae-ft-mse"


def load_sdvae(source: str | Path = PUBLISHED) -> SDVAE:
    """A frozen SD VAE in evaluation mode.

    Args:
        source: a folder with config.json and the weights, a name on the hub (its cache serves offline), or
            "default", the published one.

    Raises:
        DiffIMLError: it cannot be had, or is no AutoencoderKL with four latent channels.
    """
    from diffusers import AutoencoderKL  # without it SDVAE says so

    source = PUBLISHED if source == "default" else source
    try:
        vae = AutoencoderKL.from_pretrained(str(source), use_safetensors=True)
    except Exception as error:  # diffusers answers an odd config.json in any way
        raise DiffIMLError(
            f"cannot load the SD VAE {str(source)!r} ({type(error).__name__}); give a folder with config.json and "
            f"diffusion_pytorch_model.safetensors of https://huggingface.co/{PUBLISHED}, or connect to the network"
        ) from error
    return SDVAE(vae).eval()
