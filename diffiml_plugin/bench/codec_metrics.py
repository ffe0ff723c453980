"""What a latent codec does to masks: reconstruction, with and without latent noise, and its latents."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffiml_plugin.bench.maskfiles import stacked
from diffiml_plugin.method.config import LATENT_STRIDE

THRESHOLD = 0.5


def f1_score(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Pixel-F1 of two masks; 1 if both are empty."""
    total = int(prediction.sum()) + int(truth.sum())
    return 2 * int((prediction & truth).sum()) / total if total else 1.0


@torch.inference_mode()
def encode_maps(codec, maps: Sequence[np.ndarray], target: str) -> list[Tensor]:
    """The latents of maps [H, W] in {0, 1} of any sizes, each [1, 4, h, w]; sides are padded to multiples of 8.

    Padding repeats the last row and column; `decode_latents` crops it away.
    """
    device = codec_device(codec)
    latents = []
    for y in maps:
        padding = (0, -y.shape[1] % LATENT_STRIDE, 0, -y.shape[0] % LATENT_STRIDE)
        padded = F.pad(torch.from_numpy(stacked([y])).to(device), padding, mode="replicate")
        latents.append(codec.encode(padded, target))
    return latents


@torch.inference_mode()
def decode_latents(codec, latents: Sequence[Tensor], shapes: Sequence[tuple[int, int]], target: str) -> list[np.ndarray]:
    """Probabilities [H, W] of each latent, cropped to its map's shape."""
    decoded = (codec.decode(latent, target)[0, 0].float().cpu().numpy() for latent in latents)
    return [probability[:height, :width] for probability, (height, width) in zip(decoded, shapes, strict=True)]


def disturbed(latents: Sequence[Tensor], level: float, seed: int = 0) -> list[Tensor]:
    """The latents with Gaussian noise of standard deviation `level`, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return [z + level * torch.randn(z.shape, generator=generator).to(z) for z in latents]


def reconstruction_f1(codec, maps: Sequence[np.ndarray], target: str = "mask", noise: float = 0.0) -> np.ndarray:
    """Pixel-F1 of every map [H, W] in {0, 1} after encoding and decoding, threshold 0.5."""
    latents = disturbed(encode_maps(codec, maps, target), noise)
    decoded = decode_latents(codec, latents, [y.shape for y in maps], target)
    return np.array([f1_score(p > THRESHOLD, y > 0) for p, y in zip(decoded, maps, strict=True)])


def latent_statistics(latents: Sequence[Tensor]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over all positions of all latents."""
    values = torch.cat([z.float().movedim(1, 0).flatten(1) for z in latents], 1)
    return values.mean(1).tolist(), values.std(1).tolist()


def codec_device(codec) -> torch.device:
    """Where the codec's parameters are."""
    return next(codec.parameters()).device
