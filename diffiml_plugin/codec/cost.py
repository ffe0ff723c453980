"""What a latent codec costs: parameters, multiply-adds, and the time to encode and decode one map."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffiml_plugin.codec.metrics import codec_device
from diffiml_plugin.method.protocols import LatentCodec
from diffiml_plugin.models.cost import count_flops, seconds_per_call


@dataclass(frozen=True)
class CodecCost:
    """Of encoding and decoding one map in fp32."""

    params_M: float
    gmacs: float  # billions of multiply-adds
    seconds: float


class _RoundTrip(nn.Module):
    def __init__(self, codec: LatentCodec):
        super().__init__()
        self.codec = codec

    def forward(self, y: Tensor) -> Tensor:
        return self.codec.decode(self.codec.encode(y))


@torch.no_grad()
def measure_cost(codec: LatentCodec, size: int) -> CodecCost:
    """The cost of one map of `size` x `size` pixels on the codec's device."""
    params = sum(parameter.numel() for parameter in codec.parameters())
    both_ways, y = _RoundTrip(codec), torch.zeros(1, 1, size, size, device=codec_device(codec))
    flops = count_flops(both_ways, y)  # first: the device is warm then, and the slowest codec is timed once
    return CodecCost(params / 1e6, flops / 1e9, seconds_per_call(lambda: both_ways(y), fewest=1))
