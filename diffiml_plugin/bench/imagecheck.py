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
                     disable=not progress)
        faults = [fault for fault in found if fault]
    if faults:
        more = f" ({len(faults) - 1} more of {len(pairs)} pairs are faulty)" if len(faults) > 1 else ""
        raise DiffIMLError(faults[0] + more)


def find_fault(image: str, mask: str) -> str | None:
    """What is wrong with a pair and how to mend it, or None."""
    try:
        size = _image_size(image)
        return None if mask == NEGATIVE else _mask_fault(image, mask, size)
    except FileNotFoundError as error:
        return f"{error.filename} does not exist; mend the list that names it"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        broken = mask if "size" in locals() else image
        return f"{broken} cannot be decoded ({error}); replace it or remove the pair"


def _image_size(path: str) -> tuple[int, int]:
    with Image.open(path) as image:
        size = image.size
        image.draft("L", (1, 1))  # a JPEG's whole stream is still read, but few pixels are made of it
        image.load()
        return size


def _mask_fault(image: str, path: str, size: tuple[int, int]) -> str | None:
    with Image.open(path) as mask:
        if mask.size != size:
            return (f"{path} is {mask.size[0]}x{mask.size[1]} pixels, its image {image} {size[0]}x{size[1]}; "
                    "resize the mask (nearest neighbour) or pair it with its own image")
        levels = np.asarray(mask.convert("RGB")).mean(2)
        alpha = mask.getchannel("A") if "A" in mask.getbands() else None
    top = levels.max()
    if 0 < top <= _THRESHOLD:
        return f"{path} is dark (its highest level is {top:g}), so it would count as empty; store tampered pixels as 255"
    if top == 0 and alpha is not None and len(set(alpha.getextrema())) > 1:
        return f"{path} has its shape in the alpha channel, which is not read; store it as black and white"
    grey = ((levels > _GREY[0]) & (levels < _GREY[1])).mean()
    if grey > _GREY_SHARE:
        return f"{path} is not black and white ({grey:.0%} of it is grey); binarise it to 0 and 255"
    return None
