"""Writes short words into pictures, in the fonts that matplotlib carries."""

import functools
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

_LETTERS = "ABCDEFGHIJKLMNOPRSTUVWXYZabcdefghiklmnoprstuvwxyz0123456789"
_DIGITS = "0123456789.,-/:"
_FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSansMono", "DejaVuSans-Oblique")


def word(height: int, rng: np.random.Generator) -> np.ndarray:
    """Opacity [H, W] float32 in [0, 1] of a random word or number in letters of about `height` pixels."""
    signs = _DIGITS if rng.random() < 0.4 else _LETTERS
    text = "".join(signs[index] for index in rng.integers(len(signs), size=rng.integers(2, 9)))
    font = _font(_FONTS[rng.integers(len(_FONTS))], height)
    left, top, right, bottom = map(int, font.getbbox(text))
    canvas = Image.new("L", (right - left + 4, bottom - top + 4))
    ImageDraw.Draw(canvas).text((2 - left, 2 - top), text, 255, font)
    return np.asarray(canvas, np.float32) / 255


def strokes_region(opacity: np.ndarray) -> np.ndarray:
    """The region that a word covers, gaps within its letters closed: [H, W] uint8 {0, 1}."""
    reach = max(3, opacity.shape[0] // 2 | 1)
    return cv2.morphologyEx((opacity > 0.3).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((reach, reach), np.uint8))


@functools.lru_cache(maxsize=256)
def _font(name: str, height: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"), height)
