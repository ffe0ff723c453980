"""Reads image files as they are stored: no EXIF rotation, no re-encoding, no colour management."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import IO, TypeGuard, cast

import cv2
import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile

from diffiml_plugin.data.formats import explained, opening, read_content, readable_formats
from diffiml_plugin.errors import DiffIMLError

_MOST_SCANS = 100  # of a JPEG, as libtiff has it; cameras and optimisers write 12 at most
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # of a JPEG's segment; in coded pixels there is none
_SCAN, _END = 0xDA, 0xD9  # markers
_ORIENTATION = 0x0112  # EXIF's tag
_WIDTH, _HEIGHT, _PHOTOMETRIC = 256, 257, 262  # TIFF's tags
_SAYING = (b"IHDR", b"eXIf", b"tEXt", b"zTXt", b"iTXt")  # chunks of a PNG in which EXIF may stand, and its head
_TOP = "highest level"  # in an image's `info`: of its file's 16 bits per channel, where the 8 that Pillow kept are low
_LEAST = 4096  # of such a level; below it there are 12 bits or fewer, which come out black
_TOO_DEEP = "more than 8 bits"  # likewise: in each of a JPEG 2000's channels; Pillow makes white black
_JPEG2000 = re.compile(rb"\xff\x4f\xff\x51.{36}(..)", re.DOTALL)  # the head of its code, to the number of channels
_Telling = PngImageFile | TiffImageFile | Jpeg2KImageFile | PpmImageFile
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # EXIF's orientation -> the photo as a viewer shows it
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}
_BACK = {  # EXIF's orientation -> the way back from a photo as a viewer shows it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def open_image(path: str) -> Image.Image:
    """As `read_image`, for the framework's datasets; its own reader turns 16-bit images white."""
    return Image.fromarray(read_image(Path(path)))


def read_image(path: Path, content: bytes | None = None) -> np.ndarray:
    """The stored pixels as [H, W, 3] uint8 RGB: grey is repeated, alpha dropped, 16 bits cut to 8.

    Args:
        content: of the file, where `read_content` has read it.

    Raises:
        DiffIMLError: a file that cannot be decoded, or whose pixels are floats or 32-bit integers, of 12 bits or
            fewer in 16, which would come out black, or colours of more than 8 in JPEG 2000, whose white would.
    """
    with decoding(path, content=content) as image:
        return _accepted(image, str(path))


def stored_pixels(image: Image.Image, name: str) -> np.ndarray:
    """As `read_image`, of an open image that messages call `name`; one whose file says more than it stays undecoded."""
    with explained(name):
        return _accepted(_as_stored(_opened_anew(image) if _says_more(image) else image), name)


def _opened_anew(image: _Telling) -> Image.Image:
    """From the same file, at the same frame: decoded, the caller's own would no longer be as it is stored."""
    with _from_start(image) as file:
        anew = Image.open(BytesIO(file.read()), formats=readable_formats())
    anew.seek(image.tell())
    return anew


