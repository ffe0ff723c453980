"""Looks at images and masks before anything depends on them: what would crash, or be silently wrong."""

import json
import os
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from diffiml_plugin.bench.imagelists import NEGATIVE, ImageList
from diffiml_plugin.bench.images import refusal, unscaled
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.weights.files import replacing

THRESHOLD = 127.5  # of the framework, on the mean of the three channels
_GREY = (32, 224)  # levels between these are neither black nor white
_GREY_SHARE = 0.05  # of the pixels; soft borders and JPEG masks stay well below
_LOST_SHARE, _SPECK = 0.05, 16  # grey regions apart from white ones: of their area; pixels
_STOPPING = ("missing", "undecodable", "size", "32-bit", "dark", "alpha", "not binary")  # a run refuses them
_PREPARE = "`benco datasets prepare NAME --root DIR` does so, in a copy"
_BATCH = 1024  # pairs handed to the threads at a time, so that millions need no memory and Ctrl-C works
_Item, _Result = TypeVar("_Item"), TypeVar("_Result")


@dataclass(frozen=True)
class Fault:
    """What is wrong with a file, and how to mend it; `harmful` if it would stop a run or falsify a score."""

    kind: str
    path: str
    text: str
    harmful: bool = True


def check_lists(lists: Sequence[ImageList]) -> int:
    """Decodes all files of `lists`, in parallel: the quick part of `benco datasets check`. Warns of what may be wrong.

    What was found is kept in the user's cache, and serves as long as no file of its list changes in size or date.

    Returns:
        The longest side of all images in pixels.

    Raises:
        DiffIMLError: the first file that is missing, undecodable or of more than 16 bits, or a mask that is of
            another size or not black and white, how to mend it, and how many more there are.
    """
    found = [_remembered(listed) for listed in lists]
    harmful = [fault for _, faults in found for fault in faults]
    if faults := [fault for fault in harmful if fault.kind in _STOPPING]:
        pairs = sum(len(listed.images) for listed in lists)
        more = f" ({len(faults) - 1} more of {pairs} pairs are faulty)" if len(faults) > 1 else ""
        raise DiffIMLError(faults[0].text + more)
    for kind in dict.fromkeys(fault.kind for fault in harmful):
        texts = [fault.text for fault in harmful if fault.kind == kind]
        print(f"warning: {texts[0]}" + (f" ({len(texts) - 1} more are {kind})" if texts[1:] else ""), file=sys.stderr)
    return max(longest for longest, _ in found)


def _remembered(listed: ImageList) -> tuple[int, list[Fault]]:
    """The longest side of a list's images and its harmful faults, from the cache if its files are as they were.

    A list that would stop a run is looked at anew each time.
    """
    pairs = list(zip(listed.images, listed.masks, strict=True))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "diffiml_plugin", "checked")
    file = cache / f"{_digest(pairs)}.json"
    checks = sha256(Path(__file__).read_bytes()).hexdigest()  # other checks may find other faults
    state = _digest([checks, *in_parallel(_state, [path for pair in pairs for path in pair], "looking")])
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["state"] == state:
            return kept["longest"], [Fault(**fault) for fault in kept["faults"]]
    found = list(in_parallel(lambda pair: examine(*pair), pairs, "checking"))
    longest = max(max(size) for size, _ in found)
    faults = [fault for _, faults in found for fault in faults if fault.harmful]
    if any(fault.kind in _STOPPING for fault in faults):  # the disk's, perhaps, and soon mended
        return longest, faults
    with suppress(OSError):  # without a cache, the next start looks again
        cache.mkdir(parents=True, exist_ok=True)
        with replacing(file) as opened:
            opened.write(json.dumps({"state": state, "longest": longest, "faults": list(map(asdict, faults))}).encode())
    return longest, faults


