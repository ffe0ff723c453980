"""Large photos in overlapping tiles, which are blended."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

JPEG_BLOCK = 8  # pixels
OVERLAP = 256  # pixels that two neighbours share
_MARGIN = 32  # of those, on each side: what a tile says at its very border does not count


@dataclass(frozen=True)
class Tile:
    """A part of a photo: from row `top` and column `left`, of that height and width, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """This part of an array [H, W, ...]."""
        return array[self.top : self.top + self.height, self.left : self.left + self.width]


class Tiling:
    """Tiles of `side` pixels that cover a photo; they start at multiples of `grid`, so that each sees the photo's JPEG
    blocks and an encoder's strides in the phase of the whole.

    Args:
        height, width: of the photo, in pixels.
        side: a multiple of `grid`, above OVERLAP.
    """

    def __init__(self, height: int, width: int, side: int, grid: int):
        self.shape = height, width
        self.rows, self.columns = (_starts(extent, side, grid) for extent in self.shape)
        self.side = side
        self.weights = [
            _weights(extent, starts, side) for extent, starts in ((height, self.rows), (width, self.columns))
        ]

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def __iter__(self) -> Iterator[Tile]:
        for top, left in product(self.rows, self.columns):
            yield Tile(top, left, min(self.side, self.shape[0] - top), min(self.side, self.shape[1] - left))

    def add(self, total: npt.NDArray[np.float32], tile: Tile, values: npt.NDArray[np.float32]) -> None:
        """Adds a tile's values [h, w] to `total` [H, W], by weights that amount to 1 for each pixel over all tiles."""
        rows, columns = (
            weights[starts.index(start)]
            for weights, starts, start in zip(
                self.weights, (self.rows, self.columns), (tile.top, tile.left), strict=True
            )
        )
        tile.of(total)[...] += values * rows[:, None] * columns


def _starts(extent: int, side: int, grid: int) -> list[int]:
    """Where the tiles of one direction start: as few as overlap enough, spread evenly, each on the grid."""
    last = math.ceil(extent / grid) * grid - side
    if last <= 0:
        return [0]
    steps = math.ceil(last / (side - OVERLAP))
    return [last * step // steps // grid * grid for step in range(steps)] + [last]


def _weights(extent: int, starts: list[int], side: int) -> list[npt.NDArray[np.float32]]:
    """Of each tile along one direction: 1 where it is alone, a ramp where two overlap; they amount to 1."""
    ramps = []
    for start in starts:
        x = np.arange(start, min(start + side, extent), dtype=np.float32) + 0.5
        before = x - start - _MARGIN if start else np.inf
        behind = start + side - _MARGIN - x if start != starts[-1] else np.inf
        ramps.append(np.clip(np.minimum(before, behind), 0, OVERLAP - 2 * _MARGIN) * np.ones_like(x))
    total = np.zeros(extent, np.float32)
    for start, ramp in zip(starts, ramps, strict=True):
        total[start : start + len(ramp)] += ramp
    return [ramp / total[start : start + len(ramp)] for start, ramp in zip(starts, ramps, strict=True)]
