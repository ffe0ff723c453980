"""Image files as they are opened: regular ones of a format that is named, within bounds, by content, not by suffix."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from diffiml_plugin.errors import DiffIMLError

FORMATS = {  # that are read, by Pillow's names, and their suffixes; no other reader of Pillow's is ever called
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".mpo",),  # several JPEGs in one file, as phones make; the first is read
    "PNG": (".png",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "GIF": (".gif",),  # the first frame
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k", ".jpf", ".jpx"),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif", ".hif"),  # by pillow-heif
}
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
MOST_PIXELS = 178_956_970  # that Pillow reads: 0.5 GB of RGB
MOST_BYTES = 2**31  # of a file; four channels of 16 bits of so many pixels take 1.4 GB
_SUBFILE, _REDUCED, _MASKING = 254, 1, 4  # TIFF's tag, and bits of it: of a preview, of a transparency mask
_MOST_PREVIEWS = 16
_TILE = 322, 323  # tags of TIFF: width and height of a tile


@cache
def readable_formats() -> tuple[str, ...]:
    """Those of FORMATS that the installed Pillow reads, HEIF if pillow-heif is there."""
    Image.init()
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        pass
    else:
        register_heif_opener()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def read_content(path: str | Path) -> bytes:
    """The bytes of an image's file, so that what is said of them and what is decoded is of one picture.

    Raises:
        DiffIMLError: as `opening`; more bytes than MOST_BYTES.
    """
    with explained(path), open(_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MOST_BYTES:
            raise DiffIMLError(f"{path} has {size} bytes, more than the {MOST_BYTES} that are read of an image")
        return file.read(size)


@contextmanager
def opening(path: str | Path, content: bytes | None = None) -> Iterator[Image.Image]:
    """The image of a file of a format of FORMATS, not yet decoded.

    Args:
        content: as `read_image` takes it.

    Raises:
        DiffIMLError: no such file, something that is no regular file, one of more pixels than MOST_PIXELS; and inside
            the block, for what goes wrong in decoding.
    """
    with explained(path):
        source = _regular(path) if content is None else BytesIO(content)
        with Image.open(source, formats=readable_formats()) as image:
            _turn_to_picture(image)
            _require_fitting_tiles(image)
            yield image


def _turn_to_picture(image: Image.Image) -> None:
    """Of a TIFF that begins with a preview, to the picture itself."""
    if not isinstance(image, TiffImageFile):
        return
    while _kind_of_page(image) & _REDUCED:
        if image.tell() == _MOST_PREVIEWS or not _turns_over(image):
            image.seek(0)  # there is none
            return


def _require_fitting_tiles(image: Image.Image) -> None:
    """Raises ValueError for a TIFF in tiles far larger than its picture: each is decoded whole."""
    if not isinstance(image, TiffImageFile):
        return
    width, height = (image.tag_v2.get(tag) for tag in _TILE)
    most = min(4 * max(image.width * image.height, 2**20), MOST_PIXELS)
    if isinstance(width, int) and isinstance(height, int) and width * height > most:
        raise ValueError(f"it is cut into tiles of {width}x{height} pixels for {image.width}x{image.height}")


def _kind_of_page(image: TiffImageFile) -> int:
    kind = image.tag_v2.get(_SUBFILE)
    return kind if isinstance(kind, int) else 0  # it may be anything


def _turns_over(image: TiffImageFile) -> bool:
    """Turns to the next page; whether there is one that can be told of. All are not counted, which may be a million."""
    try:
        image.seek(image.tell() + 1)
    except Exception:  # a broken pointer ends as it likes, and the first page is sound
        return False
    return True


def holds_several(path: str | Path, content: bytes | None = None) -> bool:
    """Whether a file holds other pictures beside the one that is read: pages, or an animation's. Previews, depth and
    transparency, of which phones and editors put some into a JPEG or TIFF, do not count.

    Args:
        content: as `read_image` takes it.

    Raises:
        DiffIMLError: as `opening`.
    """
    with opening(path, content) as image:
        if isinstance(image, TiffImageFile):
            while image.tell() < _MOST_PREVIEWS and _turns_over(image):
                if not _kind_of_page(image) & (_REDUCED | _MASKING):
                    return True
            return False
        with suppress(Exception):  # of what is cut off behind a sound picture
            return image.format != "MPO" and getattr(image, "is_animated", False)
        return False


def _regular(path: str | Path) -> str | Path:
    """The path, of a regular file: a pipe may block for ever."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise DiffIMLError(f"{path} is no regular file; expected an image")
    return path


@contextmanager
def explained(path: str | Path) -> Iterator[None]:
    """Inside, whatever goes wrong with an image is a DiffIMLError that names the file."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise DiffIMLError(f"{path} has more than {MOST_PIXELS} pixels, the most that are read; shrink it") from error
    except UnidentifiedImageError as error:
        raise DiffIMLError(f"{path} cannot be read as an image: {_unidentified(Path(path))}") from error
    except DiffIMLError:
        raise
    except MemoryError as error:
        raise DiffIMLError(f"{path} does not fit into the memory; shrink it") from error
    except Exception as error:  # its readers answer damage in any way
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
        raise DiffIMLError(f"{path} cannot be read as an image: {reason}") from error


def _unidentified(path: Path) -> str:
    if path.suffix.lower() in FORMATS["HEIF"] and "HEIF" not in readable_formats():
        return "photos in HEIC need pillow-heif; pip install 'diffiml-plugin[heic]'"
    if path.suffix.lower() == ".txt":
        return "it is text; `benco predict - < FILE` reads a list of photos"
    return f"it is damaged, or of another format than {', '.join(readable_formats())}"
