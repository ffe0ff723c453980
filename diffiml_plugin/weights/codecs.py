"""The latent codec of a setting, with its weights."""

from torch import nn

from diffiml_plugin.method.lightvae import LightVAE
from diffiml_plugin.weights.lightvae import load_lightvae


def load_codec(name: str, source: str = "default") -> nn.Module:
    """The codec called `name` (lightvae | sd-vae).

    Args:
        source: `default` (the LightVAE that travels with the package; the published SD VAE from the hub), a file or
            folder, or `none` for random weights, when a checkpoint is about to fill them.
    """
    if name == "sd-vae":
        from diffiml_plugin.method.sdvae import SDVAE  # diffusers takes seconds to import
        from diffiml_plugin.weights.sdvae import load_sdvae

        return SDVAE() if source == "none" else load_sdvae(source)
    return LightVAE() if source == "none" else load_lightvae(None if source == "default" else source)
