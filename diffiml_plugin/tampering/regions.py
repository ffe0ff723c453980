"""Object-shaped regions to tamper: taken from a label map people drew, or drawn here."""

import cv2
import numpy as np


def labelled_region(labels: np.ndarray, area: tuple[float, float], rng: np.random.Generator) -> np.ndarray | None:
    """A random region of the integer label map [H, W] whose share of the image lies within `area`; 0 is no region.

    Returns:
        [H, W] uint8 in {0, 1}, or None when no label has such a size.
    """
    values, counts = np.unique(labels, return_counts=True)
    share = counts / labels.size
    values = values[(values != 0) & (share >= area[0]) & (share <= area[1])]
    return (labels == rng.choice(values)).astype(np.uint8) if len(values) else None


def drawn_region(height: int, width: int, area: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """An ellipse, a polygon or a smooth blob anywhere in the image, of a share of it log-uniform in `area`.

    Returns:
        [H, W] uint8 in {0, 1}, never empty.
    """
    angle = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    kind = rng.integers(3)
    if kind == 0:
        radius = np.ones_like(angle)
    elif kind == 1:
        corners = rng.integers(4, 9)
        angle = np.sort((np.arange(corners) + rng.uniform(0, 0.8, corners)) * 2 * np.pi / corners)
        radius = rng.uniform(0.6, 1.4, corners)
    else:
        radius = np.ones_like(angle)
        for wave in range(2, 6):
            radius += rng.uniform(-0.5, 0.5) / wave * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    outline = np.stack([radius * np.cos(angle) * rng.uniform(1, 1.8), radius * np.sin(angle)], axis=1)
    turn = rng.uniform(0, np.pi)
    outline = outline @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])

    wanted = np.exp(rng.uniform(*np.log(area))) * height * width
    outline = outline * np.sqrt(wanted / cv2.contourArea(outline.astype(np.float32)))
    low, high = outline.min(axis=0), outline.max(axis=0)
    limit = np.array([width - 1, height - 1])
    outline = outline * min(1, *(limit / (high - low)))  # an elongated shape shrinks until it fits
    low, high = outline.min(axis=0), outline.max(axis=0)
    outline = outline + rng.uniform(-low, np.maximum(limit - high, -low))
    return cv2.fillPoly(np.zeros((height, width), np.uint8), [outline.round().astype(np.int32)], (1,))