def _state(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _digest(value: object) -> str:
    return sha256(json.dumps(value).encode()).hexdigest()


def in_parallel(function: Callable[[_Item], _Result], items: Sequence[_Item], title: str) -> Iterator[_Result]:
    """The results of `function` in the order of `items`, computed by threads, under a progress bar."""
    with ThreadPoolExecutor(min(32, 2 * (os.cpu_count() or 1))) as pool:
        batches = (pool.map(function, items[start:start + _BATCH]) for start in range(0, len(items), _BATCH))
        yield from tqdm(chain.from_iterable(batches), title, len(items), unit="img", leave=False, disable=None)


def examine(image: str, mask: str) -> tuple[tuple[int, int], list[Fault]]:
    """Width and height of an image, (0, 0) if undecodable, and what is wrong with it or its mask.

    A mask has one fault at most; one of the wrong size is not looked into.
    """
    path, size, faults = image, (0, 0), []
    try:
        size, exif, refused = _decode(image)
        if refused:
            faults.append(Fault("undecodable", image, f"{image} {refused}"))
        if not _is_exif(exif):
            faults.append(Fault("EXIF", image, f"{image} has a broken EXIF block; its pixels are read all the same",
                                harmful=False))
        if mask != NEGATIVE:
            path = mask
            with Image.open(mask) as opened:
                if opened.size != size:
                    on_its_side = opened.size == size[::-1]
                    mend = "turn the mask" if on_its_side else f"resize the mask (nearest neighbour; {_PREPARE})"
                    text = (f"{mask} is {opened.size[0]}x{opened.size[1]} pixels, its image {image} "
                            f"{size[0]}x{size[1]}; {mend} or pair it with its own image")
                    faults.append(Fault("size", mask, text))
                else:
                    faults += _mask_faults(opened, mask)
    except FileNotFoundError:
        faults.append(Fault("missing", path, f"{path} does not exist; mend the list that names it"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        text = f"{path} cannot be decoded ({error}); replace it or remove the pair"
        faults.append(Fault("undecodable", path, text))
    return size, faults


def _decode(path: str) -> tuple[tuple[int, int], bytes, str]:
    """Width and height, EXIF block and what `read_image` refuses about an image whose whole stream can be read."""
    with Image.open(path) as image:
        size = image.size
        image.draft("L", (1, 1))  # few pixels are made of a JPEG, which is quicker
        image.load()
        return size, image.info.get("exif", b""), refusal(image) or unscaled(image)


def _is_exif(block: bytes) -> bool:
    """Whether the block's TIFF header and first directory are whole. Pillow only warns, and not per thread."""
    block = block.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if not block or order is None:
        return not block
    try:
        start, = struct.unpack_from(order + "L", block, 4)
        entries, = struct.unpack_from(order + "H", block, start)
    except struct.error:
        return False
    return start + 2 + 12 * entries <= len(block)


def grey_levels(mask: Image.Image) -> np.ndarray:
    """[H, W], 0 to 255: the mean of the three channels, as the framework cuts it at THRESHOLD."""
    if mask.mode.startswith("I"):
        return np.asarray(mask) / np.float32(257)  # 16 bits, which `images.open_image` cuts to the upper 8
    if mask.mode in ("1", "L"):
        return np.asarray(mask.convert("L"))
    return np.asarray(mask.convert("RGB")).mean(2, dtype=np.float32)


def has_shape_in_alpha(mask: Image.Image, levels: np.ndarray) -> bool:
    """Whether the colours are one and the transparency is not; `levels` as `grey_levels` gives them."""
    return levels.min() == levels.max() and "A" in mask.getbands() and len(set(mask.getchannel("A").getextrema())) > 1


def _mask_faults(mask: Image.Image, path: str) -> list[Fault]:
    if refused := refusal(mask):
        return [Fault("32-bit", path, f"{path} {refused}")]
    levels = grey_levels(mask)
    top, deep = levels.max(), mask.mode.startswith("I")
    if has_shape_in_alpha(mask, levels):
        return [Fault("alpha", path, f"{path} has its shape in the alpha channel, which is not read; store it as "
                      f"black and white ({_PREPARE})")]
    if 0 < top <= THRESHOLD:
        level = f"{top * 257:g} of 65535" if deep else f"{top:g}"
        tool = f" ({_PREPARE})" if levels.min() == 0 else ""  # which cannot tell what is tampered without any black
        return [Fault("dark", path, f"{path} is dark (highest level {level}), so it would count as empty; store "
                      f"tampered pixels as 255{tool}")]
    if top == 0:
        return [Fault("empty", path, f"{path} is empty, so its image counts as authentic; list that as "
                      f"\"{NEGATIVE}\" if it is, replace the mask if not")]
    grey = ((levels > _GREY[0]) & (levels < _GREY[1])).mean()
    if grey > _GREY_SHARE:
        return [Fault("not binary", path, f"{path} is not black and white ({grey:.0%} of it is grey or coloured); "
                      f"binarise it to 0 and 255 ({_PREPARE})")]
    if lost := _lost_share(levels):
        return [Fault("grey region", path, f"{path} has grey or coloured regions apart from the white ones, {lost:.0%} "
                      "as large, which count as authentic; store them as 255 or as 0")]
    if _looks_inverted(levels > THRESHOLD):
        return [Fault("inverted", path, f"{path} looks inverted (white all around a black region); white means "
                      "tampered")]
    if deep:
        return [Fault("16-bit", path, f"{path} has 16 bits; it is read rightly, 8 bits are enough", harmful=False)]
    return []


def _lost_share(levels: np.ndarray) -> float:
    """The area of regions that are neither black nor anywhere white, as a share of the white; 0 if it is small."""
    shown, white = levels > _GREY[0], levels > THRESHOLD
    if (shown & ~white).sum() <= _LOST_SHARE * white.sum():
        return 0
    _, labels = cv2.connectedComponents(shown.astype(np.uint8))
    area, lit = (np.bincount(labels.ravel(), weights=part.ravel()) for part in (shown, white))
    lost = area[(lit == 0) & (area >= _SPECK)].sum() / white.sum()
    return lost if lost > _LOST_SHARE else 0


def _looks_inverted(tampered: np.ndarray) -> bool:
    border = np.concatenate([tampered[0], tampered[-1], tampered[:, 0], tampered[:, -1]])
    return 0.5 < tampered.mean() < 1 and border.mean() > 0.99
