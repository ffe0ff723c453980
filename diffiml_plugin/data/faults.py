"""Looks at images and masks before anything depends on them: what would crash, or be silently wrong."""

import struct
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from diffiml_plugin.data.formats import holds_several
from diffiml_plugin.data.images import decoding, read_header, refusal, unscaled
from diffiml_plugin.data.lists import NEGATIVE, file_identity

THRESHOLD = 127.5  # of the framework, on the mean of the three channels
_GREY = (32, 224)  # levels between these are neither black nor white
_GREY_SHARE = 0.05  # of the pixels; soft borders and JPEG masks stay well below
_LOST_SHARE, _SPECK = 0.05, 16  # grey regions apart from white ones: of their area; pixels
_PREPARE = "`benco datasets prepare NAME --root DIR` does so, in a copy"


@dataclass(frozen=True)
class Fault:
    """What is wrong with a file, and how to mend it; `harmful` if it would stop a run or falsify a score."""

    kind: str
    path: str
    text: str
    harmful: bool = True


def examine(image: str, mask: str) -> tuple[tuple[int, int], list[Fault]]:
    """Width and height of an image, (0, 0) if undecodable, and what is wrong with it or its mask.

    A mask has one fault at most; one of the wrong size is not looked into.
    """
    path, size, faults = image, (0, 0), []
    try:
        size, exif, orientation, refused = _decode(image)
        if refused:
            faults.append(Fault("undecodable", image, f"{image} {refused}"))
        if not _is_exif(exif):
            faults.append(
                Fault(
                    "EXIF", image, f"{image} has a broken EXIF block; its pixels are read all the same", harmful=False
                )
            )
        faults += _of_several(image)
        if mask != NEGATIVE and file_identity(image) == file_identity(mask):
            faults.append(Fault("itself", mask, f"{mask} is the mask of itself; give the image that it is of"))
        elif mask != NEGATIVE:
            path = mask
            if orientation != 1:
                text = (
                    f"{image} is turned or mirrored by viewers (EXIF orientation {orientation}), but read as it is "
                    f"stored; look whether {mask} was drawn on the stored pixels, and turn it if not"
                )
                faults.append(Fault("orientation", image, text, harmful=False))
            faults += _of_several(mask)
            with decoding(mask) as opened:
                if opened.size != size:
                    on_its_side = opened.size == size[::-1]
                    mend = "turn the mask" if on_its_side else f"resize the mask (nearest neighbour; {_PREPARE})"
                    text = (
                        f"{mask} is {opened.size[0]}x{opened.size[1]} pixels, its image {image} "
                        f"{size[0]}x{size[1]}; {mend} or pair it with its own image"
                    )
                    faults.append(Fault("size", mask, text))
                else:
                    faults += _mask_faults(opened, mask)
    except Exception as error:  # of this one file; a damaged one can raise anything
        if isinstance(error.__cause__, FileNotFoundError):
            faults.append(Fault("missing", path, f"{path} does not exist; mend the list that names it"))
        else:
            reason = str(error).removeprefix(f"{path} ").removeprefix("cannot be read as an image: ")
            text = f"{path} cannot be decoded ({reason or type(error).__name__}); replace it or remove the pair"
            faults.append(Fault("undecodable", path, text))
    return size, faults


def _decode(path: str) -> tuple[tuple[int, int], bytes, int, str]:
    """Width and height, EXIF block and orientation, and what `read_image` refuses about an image whose whole stream can
    be read."""
    width, height, orientation = read_header(path)
    with decoding(path, roughly=True) as image:
        exif = image.info.get("exif") or b""  # which is None in a HEIC without one
        return (width, height), exif, orientation, refusal(image) or unscaled(image)


def _of_several(path: str) -> list[Fault]:
    text = f"{path} holds several pictures; the first alone is read"
    return [Fault("several", path, text, harmful=False)] if holds_several(path) else []


def _is_exif(block: bytes) -> bool:
    """Whether the block's TIFF header and first directory are whole. Pillow only warns, and not per thread."""
    block = block.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if not block or order is None:
        return not block
    try:
        (start,) = struct.unpack_from(order + "L", block, 4)
        (entries,) = struct.unpack_from(order + "H", block, start)
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


def shape_in_alpha(mask: Image.Image, levels: np.ndarray) -> np.ndarray | None:
    """How opaque a mask is, [H, W] uint8, if that alone says where it is tampered: its colours are one. A palette's
    transparent colour counts. `levels` as `grey_levels` gives them.
    """
    transparent = "A" in mask.getbands() or "transparency" in mask.info
    if levels.min() < levels.max() or mask.mode.startswith("I") or not transparent:
        return None
    opaque = np.asarray(mask.convert("RGBA").getchannel("A"))
    return opaque if opaque.min() < opaque.max() else None


def _mask_faults(mask: Image.Image, path: str) -> list[Fault]:
    if refused := refusal(mask):
        return [Fault("32-bit", path, f"{path} {refused}")]
    levels = grey_levels(mask)
    top, deep = levels.max(), mask.mode.startswith("I")
    if shape_in_alpha(mask, levels) is not None:
        return [
            Fault(
                "alpha",
                path,
                f"{path} has its shape in the alpha channel, which is not read; store it as "
                f"black and white ({_PREPARE})",
            )
        ]
    if 0 < top <= THRESHOLD:
        level = f"{top * 257:g} of 65535" if deep else f"{top:g}"
        tool = f" ({_PREPARE})" if levels.min() == 0 else ""  # which cannot tell what is tampered without any black
        return [
            Fault(
                "dark",
                path,
                f"{path} is dark (highest level {level}), so it would count as empty; store "
                f"tampered pixels as 255{tool}",
            )
        ]
    if top == 0:
        return [
            Fault(
                "empty",
                path,
                f"{path} is empty, so its image counts as authentic; list that as "
                f'"{NEGATIVE}" if it is, replace the mask if not',
            )
        ]
    grey = ((levels > _GREY[0]) & (levels < _GREY[1])).mean()
    if grey > _GREY_SHARE:
        return [
            Fault(
                "not binary",
                path,
                f"{path} is not black and white ({grey:.0%} of it is grey or coloured); "
                f"binarise it to 0 and 255 ({_PREPARE})",
            )
        ]
    if lost := _lost_share(levels):
        return [
            Fault(
                "grey region",
                path,
                f"{path} has grey or coloured regions apart from the white ones, {lost:.0%} "
                "as large, which count as authentic; store them as 255 or as 0",
            )
        ]
    if _looks_inverted(levels > THRESHOLD):
        return [
            Fault("inverted", path, f"{path} looks inverted (white all around a black region); white means tampered")
        ]
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
