"""The denoisers: U-Nets that predict the clean latent from a noisy one, its timestep and the condition.

Both split their first convolution over [latent, condition] in two: it is linear, and the condition's share is the
same at every step and for every ensemble member, so `fuse` works it out once for each image.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffiml_plugin.method.config import LATENT_STRIDE
from diffiml_plugin.method.protocols import Denoiser, Features


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(32, channels // 4), channels)


class ResBlock(nn.Module):
    """Two normalised 3×3 convolutions around the timestep's shift, with a residual path."""

    def __init__(self, in_channels: int, out_channels: int, time_channels: int):
        super().__init__()
        self.norm1, self.conv1 = _norm(in_channels), nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time = nn.Linear(time_channels, out_channels)
        self.norm2, self.conv2 = _norm(out_channels), nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:  # [B, C, h, w], [B or 1, C']
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + shift[:, :, None, None]
        x = self.skip(x) + self.conv2(F.silu(self.norm2(h)))
        return x


class SelfAttention(nn.Module):
    """Residual multi-head attention over all positions."""

    def __init__(self, channels: int, head_channels: int):
        super().__init__()
        self.heads = channels // head_channels
        self.norm = _norm(channels)
        self.qkv, self.out = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).view(b, 3, self.heads, c // self.heads, h * w)
        q, k, v = qkv.transpose(-1, -2).unbind(1)  # [B, heads, h·w, c/heads]
        attended = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(attended.transpose(-1, -2).reshape(b, c, h, w))
        return x


class UNet(nn.Module):
    """A residual U-Net with attention at its coarsest level, of any input size.

    Args:
        channels: width of each level; each level but the last halves the resolution.
        blocks: residual blocks of a level on the way down (one more on the way up).
        out_channels: channels of the result.
        head_channels: of each attention head.
    """

    def __init__(self, channels: Sequence[int], blocks: int, out_channels: int, head_channels: int = 32):
        super().__init__()
        self.embedding_channels = channels[0]
        time = 4 * channels[0]
        self.time = nn.Sequential(nn.Linear(channels[0], time), nn.SiLU(), nn.Linear(time, time), nn.SiLU())

        self.down, skips, width = nn.ModuleList(), [channels[0]], channels[0]
        for level, out in enumerate(channels):
            for _ in range(blocks):
                self.down.append(ResBlock(width, out, time))
                width = out
                skips.append(width)
            if level < len(channels) - 1:
                self.down.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                skips.append(width)
        self.middle = nn.ModuleList(
            [ResBlock(width, width, time), SelfAttention(width, head_channels), ResBlock(width, width, time)]
        )
        self.up = nn.ModuleList()
        for level, out in reversed(list(enumerate(channels))):
            for _ in range(blocks + 1):
                self.up.append(ResBlock(width + skips.pop(), out, time))
                width = out
            if level > 0:
                self.up.append(nn.Conv2d(width, width, 3, padding=1))
        self.out = nn.Sequential(_norm(width), nn.SiLU(), nn.Conv2d(width, out_channels, 3, padding=1))

    def embed(self, timestep: Tensor) -> Tensor:
        """All that the blocks need of timesteps [S] in 0..T-1: their shifts side by side, [S, K].

        None of it depends on the image, so that sampling works it out once for all its steps.
        """
        embedding = timestep_embedding(timestep, self.embedding_channels).to(next(self.time.parameters()).dtype)
        for layer in self.time:
            embedding = _each_row(layer, embedding) if isinstance(layer, nn.Linear) else layer(embedding)
        return torch.cat([_each_row(block.time, embedding) for block in self._residual_blocks()], 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x [B, channels[0], h, w], time [B or 1, K] of `embed` → [B, out_channels, h, w]."""
        shifts = iter(torch.split(time, [block.time.out_features for block in self._residual_blocks()], 1))
        skips = [x]
        for block in self.down:
            x = block(x, next(shifts)) if isinstance(block, ResBlock) else block(x)
            skips.append(x)
        for block in self.middle:
            x = block(x, next(shifts)) if isinstance(block, ResBlock) else block(x)
        for block in self.up:
            if isinstance(block, ResBlock):
                x = block(torch.cat([x, skips.pop()], 1), next(shifts))
            else:
                x = block(F.interpolate(x, size=skips[-1].shape[-2:], mode="nearest"))
        x = self.out(x)
        return x

    def _residual_blocks(self) -> list[ResBlock]:
        """In the order in which they run."""
        return [block for block in (*self.down, *self.middle, *self.up) if isinstance(block, ResBlock)]


def _each_row(linear: nn.Linear, x: Tensor) -> Tensor:
    """`linear` of x [S, C], each row as if it were alone: one product of all would round otherwise on a CPU."""
    weight = linear.weight.t().expand(len(x), -1, -1)  # [S, C, C']
    return torch.baddbmm(linear.bias, x[:, None], weight)[:, 0]


def timestep_embedding(timestep: Tensor, channels: int) -> Tensor:
    """Sines and cosines of t at geometrically spaced frequencies from 1 to 1e-4: [B] → [B, channels] float32."""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(channels // 2, device=timestep.device) / (channels // 2))
    angles = timestep[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], 1)


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, to (height, width)."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class _Split(nn.Module):
    """A U-Net behind a convolution that is split in the latent's share and the condition's, which `fuse` gives."""

    latent_in: nn.Module
    unet: UNet

    def embed(self, timestep: Tensor) -> Tensor:
        """Timesteps [S] in 0..T-1 → [S, K], a row of which stands for its timestep in `forward`."""
        return self.unet.embed(timestep)

    def forward(self, z: Tensor, time: Tensor, fused: Tensor) -> Tensor:
        """The clean latent [B·N, C, h, w] from z_t [B·N, C, h, w], `embed`'s [B·N or 1, K], `fuse`'s [B, C', h, w]."""
        z = self.unet(_add_to_members(self.latent_in(z), fused), time)
        return z


class LightDenoiser(_Split):
    """Ours: four levels of (32, 64, 128, 128) channels; the encoder's stages are fused at stride 4 under a GroupNorm.

    About a tenth of the release's multiply-adds for each call.
    """

    condition_channels = 64

    def __init__(self, feature_channels: Sequence[int], latent_channels: int):
        super().__init__()
        width, channels = self.condition_channels, (32, 64, 128, 128)
        self.project = _pointwise(feature_channels, width)
        self.mix = nn.Sequential(nn.Conv2d(4 * width, width, 3, padding=1, bias=False), _norm(width), nn.ReLU())
        self.condition_in = nn.Conv2d(width, channels[0], 3, padding=1)
        self.latent_in = nn.Conv2d(latent_channels, channels[0], 3, padding=1, bias=False)
        self.unet = UNet(channels, 1, latent_channels)

    def fuse(self, features: Features) -> Tensor:
        """The condition's share of the first convolution: stages at strides 4 to 32 → [B, 32, H/8, W/8]."""
        size = features[0].shape[-2:]  # stride 4
        stages = [resize(project(f), size) for project, f in zip(self.project, features, strict=True)]
        condition = self.mix(torch.cat(stages, 1))  # [B, 64, H/4, W/4]
        fused: Tensor = self.condition_in(F.avg_pool2d(condition, LATENT_STRIDE // 4))
        return fused


class ReleaseDenoiser(_Split):
    """The authors' release: one level of 128 channels at the latent's resolution, 16 attention heads of 8; the
    encoder's stages are fused at stride 8 under a BatchNorm.

    Theirs fuses at 64×64 cells whatever the image; here at its latent's grid, which is the same at 512×512.
    """

    def __init__(self, feature_channels: Sequence[int], latent_channels: int):
        super().__init__()
        width = 128
        self.project = _pointwise(feature_channels, width)
        self.mix = nn.Sequential(
            nn.Conv2d(4 * width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.condition_in = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.latent_in = nn.Sequential(
            nn.Conv2d(latent_channels, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1, bias=False)
        )
        self.unet = UNet((width,), 2, latent_channels, head_channels=8)

    def condition(self, features: Features) -> Tensor:
        """The fused stages: strides 4 to 32 → [B, 128, H/8, W/8]."""
        size = [side * 4 // LATENT_STRIDE for side in features[0].shape[-2:]]
        stages = [resize(project(f), size) for project, f in zip(self.project, features, strict=True)]
        condition: Tensor = self.mix(torch.cat(stages[::-1], 1))  # the coarsest first
        return condition

    def fuse(self, features: Features) -> Tensor:
        """The condition's share of the second convolution: stages at strides 4 to 32 → [B, 128, H/8, W/8]."""
        fused: Tensor = self.condition_in(self.condition(features))
        return fused


def _pointwise(feature_channels: Sequence[int], width: int) -> nn.ModuleList:
    """A 1×1 convolution of each encoder stage to `width` channels."""
    return nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in feature_channels)


def _add_to_members(latent: Tensor, fused: Tensor) -> Tensor:
    """latent [B·N, C, h, w] + fused [B, C, h, w], each image's share added to its N members without a copy."""
    return (torch.unflatten(latent, 0, (len(fused), -1)) + fused[:, None]).flatten(0, 1)


DENOISERS: dict[str, Callable[[Sequence[int], int], Denoiser]] = {"light": LightDenoiser, "release": ReleaseDenoiser}
