"""Decoded pixels, kept in a folder: what decoding gives, without decoding."""

import logging
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import PIL
from numpy.lib.format import open_memmap

from diffiml_plugin.data import formats, images
from diffiml_plugin.data.examined import digest_of, state_here
from diffiml_plugin.data.images import read_mask
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.files import file_digest, inside, replacing

_logger = logging.getLogger(__name__)


class PixelCache:
    """Arrays by the file they were decoded from, as it is now, and by what decodes: under its path, `state_here` and
    the code and versions of the decoders, never stale.

    Args:
        folder: made where it is missing; it grows to the size of the decoded pixels, three bytes each. Several
            processes may share it, and it may be emptied at any time.

    A folder that cannot be written costs a warning and the decoding.
    """

    def __init__(self, folder: Path):
        self.folder, self.writable = folder, True
        self.decoders = [PIL.__version__, cv2.__version__, *map(file_digest, (formats.__file__, images.__file__))]

    def read(self, path: Path, decode: Callable[[Path], np.ndarray]) -> np.ndarray:
        """What `decode(path)` gives, which may raise; decoders of different names are kept apart.

        Args:
            decode: `read_mask`, or what gives pixels as `read_image` does. An array of another type, shape or level in
                the folder counts as none.
        """
        key = digest_of([decode.__name__, str(path.resolve()), state_here(str(path)), self.decoders])
        file = self.folder / key[:2] / f"{key[2:]}.npy"
        pixels = _kept(file)
        if pixels is not None and _may_be_of(decode, pixels):
            return pixels
        pixels = decode(path)
        if self.writable:
            self._write(file, pixels)
        return pixels

    def _write(self, file: Path, pixels: np.ndarray) -> None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(inside(self.folder, file.relative_to(self.folder))) as target:
                np.save(target, pixels)
        except (DiffIMLError, OSError) as error:
            self.writable, reason = False, getattr(error, "strerror", None) or error
            _logger.warning(f"--cache {self.folder} cannot be written ({reason}); images are decoded anew")


def _kept(file: Path) -> np.ndarray | None:
    """The array of a file; None if there is none yet, or one that a crash of the machine cut short or emptied."""
    try:
        return np.array(open_memmap(file, "r"))  # as large as the file is, whatever its header says
    except Exception:  # numpy raises whatever its parser of a header does
        return None


def _may_be_of(decode: Callable[[Path], np.ndarray], pixels: np.ndarray) -> bool:
    """Whether `decode` gives arrays of such type, shape and levels."""
    if pixels.dtype != np.uint8 or not pixels.size:
        return False
    if decode is read_mask:
        return pixels.ndim == 2 and bool(((pixels == 0) | (pixels == 255)).all())
    return pixels.ndim == 3 and pixels.shape[2] == 3
