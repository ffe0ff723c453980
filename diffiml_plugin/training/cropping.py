"""Random windows of training images that leave the traces of JPEG compression where a network expects them."""

import random
from typing import Any

import albumentations as albu
import numpy as np

_GRID = 8  # pixels, side of JPEG's blocks
_CHANNELS = 3  # of masks once; a seed still draws the windows that it drew then


class GridCrop(albu.DualTransform):
    """Cuts out a window of `side` pixels whose corner lies on JPEG's grid of 8x8 blocks; a smaller image is padded.

    Half of the windows are laid over a tampered pixel, if the image has any. Padding is black, at the right and the
    bottom, and called authentic, as the framework's is.
    """

    def __init__(self, side: int):
        super().__init__(always_apply=True)
        self.side = side

    @property
    def targets_as_params(self) -> list[str]:
        return ["mask"]

    def get_params_dependent_on_targets(self, params: dict[str, Any]) -> dict[str, Any]:
        extents = params["mask"].shape[:2]
        marked = np.flatnonzero(params["mask"].reshape(*extents, -1)[..., 0]) if random.random() < 0.5 else ()
        if len(marked):
            chosen = marked[random.randrange(_CHANNELS * len(marked)) // _CHANNELS]
            pixel = np.unravel_index(chosen, extents)
        else:
            pixel = (None, None)
        top, left = map(self._corner, extents, pixel)
        return {"top": top, "left": left}

    def _corner(self, extent: int, pixel: int | None) -> int:
        """A place on the grid where a window fits into `extent` pixels and, if one is given, holds `pixel`."""
        first, last = 0, max(0, extent - self.side) // _GRID
        if pixel is not None:
            first = min(last, max(0, -((self.side - 1 - pixel) // _GRID)))
            last = min(last, pixel // _GRID)
        return _GRID * random.randint(first, last)

    def apply(self, img: np.ndarray, top: int = 0, left: int = 0, **_: Any) -> np.ndarray:
        window = img[top : top + self.side, left : left + self.side]
        missing = [(0, self.side - extent) for extent in window.shape[:2]]
        return np.pad(window, [*missing, *[(0, 0)] * (img.ndim - 2)])

    def get_transform_init_args_names(self) -> tuple[str, ...]:
        return ("side",)
