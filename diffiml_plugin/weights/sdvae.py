"""Stable Diffusion's VAE, from the hub or from a folder that diffusers wrote."""

import math
import re
from inspect import signature
from pathlib import Path
from typing import Any, get_type_hints

import torch
from torch import Tensor

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.method.sdvae import SDVAE
from diffiml_plugin.stored import checked, read_json, require_file, shown
from diffiml_plugin.weights.files import load_into, no_larger_than
from diffiml_plugin.weights.foreign import read_foreign
from diffiml_plugin.weights.hub import download

PUBLISHED = "stabilityai/sd-vae-ft-mse"
_CONFIG, _WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
_RANGES = {"in_channels": (3, 3), "out_channels": (3, 3), "layers_per_block": (1, 64)}
_RANGE = (1, 4096)  # of all other whole numbers, but those that may have a fraction too
_EARLIER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # layers
_LAYER = re.compile(rf"(?<=\.)({'|'.join(_EARLIER)})(?=\.(weight|bias)$)")
_OF_ITSELF = {"_class_name": str, "_diffusers_version": str, "_name_or_path": str}  # what a config.json says of itself


def load_sdvae(source: str | Path = "default") -> SDVAE:
    """A frozen SD VAE in evaluation mode.

    Args:
        source: a folder with config.json and the weights, a name on the hub (its cache serves offline), or
            "default", the published one.

    Raises:
        DiffIMLError: it cannot be had, is no AutoencoderKL with four latent channels, describes a larger one than its
            weights fill, or one that they do not fit one to one.
    """
    from diffusers import AutoencoderKL  # without it SDVAE says so

    source, is_folder = (PUBLISHED, False) if source == "default" else (source, Path(source).is_dir())
    try:
        folder = Path(source) if is_folder else _fetched(str(source))
        config, weights = _configuration(AutoencoderKL, folder / _CONFIG), folder / _WEIGHTS
        if (index := folder / f"{_WEIGHTS}.index.json").exists():
            raise DiffIMLError(f"{index} would have other files read than {_WEIGHTS}")
        with no_larger_than(require_file(weights), weights), torch.device("meta"):  # a number takes a byte or more
            vae = AutoencoderKL(**config)
        vae.to_empty(device="cpu")  # initial weights would move the random state
        load_into(vae, _renamed(read_foreign(weights).tensors), weights)
    except Exception as error:  # diffusers answers an odd config.json in any way
        reason = str(error) if isinstance(error, DiffIMLError) else type(error).__name__
        raise DiffIMLError(
            f"cannot load the SD VAE {str(source)!r} ({reason}); give a folder with {_CONFIG} and {_WEIGHTS} of "
            f"https://huggingface.co/{PUBLISHED}, or connect to the network"
        ) from error
    return SDVAE(vae).eval()


def _configuration(constructor: type, path: Path) -> dict[str, Any]:
    """The arguments of a config.json, each of its type and in its range."""
    kinds = get_type_hints(constructor.__init__)  # type: ignore[misc]
    known = {
        name: bool if isinstance(parameter.default, bool) else kinds.get(name, Any)  # diffusers 0.30 has one as float
        for name, parameter in signature(constructor).parameters.items()
    }
    config = checked(read_json(path), known | _OF_ITSELF, str(path))
    for name, value in config.items():
        least, most = _RANGES.get(name, (-math.inf, math.inf) if "float" in str(known.get(name)) else _RANGE)
        for number in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(number, int) and not isinstance(number, bool) and not least <= number <= most:
                raise DiffIMLError(
                    f"{path}: {name} is {shown(value)}; expected {least}" + f" to {most}" * (least < most)
                )
    return {name: value for name, value in config.items() if name not in _OF_ITSELF}


def _renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of attention by their present names; the published file has earlier ones."""

    def present(name: str) -> str:
        renamed = _LAYER.sub(lambda layer: _EARLIER[layer[0]], name)
        return name if renamed in tensors else renamed

    return {present(name): tensor for name, tensor in tensors.items()}


def _fetched(name: str) -> Path:
    """The folder of the hub's cache that has the two files."""
    return Path([download(name, file) for file in (_WEIGHTS, _CONFIG)][-1]).parent
