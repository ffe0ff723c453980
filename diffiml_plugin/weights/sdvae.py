"""Stable Diffusion's VAE, from the hub or from a folder that diffusers wrote."""

from inspect import signature
from pathlib import Path
from typing import Any

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.method.sdvae import SDVAE
from diffiml_plugin.stored import checked, read_json, require_file
from diffiml_plugin.weights.files import no_larger_than
from diffiml_plugin.weights.hub import download

PUBLISHED = "stabilityai/sd-vae-ft-mse"
_CONFIG, _WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
_OF_ITSELF = {"_class_name": str, "_diffusers_version": str, "_name_or_path": str}  # what a config.json says of itself


def load_sdvae(source: str | Path = PUBLISHED) -> SDVAE:
    """A frozen SD VAE in evaluation mode.

    Args:
        source: a folder with config.json and the weights, a name on the hub (its cache serves offline), or
            "default", the published one.

    Raises:
        DiffIMLError: it cannot be had, is no AutoencoderKL with four latent channels, or describes a larger one than
            its weights fill.
    """
    from diffusers import AutoencoderKL  # without it SDVAE says so

    source = PUBLISHED if source == "default" else source
    try:
        folder = Path(source) if Path(source).is_dir() else _fetched(str(source))
        known = dict.fromkeys(signature(AutoencoderKL.__init__).parameters, Any) | _OF_ITSELF
        checked(read_json(folder / _CONFIG), known, str(folder / _CONFIG))
        if (index := folder / f"{_WEIGHTS}.index.json").exists():
            raise DiffIMLError(f"{index} would have other files read than {_WEIGHTS}")
        with no_larger_than(require_file(folder / _WEIGHTS), folder / _WEIGHTS):  # a number takes a byte or more
            vae = AutoencoderKL.from_pretrained(folder, use_safetensors=True)
    except Exception as error:  # diffusers answers an odd config.json in any way
        reason = str(error) if isinstance(error, DiffIMLError) else type(error).__name__
        raise DiffIMLError(
            f"cannot load the SD VAE {str(source)!r} ({reason}); give a folder with {_CONFIG} and {_WEIGHTS} of "
            f"https://huggingface.co/{PUBLISHED}, or connect to the network"
        ) from error
    return SDVAE(vae).eval()


def _fetched(name: str) -> Path:
    """The folder of the hub's cache that has the two files."""
    return Path([download(name, file) for file in (_WEIGHTS, _CONFIG)][-1]).parent
