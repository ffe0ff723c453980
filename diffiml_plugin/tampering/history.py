"""What happens to a whole picture before and after it is tampered: cropping, resizing, retouching, compression.

None of it is tampering. Authentic pictures of a stream pass through the same, or a trace of it would give the others
away.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image

from diffiml_plugin.tampering.styles import StageSettings

Tables = tuple[tuple[int, ...], ...]  # JPEG's quantisation tables, luma and chroma, of 64 integers each
GRID = 8  # pixels, side of JPEG's blocks
_DOWN = (cv2.INTER_AREA, cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)  # what programs use, area the most
_UP = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_CUBIC)
_IJG_LUMA_MEAN = 57.6  # of the luma table that the Independent JPEG Group calls quality 50


@dataclass(frozen=True)
class Stage:
    """One stage whose geometry is drawn; the rest is drawn when it runs.

    Attributes:
        offset: pixels cut off above and at the left, which moves the grid of an earlier compression.
        factor: of the sides.
    """

    settings: StageSettings
    offset: tuple[int, int] = (0, 0)
    factor: float = 1.0

    def needs(self, height: int, width: int) -> tuple[int, int]:
        """The height and width that leave at least `height` and `width` behind."""
        top, left = self.offset
        return int(np.ceil(height / self.factor)) + top, int(np.ceil(width / self.factor)) + left

    def run(
        self, image: np.ndarray, mask: np.ndarray, tables: Sequence[Tables], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """`image` [H, W, 3] uint8 RGB and its mask [H, W] uint8 {0, 1} after this stage.

        Args:
            tables: quantisation tables of other pictures, to compress with.
        """
        top, left = self.offset
        image, mask = image[top:, left:], mask[top:, left:]
        if self.factor != 1:
            height, width = mask.shape
            size = int(np.ceil(width * self.factor)), int(np.ceil(height * self.factor))
            image = resize(image, size, rng)
            mask = (cv2.resize(mask * np.uint8(255), size, interpolation=cv2.INTER_AREA) > 127).astype(np.uint8)
        image = retouched(image, self.settings, rng)
        return compressed(image, self.settings, tables, rng), mask


def draw_stages(stages: Sequence[StageSettings], rng: np.random.Generator, whole: bool = True) -> list[Stage]:
    """The stages that one picture passes through.

    Args:
        whole: False for a piece of a picture, which has no size or corner of its own to change.
    """
    drawn = []
    for settings in stages:
        if rng.random() >= settings.share:
            continue
        offset = (0, 0)
        if whole and rng.random() < settings.off_grid:
            top, left = rng.integers(0, GRID, 2)
            offset = int(top), int(left)
        factor = float(rng.uniform(*settings.factor)) if whole and rng.random() < settings.resized else 1.0
        drawn.append(Stage(settings, offset, factor))
    return drawn


def needed(stages: Sequence[Stage], height: int, width: int) -> tuple[int, int]:
    """Height and width before `stages` of a picture that has at least `height` and `width` after them."""
    for stage in reversed(stages):
        height, width = stage.needs(height, width)
    return height, width


def run_stages(
    stages: Sequence[Stage],
    image: np.ndarray,
    mask: np.ndarray,
    tables: Sequence[Tables],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """`image` and `mask` after all of `stages`, as `Stage.run` has them."""
    for stage in stages:
        image, mask = stage.run(image, mask, tables, rng)
    return image, mask


def resize(image: np.ndarray, size: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """`image` at `size`, width and height, by an interpolation that programs use for this direction."""
    if size == image.shape[1::-1]:
        return image
    smaller = size[0] < image.shape[1]
    methods = _DOWN if smaller else _UP
    method = methods[rng.integers(len(methods))]
    if size[0] < 0.6 * image.shape[1]:  # anything else would alias
        method = cv2.INTER_AREA
    return cv2.resize(image, size, interpolation=method)


def retouched(image: np.ndarray, settings: StageSettings, rng: np.random.Generator) -> np.ndarray:
    """`image` [H, W, 3] uint8 after what is done to all of its pixels alike: noise, filters, tone."""
    if rng.random() < settings.denoised:
        image = cv2.medianBlur(image, 3)
    if rng.random() < settings.blurred:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(*settings.blur))
    if rng.random() < settings.noisy:
        image = _with_noise(image, rng.uniform(*settings.noise), rng)
    if rng.random() < settings.toned:
        image = _toned(image, settings.tone, rng)
    if rng.random() < settings.sharpened:
        blurred = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.6, 1.6))
        amount = rng.uniform(*settings.sharpness)
        image = cv2.addWeighted(image, 1 + amount, blurred, -amount, 0)
    return image


def _with_noise(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Camera-like noise: stronger in the light, as photons are counted; coarser in colour, as it is interpolated."""
    height, width = image.shape[:2]
    luma = rng.standard_normal((height, width, 1), np.float32)
    chroma: np.ndarray = rng.standard_normal((height // 2 + 1, width // 2 + 1, 3), np.float32)
    chroma = cv2.resize(chroma, (width, height), interpolation=cv2.INTER_LINEAR)
    light = np.sqrt(0.3 + np.arange(256, dtype=np.float32) / 180)  # of the noise's standard deviation, by grey level
    strength = sigma * light[cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)][..., None]
    return np.clip(image + (luma + 0.6 * chroma) * strength + 0.5, 0, 255).astype(np.uint8)


def _toned(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Other brightness, contrast and white balance, and half of the time another saturation."""
    gamma, contrast, *gains = 1 + rng.uniform(-strength, strength, 5)
    levels = np.linspace(0, 1, 256)[:, None] ** gamma
    levels = (levels - 0.5) * contrast + 0.5
    curves = np.clip(levels * (1 + (np.array(gains) - 1) / 2) * 255, 0, 255).round().astype(np.uint8)
    image = cv2.LUT(image, curves[None])
    if rng.random() < 0.5:
        saturation = rng.uniform(1 - 2 * strength, 1 + 2 * strength)
        grey = (1 - saturation) * np.array([0.299, 0.587, 0.114])
        image = cv2.transform(image, np.eye(3) * saturation + grey)
    return image


def compressed(
    image: np.ndarray, settings: StageSettings, tables: Sequence[Tables], rng: np.random.Generator
) -> np.ndarray:
    """`image` [H, W, 3] uint8 RGB after one compression, or as it is: JPEG, rarely WebP, by the settings' shares."""
    if rng.random() >= settings.compressed:
        return image
    quality = int(rng.integers(settings.quality[0], settings.quality[1] + 1))
    if rng.random() < settings.webp:
        return _stored(image, format="WEBP", quality=quality, method=0)
    subsampling = 0 if rng.random() < settings.full_chroma else 2
    if rng.random() < settings.camera_tables:
        fine = [table for table in tables if sum(table[0]) <= 64 * _luma_mean(settings.quality[0])]
        if fine:
            return _stored(image, format="JPEG", qtables=fine[rng.integers(len(fine))], subsampling=subsampling)
    return _stored(image, format="JPEG", quality=quality, subsampling=subsampling)


def _luma_mean(quality: int) -> float:
    return _IJG_LUMA_MEAN * (50 / quality if quality < 50 else 2 - quality / 50)


def _stored(image: np.ndarray, **options: Any) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, **options)
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(file.getbuffer(), np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
