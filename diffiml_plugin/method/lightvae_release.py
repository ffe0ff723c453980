"""The LightVAE of the authors' release: batch-normalised convolutions from a map of -1 and +1 to latents and back."""

import re
from collections.abc import Callable

from torch import Tensor, nn

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.method.config import LATENT_CHANNELS, LATENT_SCALE
from diffiml_plugin.method.lightvae import MAX_WIDTH, check_map, read_decoded

_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": lambda channels: nn.GroupNorm(8, channels),
}
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU}
_LAYOUT = re.compile(rf"([0-9]{{1,4}})-({'|'.join(_NORMS)})-({'|'.join(_ACTIVATIONS)})")


class ReleaseLightVAE(nn.Module):
    """Three stride-2 convolutions of w, 2w, 4w channels, a pointwise one to 4 latent channels, and their mirror.

    Latents are multiplied by 0.18215, of masks and of edge maps alike. Frozen, it must stay in evaluation mode: with
    the statistics of a batch a mask's latent would depend on its neighbours.

    Args:
        layout: "w-norm-activation" with norm batch | group and activation relu | silu; empty: 32-batch-relu.

    Raises:
        DiffIMLError: another layout.
    """

    def __init__(self, layout: str = ""):
        super().__init__()
        self.layout = layout or "32-batch-relu"
        parts = _LAYOUT.fullmatch(self.layout)
        if not parts or not 1 <= int(parts[1]) <= MAX_WIDTH:
            raise DiffIMLError(
                f"codec layout {layout!r} of lightvae-release is not WIDTH-NORM-ACTIVATION, such as "
                f"32-batch-relu (widths: up to {MAX_WIDTH}; norms: {', '.join(_NORMS)}; activations: "
                f"{', '.join(_ACTIVATIONS)})"
            )
        self.width = int(parts[1])
        width, norm, activation = self.width, _NORMS[parts[2]], _ACTIVATIONS[parts[3]]
        if parts[2] == "group" and width % 8:
            raise DiffIMLError(f"codec layout {layout!r}: groups of 8 need a width that is a multiple of 8")

        def then(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
            return [convolution, norm(convolution.out_channels), activation()]

        def halve(inner: int, outer: int) -> list[nn.Module]:
            return then(nn.Conv2d(inner, outer, 3, 2, 1, bias=False))

        def double(inner: int, outer: int) -> list[nn.Module]:
            return then(nn.ConvTranspose2d(inner, outer, 3, 2, 1, output_padding=1, bias=False))

        self.encoder = nn.Sequential(
            *halve(1, width),
            *halve(width, 2 * width),
            *halve(2 * width, 4 * width),
            nn.Conv2d(4 * width, LATENT_CHANNELS, 1),
        )
        self.decoder = nn.Sequential(
            *then(nn.Conv2d(LATENT_CHANNELS, 4 * width, 1)),
            *double(4 * width, 2 * width),
            *double(2 * width, width),
            *double(width, width),
            nn.Conv2d(width, 1, 3, padding=1),
        )

    def encode(self, y: Tensor, target: str = "mask") -> Tensor:
        """Maps [B, 1, H, W] in [0, 1], anything above 0 counting as 1, to latents [B, 4, H/8, W/8].

        `target` ("mask" | "edge") makes no difference here. Raises DiffIMLError unless sides are multiples of 8.
        """
        check_map(y)
        latent: Tensor = self.encoder((y > 0).to(y.dtype) * 2 - 1)
        return latent * LATENT_SCALE

    def decode(self, z: Tensor, target: str = "mask", reading: str = "sigmoid") -> Tensor:
        """Latents [B, 4, h, w] to probabilities [B, 1, 8h, 8w]; `reading` as `read_decoded` takes it.

        The decoder aims at -1 and +1, so the release's sigmoid gives 0.27 to 0.73; both readings cut at 0.5 alike.
        """
        return read_decoded(self.decoder(z / LATENT_SCALE), reading)
