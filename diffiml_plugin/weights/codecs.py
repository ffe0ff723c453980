"""The latent codec of a setting, with its weights."""

import re
from typing import TYPE_CHECKING

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.method.lightvae import LightVAE
from diffiml_plugin.method.lightvae_release import ReleaseLightVAE
from diffiml_plugin.weights.lightvae import SHIPPED, load_lightvae

if TYPE_CHECKING:
    from diffiml_plugin.method.sdvae import SDVAE


def load_codec(name: str, source: str = "default", layout: str = "") -> "LightVAE | ReleaseLightVAE | SDVAE":
    """The codec called `name` (lightvae | lightvae-release | sd-vae).

    Args:
        source: `default` (the LightVAE that travels with the package; the published SD VAE from the hub), a file or
            folder, or `none` for random weights, when a checkpoint is about to fill them.
        layout: `DiffIMLConfig.codec_layout`, by which a checkpoint with this codec is rebuilt.

    Raises:
        DiffIMLError: another codec's weights, or of another layout, with the flag that mends it.
    """
    if name == "sd-vae":
        if layout:
            raise DiffIMLError(f"codec_layout={layout!r}: latent_codec sd-vae has one layout only; expected none")
        return _load_sdvae(source)
    expected = build_lightvae(name, layout)
    if source == "none":
        return expected
    if source == "default" and name == "lightvae-release":
        raise DiffIMLError(
            "no weights of latent_codec lightvae-release travel with the package; `benco convert` the authors' "
            "light_vae_weights.pth, or train one by `benco distill --config codec/distill#release`, and pass what that "
            "writes by --codec_weights"
        )
    codec = load_lightvae(SHIPPED if source == "default" else source)
    if type(codec) is not type(expected):
        other = "lightvae" if isinstance(codec, LightVAE) else "lightvae-release"
        raise DiffIMLError(
            f"{source} holds the codec of --latent_codec {other}, not of {name}; say that, or pass another"
        )
    if codec.layout != expected.layout:
        raise DiffIMLError(
            f"{source} holds a {name} of layout {codec.layout}, not {expected.layout}; "
            f"say --codec_layout {codec.layout}"
        )
    return codec


def build_lightvae(name: str, layout: str = "") -> LightVAE | ReleaseLightVAE:
    """A lightvae | lightvae-release of that layout (empty: its usual one), with random weights."""
    if name == "lightvae-release":
        return ReleaseLightVAE(layout)
    if layout and not re.fullmatch("[1-9][0-9]{0,3}", layout):
        raise DiffIMLError(f"codec_layout={layout!r} of latent_codec lightvae is not a width, such as 19")
    return LightVAE(int(layout)) if layout else LightVAE()


def _load_sdvae(source: str) -> "SDVAE":
    from diffiml_plugin.method.sdvae import SDVAE  # diffusers takes seconds to import
    from diffiml_plugin.weights.sdvae import load_sdvae

    return SDVAE() if source == "none" else load_sdvae(source)
