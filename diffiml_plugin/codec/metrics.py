"""What a latent codec does to masks: reconstruction, with and without latent noise, and its latents."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffiml_plugin.data.masks import stacked
from diffiml_plugin.f1 import pixel_f1
from diffiml_plugin.method.config import LATENT_STRIDE
from diffiml_plugin.method.protocols import LatentCodec

THRESHOLD = 0.5
MEANS = (2, 5)  # members of the means that are measured: the fewest, and the paper's ensemble
_SURROUNDINGS = 8  # bins on each side of a peak
_TINY = 1e-12  # power, where nothing is lost


def f1_score(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Pixel-F1 of two masks [H, W] in {0, 1}; 1 if both are empty."""
    if not (prediction.any() or truth.any()):
        return 1.0
    return float(pixel_f1(np.sum(prediction & truth), np.sum(prediction), np.sum(truth)))


def iou(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two masks; 1 if both are empty."""
    union = int((prediction | truth).sum())
    return int((prediction & truth).sum()) / union if union else 1.0


def boundary_f(prediction: np.ndarray, truth: np.ndarray, tolerance: int = 2) -> float:
    """F-measure of the contours of two masks, where `tolerance` pixels of distance still count as met."""
    contours = [mask - cv2.erode(mask, np.ones((3, 3), np.uint8)) for mask in (prediction, truth)]
    if not all(contour.any() for contour in contours):
        return float(not any(contour.any() for contour in contours))
    distances = [cv2.distanceTransform(1 - contour, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for contour in contours]
    precision = (distances[1][contours[0] > 0] <= tolerance).mean()
    recall = (distances[0][contours[1] > 0] <= tolerance).mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


@torch.inference_mode()
def encode_maps(codec: LatentCodec, maps: Sequence[np.ndarray], target: str) -> list[Tensor]:
    """The latents of maps [H, W] in {0, 1} of any sizes, each [1, 4, h, w]; sides are padded to multiples of 8.

    Padding repeats the last row and column; `decode_masks` crops it away.
    """
    device = codec_device(codec)
    latents = []
    for y in maps:
        padding = (0, -y.shape[1] % LATENT_STRIDE, 0, -y.shape[0] % LATENT_STRIDE)
        padded = F.pad(torch.from_numpy(stacked([y])).to(device), padding, mode="replicate")
        latents.append(codec.encode(padded, target))
    return latents


@torch.inference_mode()
def decode_masks(
    codec: LatentCodec, latents: Sequence[Tensor], maps: Sequence[np.ndarray], target: str
) -> list[np.ndarray]:
    """What is decoded, above the threshold: [H, W] uint8 in {0, 1}, cropped to the shapes of `maps`."""
    decoded = (
        codec.decode(latent, target)[0, 0, : y.shape[0], : y.shape[1]] for latent, y in zip(latents, maps, strict=True)
    )
    return [(probability > THRESHOLD).byte().cpu().numpy() for probability in decoded]


def disturbed(latents: Sequence[Tensor], level: float) -> list[Tensor]:
    """The latents with Gaussian noise of standard deviation `level`, always the same."""
    generator = torch.Generator().manual_seed(0)
    return [z + level * torch.randn(z.shape, generator=generator).to(z) for z in latents]


def reconstruction_f1(
    codec: LatentCodec, maps: Sequence[np.ndarray], target: str = "mask", noise: float = 0.0
) -> np.ndarray:
    """Pixel-F1 of each map [H, W] in {0, 1} after encoding and decoding, with latent noise of this deviation."""
    decoded = decode_masks(codec, disturbed(encode_maps(codec, maps, target), noise), maps, target)
    return np.array([f1_score(*pair) for pair in zip(decoded, maps, strict=True)])


@dataclass(frozen=True)
class Averaging:
    """How decoding the mean of latents differs from the mean of their masks; `averaging` says how it is measured."""

    error: float
    lattice: float


@torch.inference_mode()
def averaging(codec: LatentCodec, masks: Sequence[np.ndarray], members: int) -> Averaging:
    """Measures means of `members` masks [S, S] in {0, 1}: of each mask with others, drawn at random.

    `error` is the mean of |decode(mean of latents) - mean of masks| over the pixels where a mean's members disagree,
    averaged over means. `lattice` is how far the error repeats from one latent cell to the next: the power of its
    spectrum at a period of 8 pixels over the median power within 8 bins, the highest of the rows', the columns' and
    the diagonals'. A decoder that shows no cells has about 1.

    Args:
        masks: `members` or more, S a multiple of 8 and at least 32.
    """
    rng, device = np.random.default_rng(0), codec_device(codec)
    latents, maps = encode_maps(codec, masks, "mask"), torch.from_numpy(stacked(masks)).to(device)
    errors, spectrum = [], torch.zeros(maps.shape[-2:], device=device)
    for index in range(len(masks)):
        others = rng.choice(len(masks) - 1, members - 1, replace=False)
        group = [index, *(others + (others >= index)).tolist()]
        mean = maps[group].mean(0)[0]  # [S, S]
        error = codec.decode(torch.cat([latents[member] for member in group]).mean(0, keepdim=True))[0, 0] - mean
        spectrum += torch.fft.fft2(error).abs().square()
        disagreed = (mean > 0) & (mean < 1)
        if disagreed.any():
            errors.append(error[disagreed].abs().mean().item())
    return Averaging(float(np.mean(errors or [0.0])), _lattice(spectrum.double().cpu().numpy()))


def _lattice(spectrum: np.ndarray) -> float:
    """The highest peak of a power spectrum [S, S] at a period of a latent cell, over the median around it."""
    size, line = len(spectrum), len(spectrum) // LATENT_STRIDE  # the bin of a period of 8 pixels
    reach = min(_SURROUNDINGS, line - 1)  # short of the mean, at bin 0
    around = np.arange(-reach, reach + 1)
    peaks = ((line, 0), (0, line), (line, line), (line, -line))
    squares = [spectrum[np.ix_((row + around) % size, (column + around) % size)] for row, column in peaks]
    return max(float(square[reach, reach] / max(np.median(square), _TINY)) for square in squares)


def latent_statistics(latents: Sequence[Tensor]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over all positions of all latents."""
    values = torch.cat([z.float().movedim(1, 0).flatten(1) for z in latents], 1)
    return values.mean(1).tolist(), values.std(1).tolist()


def codec_device(codec: LatentCodec) -> torch.device:
    """Where the codec's parameters are."""
    return next(codec.parameters()).device
