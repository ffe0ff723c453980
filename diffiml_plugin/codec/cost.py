"""What a latent codec costs: parameters, multiply-adds, and the time to encode and decode one map."""

import time
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from diffiml_plugin.codec.metrics import codec_device


@dataclass(frozen=True)
class CodecCost:
    """Of encoding and decoding one map in fp32."""

    params_M: float
    gmacs: float  # billions of multiply-adds
    seconds: float  # the fastest run


def measure_cost(codec: nn.Module, size: int, runs: int) -> CodecCost:
    """The cost of one map of `size` x `size` pixels on the codec's device."""
    params = sum(parameter.numel() for parameter in codec.parameters())
    return CodecCost(params / 1e6, _multiply_adds(codec, size) / 1e9, _seconds(codec, size, runs))


@torch.inference_mode()
def _multiply_adds(codec: nn.Module, size: int) -> float:
    shadow = deepcopy(codec).to("meta")  # shapes without arithmetic
    with FlopCounterMode(display=False) as counter:
        shadow.decode(shadow.encode(torch.zeros(1, 1, size, size, device="meta")))
    return counter.get_total_flops() / 2


@torch.inference_mode()
def _seconds(codec: nn.Module, size: int, runs: int) -> float:
    device = codec_device(codec)

    def timed(side: int) -> float:
        y = torch.zeros(1, 1, side, side, device=device)
        start = time.perf_counter()
        codec.decode(codec.encode(y)).sum().item()  # .item() waits for the device
        return time.perf_counter() - start

    timed(size if device.type == "cuda" else 64)  # a GPU chooses its kernels by size
    return min(timed(size) for _ in range(runs))
