"""A photo, read from a file, a PIL image or an array: its pixels, and the digest that stands for it."""

import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from diffiml_plugin.data.formats import holds_several, read_content
from diffiml_plugin.data.images import orientation_of, read_header, read_image, stored_pixels
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.launch import Sample
from diffiml_plugin.models.inputs import Geometry, require_image
from diffiml_plugin.prediction.finding import is_address
from diffiml_plugin.prediction.memory import PassMemory
from diffiml_plugin.prediction.result import arrays_digest

Photo: TypeAlias = str | os.PathLike[str] | Image.Image | npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Photograph:
    """A photo that was read.

    Attributes:
        name: its path; of an array or a PIL image, the start of its digest.
        digest: SHA-256 of the file's bytes, or of the pixels' values, shape and type.
        image: [H, W, 3] uint8 RGB, as it is stored.
        orientation: as EXIF states it, 1 to 8; 1: as it is stored.
        prepared: what the model takes, a batch of one, and the way back; None of a photo that is cut into tiles.
        several: as `Result` has it.
    """

    name: str
    digest: str
    image: npt.NDArray[np.uint8]
    orientation: int
    prepared: tuple[Sample, Geometry] | None = None
    several: bool = False


def read_photograph(photo: object, memory: PassMemory) -> Photograph:
    """A photo, which is refused before it is decoded if `memory` has no room for it; not yet prepared.

    Raises:
        DiffIMLError: neither a path, a PIL image nor an array [H, W, 3] of uint8; a file that cannot be read.
    """
    if isinstance(photo, (str, os.PathLike)):
        if is_address(name := os.fspath(photo)):
            raise DiffIMLError(f"{name} is an address; download the photo, and name its file")
        path = Path(photo)
        read_header(path)  # before the bytes, which may be many: what is no image is refused
        content = read_content(path)
        width, height, orientation = read_header(path, content)
        memory.require_room(width * height, name)
        pixels, several = read_image(path, content), holds_several(path, content)
        return Photograph(name, sha256(content).hexdigest(), pixels, orientation, several=several)
    orientation = 1
    if isinstance(photo, Image.Image):
        memory.require_room(photo.width * photo.height, "the image")
        orientation = orientation_of(photo)
        photo = stored_pixels(photo, "the image")
    if not isinstance(photo, np.ndarray):
        raise DiffIMLError(
            f"a photo is a path, a PIL image or an array [H, W, 3] of uint8, not a {type(photo).__name__}"
        )
    require_image(photo, "the photo")
    memory.require_room(photo.size // 3, "the photo")
    photo = np.array(photo, order="C")  # the caller's may be filled with the next one
    digest = arrays_digest(photo)
    return Photograph(digest[:16], digest, photo, orientation)
