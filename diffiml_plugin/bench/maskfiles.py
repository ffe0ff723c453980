"""Reads binary masks and label maps from files; a mask that is not black and white is never guessed at."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from diffiml_plugin.bench.imagelists import NEGATIVE, read_list
from diffiml_plugin.bench.images import SUFFIXES
from diffiml_plugin.errors import DiffIMLError


def find_masks(source: str | Path) -> list[Path]:
    """The masks of a folder (all images below it) or of a JSON list [[image, mask | "Negative"], ...].

    Raises:
        DiffIMLError: there is none.
    """
    if Path(source).suffix.lower() == ".json":
        found = [Path(mask) for mask in read_list(source).masks if mask != NEGATIVE]
    else:
        found = sorted(file for file in Path(source).rglob("*") if file.suffix.lower() in SUFFIXES)
    if not found:
        raise DiffIMLError(f"{source} holds no mask; expected a folder of images ({', '.join(SUFFIXES)}) or a JSON "
                           "list [[image, mask], ...]")
    return found


def read_mask(path: Path, binarise: bool = False) -> np.ndarray:
    """A mask of at most two levels, [H, W] uint8 in {0, 1}: 1 where it is not 0.

    Args:
        binarise: cut other masks at half of their format's range, with a warning that names the file.

    Raises:
        DiffIMLError: not readable, or more levels than two and not `binarise`; names the file.
    """
    levels = _read(path)
    found = np.unique(levels)
    if len(found) <= 2 and found[0] == 0:
        return (levels > 0).astype(np.uint8)
    top = 1 if levels.dtype == bool else np.iinfo(levels.dtype).max
    if len(found) == 1 and found[0] == top:
        return np.ones(levels.shape, np.uint8)
    told = f"{path} is not binary: {len(found)} levels from {found[0]} to {found[-1]}"
    if not binarise:
        raise DiffIMLError(f"{told}, expected 0 and one other; mend it, or cut it at {top // 2} by --binarise")
    warnings.warn(f"{told}; cut at {top // 2}", stacklevel=2)
    return (levels > top // 2).astype(np.uint8)


def read_label_map(path: Path) -> np.ndarray:
    """A map [H, W] of integers, one for each region."""
    return _read(path)


def resized(mask: np.ndarray, size: int) -> np.ndarray:
    """The mask as the framework brings it to a square: nearest neighbour, [size, size]."""
    return cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST)


def stacked(masks: Sequence[np.ndarray]) -> np.ndarray:
    """Masks of one size as a batch of maps, [B, 1, H, W] float32."""
    return np.stack(masks)[:, None].astype(np.float32)


def _read(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            levels = np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise DiffIMLError(f"{path} cannot be read as an image: {error}") from error
    colour = levels[..., :3] if levels.ndim == 3 else levels[..., None]
    if (colour != colour[..., :1]).any() or colour.dtype.kind not in "bui":
        raise DiffIMLError(f"{path} is coloured or of real numbers; expected a grey image of integers")
    return colour[..., 0]