def _accepted(image: Image.Image, name: str) -> np.ndarray:
    if reason := refusal(image) or unscaled(image):
        raise DiffIMLError(f"{name} {reason}")
    return _rgb(image)


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):
        return np.repeat((np.array(image) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def read_mask(path: Path, content: bytes | None = None) -> np.ndarray:
    """[H, W] uint8 in {0, 255}: 255 where the mean of the three channels is above 127.5, of 16 bits the upper 8.

    Args:
        content: as `read_image` takes it.

    Raises:
        DiffIMLError: a file that cannot be decoded, or whose pixels are floats or 32-bit integers.
    """
    with decoding(path, content=content) as image:
        if reason := refusal(image):
            raise DiffIMLError(f"{path} {reason}")
        if image.mode in ("1", "L"):
            mean = np.array(image.convert("L"))
        else:
            mean = cv2.transform(_rgb(image), np.full((1, 3), 1 / 3))  # a sum of 383 gives 128, one of 382 gives 127
    return cv2.threshold(mean, 127, 255, cv2.THRESH_BINARY)[1]


def read_header(path: str | Path, content: bytes | None = None) -> tuple[int, int, int]:
    """Width and height in pixels, and the orientation that EXIF states, 1 (as it is stored) to 8; decodes nothing.

    Args:
        content: as `read_image` takes it.

    Raises:
        DiffIMLError: as `read_image`, of what can be known before decoding.
    """
    with opening(path, content) as image:
        tags = getattr(image, "tag_v2", None)  # of a TIFF, whose size Pillow states as a viewer's
        width, height = (tags[_WIDTH], tags[_HEIGHT]) if tags else image.size
        return width, height, orientation_of(image)


def pixels_held(path: str | Path) -> int:
    """How many reading an image holds: those of its header or, if that are more or it has none, its file's bytes in
    threes; 0 where there is no file. Of a folder, whose files are read one after another, those of the largest.
    """
    if os.path.isdir(path):
        with suppress(OSError):  # of a folder that may not be read
            return max((pixels_held(file) for file in Path(path).iterdir() if file.is_file()), default=0)
        return 0
    try:
        in_bytes = os.stat(path).st_size // 3
    except (OSError, ValueError):  # ValueError: a null character in the name
        return 0
    try:
        width, height, _ = read_header(path)
    except DiffIMLError:
        return in_bytes
    return max(width * height, in_bytes)


def orientation_of(image: Image.Image) -> int:
    """What EXIF states of an image that is open, 1 (as it is stored) to 8; 1 where it states nothing that is known.

    Decodes nothing.
    """
    try:
        exif = _exif_of(image) if isinstance(image, PngImageFile) and image.tile else image.getexif()
        orientation = exif.get(_ORIENTATION, 1)
    except Exception:  # EXIF is anyone's, and its reader fails in many ways
        return 1
    return orientation if orientation in _TURNS else 1


def _exif_of(image: PngImageFile) -> Image.Exif:
    """Of a PNG that is not decoded; to find what may stand behind its pixels, Pillow would decode them."""
    with _from_start(image) as file:
        kept = [file.read(8)]  # the signature
        while len(head := file.read(8)) == 8:
            length = int.from_bytes(head[:4], "big") + 4  # with a checksum
            if head[4:] in _SAYING:
                kept += head, file.read(length)
            else:
                file.seek(length, os.SEEK_CUR)
    stated = PngImageFile(BytesIO(b"".join([*kept, bytes(4), b"IDAT"])))  # Pillow reads as far as that
    return Image.Image.getexif(stated)


@contextmanager
def _from_start(image: ImageFile) -> Iterator[IO[bytes]]:
    """The file of an image that is open, which stands where it stood afterwards."""
    file = cast(IO[bytes], image.fp)
    place = file.tell()
    file.seek(0)
    try:
        yield file
    finally:
        file.seek(place)


def as_viewed(array: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels [H, W, ...] as a viewer shows them, turned or mirrored by EXIF's orientation."""
    turn = _TURNS.get(orientation)
    return np.ascontiguousarray(turn(array)) if turn else array


def _as_stored(image: Image.Image) -> Image.Image:
    """The image, decoded, with its pixels as they are stored. Pillow turns a TIFF as a viewer does, and no other.
    One that is not decoded yet is of a file in memory: a TIFF on its side that has a name is mapped, torn.

    What its file says of its levels, and its mode does not, is kept in `info`, which copies keep too.
    """
    if not _says_more(image):
        image.load()
        return _positive(image)
    parts = [part if isinstance(part, tuple) else (part,) for *_, part in image.tile]  # raw mode, and a PPM's white
    deep = any("16" in str(mode) for mode, *_ in parts)
    deep |= isinstance(image, PpmImageFile) and any(white >= 2**15 for _, *whites in parts for white in whites)
    turned = _BACK.get(orientation_of(image)) if isinstance(image, TiffImageFile) else None
    file = cast(BytesIO, image.fp)  # which the image forgets once it is decoded
    image.load()
    if deep and not image.mode.startswith("I") and _rgb(image).max() <= _LEAST >> 8:
        image.info[_TOP] = 255 if image.tell() else _highest_level(file.getvalue())  # which reads the first page
    image.info[_TOO_DEEP] = isinstance(image, Jpeg2KImageFile) and _wraps(image, file.getvalue())
    positive = _positive(image)
    return positive if turned is None else positive.transpose(turned)


def _says_more(image: Image.Image) -> TypeGuard[_Telling]:
    """Whether the file says of depth or orientation what the image will not tell any more once it is decoded."""
    return isinstance(image, _Telling) and bool(image.tile)  # which is empty then


def _wraps(image: Image.Image, content: bytes) -> bool:
    """Whether a JPEG 2000 has several channels of more than 8 bits, which Pillow rounds to 8: from 255 to 0."""
    if len(image.getbands()) == 1 or not (head := _JPEG2000.search(content)):
        return False
    depths = content[head.end() : head.end() + 3 * int.from_bytes(head[1], "big") : 3]  # less one; signed: + 128
    return any((depth & 127) + 1 > 8 for depth in depths)


def _positive(image: Image.Image) -> Image.Image:
    """The decoded image, where 0 is black: of a TIFF that says 0 is white, Pillow heeds that up to 8 bits alone."""
    negative = isinstance(image, TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == 0
    if not negative or not image.mode.startswith("I"):
        return image
    positive = Image.fromarray(65535 - np.asarray(image))
    positive.info = dict(image.info)
    return positive


def _highest_level(content: bytes) -> int:
    """Of the colours of a file of 16 bits per channel; of one that cannot be read so, a level that is refused."""
    levels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    return 255 if levels is None else int(levels[..., :3].max())


@contextmanager
def decoding(path: str | Path, roughly: bool = False, content: bytes | None = None) -> Iterator[Image.Image]:
    """The image of a file, decoded, with its pixels as they are stored. The file is read once.

    Args:
        roughly: make few pixels of a JPEG, which is quicker, and finds all of its damage.
        content: as `read_image` takes it.

    Raises:
        DiffIMLError: as `opening`; a JPEG of so many scans that it would take hours.
    """
    content = read_content(path) if content is None else content
    with opening(path, content) as image:
        if image.format in ("JPEG", "MPO") and _scans(content) > _MOST_SCANS:
            raise DiffIMLError(
                f"{path} has more than {_MOST_SCANS} scans; `jpegtran` makes a baseline JPEG of it without loss"
            )
        if roughly:
            image.draft("L", (1, 1))
        yield _as_stored(image)


def _scans(content: bytes) -> int:
    """How often a JPEG's pixels are gone through, counted to one above _MOST_SCANS. One takes a dozen bytes."""
    count, place = 0, 2
    while count <= _MOST_SCANS and (marker := _MARKER.search(content, place)) and marker[0][1] != _END:
        count += marker[0][1] == _SCAN
        place = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2], "big")
    return count


def refusal(image: Image.Image) -> str:
    """What `read_image` refuses about decoded pixels, and how to mend it; empty if it reads them."""
    deep = ""
    if image.mode == "F":
        deep = "floating-point pixels"
    elif image.mode == "I":  # 16 bits too, in some versions of Pillow
        levels = np.asarray(image)
        deep = "32-bit integers" if levels.min() < 0 or levels.max() > 65535 else ""
    if image.info.get(_TOO_DEEP):
        return "is a JPEG 2000 of more than 8 bits per channel, of which white comes out black; store it as PNG or TIFF"
    if 0 < image.info.get(_TOP, 0) < 256:
        return _too_low(255)
    return deep and f"holds {deep}; convert it to 8 or 16 bits per channel"


def unscaled(image: Image.Image) -> str:
    """What is wrong with a decoded image whose 16 bits are hardly used; empty of others."""
    top = int(np.asarray(image).max()) if image.mode.startswith("I") else image.info.get(_TOP, 0)
    return _too_low(top) if 0 < top < _LEAST else ""


def _too_low(top: int) -> str:
    return f"holds no level above {top} of 65535; scale its levels to 8 or 16 bits"
