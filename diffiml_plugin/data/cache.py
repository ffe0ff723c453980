"""Decoded pixels, kept in a folder: what decoding gives, without decoding."""

import logging
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from diffiml_plugin.data.examined import state_here
from diffiml_plugin.files import replacing

_logger = logging.getLogger(__name__)


class PixelCache:
    """Arrays by the file they were decoded from, as it is now: under its path and `state_here`, never stale.

    Args:
        folder: made where it is missing; it grows to the size of the decoded pixels, three bytes each. Several
            processes may share it.

    A folder that cannot be written costs a warning and the decoding.
    """

    def __init__(self, folder: Path):
        self.folder, self.writable = folder, True

    def read(self, path: Path, decode: Callable[[Path], np.ndarray]) -> np.ndarray:
        """What `decode(path)` gives, which may raise; decoders of different names are kept apart."""
        key = sha256(f"{decode.__name__}|{path.resolve()}|{state_here(str(path))}".encode()).hexdigest()
        file = self.folder / key[:2] / f"{key[2:]}.npy"
        try:
            return np.array(open_memmap(file, "r"))  # as large as the file is, whatever its header says
        except (OSError, ValueError):  # none yet, or one that a crash of the machine cut short or emptied
            pixels = decode(path)
        if self.writable:
            self._write(file, pixels)
        return pixels

    def _write(self, file: Path, pixels: np.ndarray) -> None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(file) as target:
                np.save(target, pixels)
        except OSError as error:
            self.writable = False
            _logger.warning(f"--cache {self.folder} cannot be written ({error.strerror}); images are decoded anew")
