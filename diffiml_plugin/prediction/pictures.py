"""Pictures to look at: maps in colour, masks over their image, and strips of them side by side."""

from collections.abc import Iterator, Sequence

import cv2
import numpy as np

HEADING = 22  # pixels, of the line that `headed` adds
_BAND = 1 << 22  # pixels


def bands(array: np.ndarray) -> Iterator[slice]:
    """The rows of a map or picture [H, W, ...] in parts, so that what is worked out of a large photo stays small."""
    rows = max(1, _BAND // array.shape[1])
    return (slice(start, start + rows) for start in range(0, len(array), rows))


def grey(values: np.ndarray, highest: float = 1.0) -> np.ndarray:
    """A map [H, W] in [0, highest] as grey levels, uint8: 255 where it is highest."""
    levels = np.empty(values.shape, np.uint8)
    for rows in bands(values):
        levels[rows] = np.round((255.0 / highest) * values[rows])
    return levels


def as_picture(image: np.ndarray) -> np.ndarray:
    """Any map or image as [H, W, 3] uint8 RGB: uint8 colour stays, a map [H, W] in [0, 1] becomes grey."""
    if image.ndim == 3:
        return image
    return np.repeat(np.clip(image * 255.0, 0, 255).round().astype(np.uint8)[..., None], 3, axis=2)


def heat(values: np.ndarray, highest: float = 1.0) -> np.ndarray:
    """A map [H, W] as colours from black over red to yellow, brightest from `highest` up: [H, W, 3] uint8."""
    scaled = np.clip(values * (255.0 / highest), 0, 255).round().astype(np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(scaled, cv2.COLORMAP_INFERNO)[..., ::-1])


def shrunk(picture: np.ndarray, longest: int) -> np.ndarray:
    """A picture or map [H, W, ...], made smaller where a side is longer than so many pixels; none becomes 0."""
    height, width = picture.shape[:2]
    factor = longest / max(height, width)
    if factor >= 1:
        return picture
    size = max(1, round(factor * width)), max(1, round(factor * height))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def strip(*pictures: np.ndarray, height: int = 256, gap: int = 4) -> np.ndarray:
    """Pictures and maps (see `as_picture`) side by side at one height, white between them."""
    parts = []
    for picture in map(as_picture, pictures):
        width = max(1, round(picture.shape[1] * height / picture.shape[0]))
        parts += [
            cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA),
            np.full((height, gap, 3), 255, np.uint8),
        ]
    return np.hstack(parts[:-1])


def sheet(pictures: Sequence[np.ndarray], columns: int = 4, gap: int = 4) -> np.ndarray:
    """Pictures [H, W, 3] uint8 of any size in rows, each at its upper left corner of an equal cell, white around."""
    height, width = (max(picture.shape[axis] for picture in pictures) + gap for axis in (0, 1))
    rows = -(-len(pictures) // columns)
    result = np.full((rows * height, min(columns, len(pictures)) * width, 3), 255, np.uint8)
    for index, picture in enumerate(pictures):
        top, left = index // columns * height, index % columns * width
        result[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return result


def headed(picture: np.ndarray, text: str) -> np.ndarray:
    """The picture or map (see `as_picture`) below a line of black text on white, cut off where it is wider."""
    picture = as_picture(picture)
    line = np.full((HEADING, picture.shape[1], 3), 255, np.uint8)
    cv2.putText(line, text, (2, HEADING - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([line, picture])
