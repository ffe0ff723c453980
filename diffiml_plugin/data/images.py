"""Finds and reads image files as they are stored: no EXIF rotation, no re-encoding, no colour management."""

import os
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from diffiml_plugin.errors import DiffIMLError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def find_images(paths: Iterable[str | Path], output_dir: Path) -> list[tuple[Path, Path]]:
    """The files named, and those with a suffix of SUFFIXES anywhere below the folders named.

    What an earlier run left in `output_dir` is no input, where that is a folder inside one of those searched.

    Returns:
        (file, its path relative to the folder it was found in; for a file, its name), each file once. Where two of
        those are one, all are relative to the folder that holds every file.

    Raises:
        DiffIMLError: a path that does not exist, a folder without images, or an `output_dir` that would put masks among
            the images, where NAME_mask.png may be the truth.
    """
    found: dict[Path, tuple[Path, Path]] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise DiffIMLError(f"{path} does not exist; expected an image or a folder of images")
        if path.is_file():
            found.setdefault(path.resolve(), (path, Path(path.name)))
            continue
        if output_dir.resolve() == path.resolve():
            raise DiffIMLError(f"--output_dir {output_dir} is the folder of the images; choose another")
        files = sorted(file for file in path.rglob("*") if file.is_file())
        if output_dir.resolve().is_relative_to(path.resolve()):
            files = [file for file in files if not file.resolve().is_relative_to(output_dir.resolve())]
        inside = [file for file in files if file.suffix.lower() in SUFFIXES]
        if not inside:
            raise DiffIMLError(f"{path} holds no image; looked for {', '.join(SUFFIXES)} in it and below")
        for file in inside:
            found.setdefault(file.resolve(), (file, file.relative_to(path)))
    if len({relative for _, relative in found.values()}) < len(found):
        common = os.path.commonpath([place.parent for place in found])
        found = {place: (file, place.relative_to(common)) for place, (file, _) in found.items()}
    if {(output_dir / relative).resolve().parent for _, relative in found.values()} & {place.parent for place in found}:
        raise DiffIMLError(f"--output_dir {output_dir} would put masks among the images; choose another")
    return list(found.values())


def open_image(path: str) -> Image.Image:
    """As `read_image`, for the framework's datasets; its own reader turns 16-bit images white."""
    return Image.fromarray(read_image(Path(path)))


def read_image(path: Path) -> np.ndarray:
    """The stored pixels as [H, W, 3] uint8 RGB: grey is repeated, alpha dropped, 16 bits cut to 8.

    Raises:
        DiffIMLError: a file that cannot be decoded, or whose pixels are floats or 32-bit integers, or of 12 bits or
            fewer in 16, which would come out black.
    """
    return stored_pixels(_opened(path), str(path))


def stored_pixels(image: Image.Image, name: str) -> np.ndarray:
    """As `read_image`, of an open image that messages call `name`."""
    if reason := refusal(image) or unscaled(image):
        raise DiffIMLError(f"{name} {reason}")
    if image.mode.startswith("I"):
        return np.repeat((np.array(image) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def read_mask(path: Path) -> np.ndarray:
    """[H, W] uint8 in {0, 255}: 255 where the mean of the three channels that `read_image` gives is above 127.5.

    Raises:
        DiffIMLError: as `read_image`.
    """
    image = _opened(path)
    if image.mode in ("1", "L"):
        mean = np.array(image.convert("L"))
    else:
        rgb = stored_pixels(image, str(path))
        mean = cv2.transform(rgb, np.full((1, 3), 1 / 3))  # a sum of 383 gives 128, one of 382 gives 127
    return cv2.threshold(mean, 127, 255, cv2.THRESH_BINARY)[1]


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DiffIMLError(f"{path} cannot be read as an image: {error}") from error
    return image


def refusal(image: Image.Image) -> str:
    """What `read_image` refuses about the pixels, and how to mend it; empty if it reads them."""
    deep = ""
    if image.mode == "F":
        deep = "floating-point pixels"
    elif image.mode == "I":  # 16 bits too, in some versions of Pillow
        levels = np.asarray(image)
        deep = "32-bit integers" if levels.min() < 0 or levels.max() > 65535 else ""
    return deep and f"holds {deep}; convert it to 8 or 16 bits per channel"


def unscaled(image: Image.Image) -> str:
    """What is wrong with an image whose 16 bits are hardly used; empty of others."""
    top = np.asarray(image).max() if image.mode.startswith("I") else 0
    return f"holds no level above {top} of 65535; scale its levels to 8 or 16 bits" if 0 < top < 4096 else ""
