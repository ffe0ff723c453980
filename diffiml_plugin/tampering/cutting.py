"""Cuts objects out of pictures: along a label map, along the edges of what is there, or by a shape of no meaning."""

from dataclasses import dataclass

import cv2
import numpy as np

MARGIN = 10  # pixels of background kept around an object, for compression, borders and halos
_SNAPPED = 128  # pixels; a larger object finds its edges at this size, which is fast and smooths them
_FEWEST = 150  # pixels of an object of a label map
SHAPES = ("ellipse", "polygon", "blob", "triangle", "rectangle")


@dataclass(frozen=True)
class Cut:
    """An object in its box: colours [H, W, 3] uint8 RGB and its region [H, W] uint8 {0, 1}.

    `centre` is its middle in the picture it was cut from, x and y in pixels.
    """

    image: np.ndarray
    region: np.ndarray
    centre: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Labelled:
    """An object of a label map: its value, its box (rows and columns) and its number of pixels."""

    value: int
    box: tuple[slice, slice]
    pixels: int


def labelled_objects(labels: np.ndarray) -> list[Labelled]:
    """The objects of a label map [H, W] of integers with at least _FEWEST pixels; 0 is none."""
    objects = []
    for value, pixels in enumerate(np.bincount(labels.ravel())):
        if value and _FEWEST <= pixels <= 0.6 * labels.size:
            of_value = labels == value
            rows, columns = np.flatnonzero(of_value.any(axis=1)), np.flatnonzero(of_value.any(axis=0))
            box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
            objects.append(Labelled(value, box, int(pixels)))
    return objects


def drawn_shape(pixels: float, limits: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A shape of SHAPES of about so many pixels, no higher and no wider than `limits`: [H, W] uint8 {0, 1}."""
    shape = SHAPES[rng.choice(len(SHAPES), p=(0.2, 0.2, 0.36, 0.12, 0.12))]
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    radius = np.ones_like(angle)
    stretch, turn = rng.uniform(1, 1.8), rng.uniform(0, np.pi)
    if shape == "polygon":
        corners = rng.integers(4, 10)
        angle = np.sort((np.arange(corners) + rng.uniform(0, 0.8, corners)) * 2 * np.pi / corners)
        radius = rng.uniform(0.6, 1.4, corners)
    elif shape == "blob":
        for wave in range(2, 7):
            radius += rng.uniform(-0.6, 0.6) / wave * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    elif shape == "triangle":
        angle, radius, stretch = np.arange(3) * 2 * np.pi / 3 - np.pi / 2, np.ones(3), rng.uniform(0.8, 1.3)
        turn = 0 if rng.random() < 0.6 else turn
    elif shape == "rectangle":
        angle, radius = np.pi / 4 + np.arange(4) * np.pi / 2, np.ones(4)
        turn = rng.choice((0, np.pi / 2)) if rng.random() < 0.8 else turn
    elif rng.random() < 0.5:  # an ellipse, every other one a circle
        stretch = 1
    outline = np.stack([radius * np.cos(angle) * stretch, radius * np.sin(angle)], axis=1)
    outline = outline @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    outline = outline * np.sqrt(pixels / cv2.contourArea(outline.astype(np.float32)))
    outline = outline - outline.min(axis=0)
    outline = (outline * min(1, *((np.array(limits[::-1]) - 1) / outline.max(axis=0)))).round().astype(np.int32)
    width, height = outline.max(axis=0) + 1
    return cv2.fillPoly(np.zeros((height, width), np.uint8), [outline], (1,))


def snapped(image: np.ndarray, region: np.ndarray) -> np.ndarray:
    """`region` [H, W] {0, 1} with its border moved to the nearest edges of `image` [H, W, 3]; or as it was."""
    height, width = region.shape
    shrink = min(1, _SNAPPED / max(height, width))
    size = max(3, round(width * shrink)), max(3, round(height * shrink))
    small = cv2.resize(region, size, interpolation=cv2.INTER_NEAREST)
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    reach = 2 * int(0.18 * np.sqrt(small.sum())) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    seeds = np.where(cv2.dilate(small, kernel) == 0, 1, 0) + 2 * cv2.erode(small, kernel)
    if reach < 3 or len(np.unique(seeds)) < 3:
        return region
    grown = (cv2.watershed(image, seeds.astype(np.int32)) == 2).astype(np.uint8)
    grown = cv2.medianBlur(grown * np.uint8(255), 3)
    return (cv2.resize(grown, (width, height), interpolation=cv2.INTER_LINEAR) > 127).astype(np.uint8)


def lassoed(region: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`region` [H, W] {0, 1} cut out roughly, along straight lines; of several parts the largest."""
    outlines, _ = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(outlines, key=cv2.contourArea)
    rough = cv2.approxPolyDP(outline, rng.uniform(0.005, 0.025) * cv2.arcLength(outline, True), True)
    return cv2.fillPoly(np.zeros_like(region), [rough], (1,))


def grown(region: np.ndarray, pixels: int) -> np.ndarray:
    """`region` [H, W] {0, 1}, wider by so many pixels all around, or narrower if negative; never empty."""
    if not pixels:
        return region
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * abs(pixels) + 1,) * 2)
    changed = (cv2.dilate if pixels > 0 else cv2.erode)(region, kernel)
    return changed if changed.any() else region


def with_margin(box: tuple[slice, slice], shape: tuple[int, ...], margin: int = MARGIN) -> tuple[slice, slice]:
    """`box` wider by `margin` all around, as far as a picture of that shape reaches."""
    rows, columns = (
        slice(max(0, part.start - margin), min(extent, part.stop + margin))
        for part, extent in zip(box, shape, strict=False)
    )
    return rows, columns


def box_of(region: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns that hold `region` [H, W], which is not empty."""
    left, top, width, height = cv2.boundingRect(region)
    return slice(top, top + height), slice(left, left + width)
