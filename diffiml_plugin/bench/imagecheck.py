"""Looks at every image and mask before training or testing starts: what would crash, or be silently wrong."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image
from tqdm import tqdm

from diffiml_plugin.bench.imagelists import NEGATIVE, ImageList
from diffiml_plugin.errors import DiffIMLError

_THRESHOLD = 127.5  # of the framework, on the mean of the three channels
_GREY = (32, 224)  # levels between these are neither black nor white
_GREY_SHARE = 0.05  # of the pixels; soft borders and JPEG masks stay well below


def check_lists(lists: Sequence[ImageList], progress: bool = False) -> None:
    """Decodes all files of `lists`, in parallel.

    Raises:
        DiffIMLError: the first file that is missing, undecodable, or a mask that is of another size or not
            black and white, how to mend it, and how many more there are.
    """
    pairs = [pair for listed in lists for pair in zip(listed.images, listed.masks, strict=True)]
    with ThreadPoolExecutor(min(32, 2 * (os.cpu_count() or 1))) as pool:
        found = tqdm(pool.map(lambda pair: find_fault(*pair), pairs), "checking", len(pairs), unit="img", leave=False,
                     disable=None if progress else True)
        faults = [fault for fault in found if fault]
    if faults:
        more = f" ({len(faults) - 1} more of {len(pairs)} pairs are faulty)" if len(faults) > 1 else ""
        raise DiffIMLError(faults[0] + more)


def find_fault(image: str, mask: str) -> str | None:
    """What is wrong with a pair and how to mend it, or None."""
    path = image
    try:
        size = _decode(image)
        if mask == NEGATIVE:
            return None
        path = mask
        with Image.open(mask) as opened:
            if opened.size != size:
                return (f"{mask} is {opened.size[0]}x{opened.size[1]} pixels, its image {image} {size[0]}x{size[1]}; "
                        "resize the mask (nearest neighbour) or pair it with its own image")
            fault = _level_fault(opened)
            return fault and f"{mask} {fault}"
    except FileNotFoundError:
        return f"{path} does not exist; mend the list that names it"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return f"{path} cannot be decoded ({error}); replace it or remove the pair"


def _decode(path: str) -> tuple[int, int]:
    """Width and height of an image whose whole stream can be read."""
    with Image.open(path) as image:
        size = image.size
        image.draft("L", (1, 1))  # few pixels are made of a JPEG, which is quicker
        image.load()
        return size


def _level_fault(mask: Image.Image) -> str | None:
    levels = np.asarray(mask.convert("RGB")).mean(2)
    top = levels.max()
    if 0 < top <= _THRESHOLD:
        return f"is dark (highest level {top:g}), so it would count as empty; store tampered pixels as 255"
    if top == 0 and "A" in mask.getbands() and len(set(mask.getchannel("A").getextrema())) > 1:
        return "has its shape in the alpha channel, which is not read; store it as black and white"
    grey = ((levels > _GREY[0]) & (levels < _GREY[1])).mean()
    if grey > _GREY_SHARE:
        return f"is not black and white ({grey:.0%} of it is grey or coloured); binarise it to 0 and 255"
    return None
