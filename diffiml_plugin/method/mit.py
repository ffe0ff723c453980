"""Mix Transformer (MiT), the encoder of SegFormer (arXiv 2105.15203): the paper's default condition encoder.

Feature maps travel as [B, H, W, C]; convolutions see them as [B, C, H, W] through a view, without a copy.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.drop import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

MIT_VARIANTS = {  # name -> channels and number of blocks of the four stages
    "segformer_b0": ((32, 64, 160, 256), (2, 2, 2, 2)),
    "segformer_b1": ((64, 128, 320, 512), (2, 2, 2, 2)),
    "segformer_b2": ((64, 128, 320, 512), (3, 4, 6, 3)),
    "segformer_b3": ((64, 128, 320, 512), (3, 4, 18, 3)),
    "segformer_b4": ((64, 128, 320, 512), (3, 8, 27, 3)),
    "segformer_b5": ((64, 128, 320, 512), (3, 6, 40, 3)),
}
_KERNELS = (7, 3, 3, 3)
_STRIDES = (4, 2, 2, 2)
_HEADS = (1, 2, 5, 8)
_REDUCTIONS = (8, 4, 2, 1)  # keys and values are taken from a map this many times smaller
_FFN_EXPANSION = 4
_DROP_PATH = 0.1  # stochastic depth of the last block, growing linearly from 0
_EPS = 1e-6  # blocks' and stages' LayerNorms; the embeddings keep 1e-5, as published weights expect


class MixTransformer(nn.Module):
    """Four stages of overlapping patch embedding and transformer blocks, with random weights.

    Call with images [B, 3, H, W] (ImageNet-normalised, sides multiples of 32); returns four feature maps
    [B, channels[i], H/s, W/s] at strides s = 4, 8, 16, 32.

    Args:
        channels: of the four stages.
        depths: number of blocks of the four stages.
    """

    def __init__(self, channels: tuple[int, int, int, int], depths: tuple[int, int, int, int]):
        super().__init__()
        self.channels = channels
        drop_path = torch.split(torch.linspace(0, _DROP_PATH, sum(depths)), list(depths))
        self.stages = nn.ModuleList(
            _Stage(inputs, outputs, kernel, stride, heads, reduction, rates.tolist())
            for inputs, outputs, kernel, stride, heads, reduction, rates in zip(
                (3, *channels[:3]), channels, _KERNELS, _STRIDES, _HEADS, _REDUCTIONS, drop_path, strict=True
            )
        )
        self.apply(_initialise)

    @property
    def backbone(self) -> nn.Module:
        """What pretrained weights fill: all of it."""
        return self

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """In training, keep the input of each block alone, and compute the rest anew in the backward pass."""
        stage: Any
        for stage in self.stages:
            stage.checkpoints = enable

    def forward(self, image: Tensor) -> list[Tensor]:
        features = []
        for stage in self.stages:
            image = stage(image)  # [B, C, H/s, W/s]
            features.append(image)
        return features


class _Stage(nn.Module):
    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, heads: int, reduction: int, drop_path: list[float]
    ):
        super().__init__()
        self.embed = _PatchEmbedding(inputs, outputs, kernel, stride)
        self.blocks = nn.Sequential(*(_Block(outputs, heads, reduction, rate) for rate in drop_path))
        self.norm = nn.LayerNorm(outputs, eps=_EPS)
        self.checkpoints = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpoints and self.training else block(x)
        return _channels_first(self.norm(x))


class _PatchEmbedding(nn.Module):
    """A strided convolution, also attention's reduction: [B, C, H, W] -> [B, H/stride, W/stride, C']."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int):
        super().__init__()
        self.proj = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2 if kernel > stride else 0)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(_channels_last(self.proj(x)))
        return x


class _Block(nn.Module):
    def __init__(self, channels: int, heads: int, reduction: int, drop_path: float):
        super().__init__()
        self.attention_norm = nn.LayerNorm(channels, eps=_EPS)
        self.attention = _Attention(channels, heads, reduction)
        self.ffn_norm = nn.LayerNorm(channels, eps=_EPS)
        self.ffn = _MixFFN(channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:  # [B, H, W, C]
        x = x + self.drop_path(self.attention(self.attention_norm(x)))
        x = x + self.drop_path(self.ffn(self.ffn_norm(x)))
        return x


class _Attention(nn.Module):
    """Every position attends to a map that is `reduction` times smaller on each side."""

    def __init__(self, channels: int, heads: int, reduction: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, channels)
        self.reduce = _PatchEmbedding(channels, channels, reduction, reduction) if reduction > 1 else None
        self.key_value = nn.Linear(channels, 2 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:  # [B, H, W, C]
        context = x if self.reduce is None else self.reduce(_channels_first(x))  # [B, h, w, C]
        query = self._split(self.query(x))  # [B, heads, H·W, C/heads]
        key, value = (self._split(part) for part in self.key_value(context).chunk(2, dim=-1))
        attended = F.scaled_dot_product_attention(query, key, value)  # [B, heads, H·W, C/heads]
        x = self.out(attended.transpose(1, 2).reshape(x.shape))
        return x

    def _split(self, x: Tensor) -> Tensor:
        return torch.unflatten(x.flatten(1, 2), -1, (self.heads, -1)).transpose(1, 2)


class _MixFFN(nn.Module):
    """A feed-forward network whose depthwise convolution tells positions apart, so that any size works."""

    def __init__(self, channels: int):
        super().__init__()
        hidden = _FFN_EXPANSION * channels
        self.expand = nn.Linear(channels, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.contract = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:  # [B, H, W, C]
        x = _channels_last(self.depthwise(_channels_first(self.expand(x))))
        x = self.contract(F.gelu(x))
        return x


def _channels_first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def _channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
