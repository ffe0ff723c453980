"""A folder of authentic photographs with their label maps: looked at once, decoded once, kept in memory."""

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from diffiml_plugin.data.examined import content_digest, digest_of, in_parallel, in_turn
from diffiml_plugin.data.formats import SUFFIXES, opening
from diffiml_plugin.data.images import read_image
from diffiml_plugin.data.masks import read_label_map
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.tampering.cutting import Labelled, labelled_objects
from diffiml_plugin.tampering.history import Tables

_logger = logging.getLogger(__name__)
_TINY = 32  # pixels; a photograph with a shorter side is left out
_HELD = 4 << 30  # bytes of decoded photographs that are kept; loader processes share them


@dataclass(frozen=True)
class _Photograph:
    file: Path
    image: np.ndarray | None  # None: not kept
    size: tuple[int, int]  # width and height as stored, in pixels
    labels: np.ndarray | None
    tables: Tables | None


class Photographs:
    """Photographs by number, in the order of their names, each shrunk to `longest_side` pixels where it is longer.

    Args:
        source: a folder (a `regions` folder beside it, if any, holds label maps, STEM.png), or a list of files, which
            have no label maps.

    Attributes:
        files: the photographs that can be used. What is broken, tiny, or has a label map that is none is named in a
            warning and left out.
        with_labels: the numbers of those that have a label map.
        tables: the different quantisation tables of the JPEGs among them.
        longest_side: of a photograph, in pixels.

    Raises:
        DiffIMLError: fewer than two photographs, or a label map of another size than its photograph, or of two.
    """

    def __init__(self, source: str | Path | Sequence[Path], longest_side: int):
        files, maps = listed(source)
        self._limit, self._held = longest_side, 0
        self._objects: dict[int, list[Labelled]] = {}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            look = in_turn(lambda pair: self._look(*pair))
            looked_at = list(pool.map(look, zip(files, maps, strict=True)))
        for problem in (item for item in looked_at if isinstance(item, str)):
            _logger.warning(f"{problem}; left out")
        self._photographs = [item for item in looked_at if isinstance(item, _Photograph)]
        self.files = [photograph.file for photograph in self._photographs]
        self._sources = [*files, *filter(None, maps)]
        if len(self.files) < 2:
            raise DiffIMLError(f"{source} holds {len(self.files)} photographs; a splice needs at least two")
        self.with_labels = [number for number, item in enumerate(self._photographs) if item.labels is not None]
        self.tables = sorted({photograph.tables for photograph in self._photographs if photograph.tables})
        self.longest_side = min(longest_side, max(max(photograph.size) for photograph in self._photographs))

    def __len__(self) -> int:
        return len(self.files)

    @cached_property
    def digest(self) -> str:
        """Of the files and their label maps, names and bytes."""
        return contents_digest(self._sources)

    def read(self, number: int) -> np.ndarray:
        """[H, W, 3] uint8 RGB, shared: not to be changed."""
        image = self._photographs[number].image
        return self._shrunk(read_image(self.files[number])) if image is None else image

    def labels(self, number: int) -> np.ndarray | None:
        """The label map [H, W] of integers, one for each region and 0 for none; None where there is no map."""
        return self._photographs[number].labels

    def objects(self, number: int) -> list[Labelled]:
        """The objects of the label map, none where there is no map."""
        if number not in self._objects:
            labels = self.labels(number)
            self._objects[number] = [] if labels is None else labelled_objects(labels)
        return self._objects[number]

    def _look(self, file: Path, map_file: Path | None) -> "_Photograph | str":
        """The photograph, or what is wrong with it."""
        try:
            image = read_image(file)
            labels = read_label_map(map_file) if map_file else None
            tables = _tables(file)
        except Exception as error:  # of this one file, whatever it is
            return str(error) if isinstance(error, DiffIMLError) else f"{file} cannot be read ({error!r})"
        height, width = image.shape[:2]
        if min(height, width) < _TINY:
            return f"{file} is {width}x{height} pixels, expected {_TINY} or more each way"
        if labels is not None and labels.shape != (height, width):
            raise DiffIMLError(
                f"{map_file} is {labels.shape[1]}x{labels.shape[0]} pixels, its photograph {file.name} "
                f"{width}x{height}; make the label map anew or remove it"
            )
        image = self._shrunk(image)
        if labels is not None:
            labels = cv2.resize(labels.astype(np.int32), image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
            labels = labels.astype(np.uint8) if 0 <= labels.min() and labels.max() < 256 else labels
        self._held += image.nbytes
        return _Photograph(file, image if self._held <= _HELD else None, (width, height), labels, tables)

    def _shrunk(self, image: np.ndarray) -> np.ndarray:
        scale = min(1, self._limit / max(image.shape))
        return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def contents_digest(files: Sequence[str | Path]) -> str:
    """A digest of the files' names and bytes, wherever they lie."""
    return digest_of([*zip(map(os.path.basename, files), in_parallel(content_digest, files, "looking"), strict=True)])


def listed(source: str | Path | Sequence[Path]) -> tuple[list[Path], list[Path | None]]:
    """The photographs of `Photographs`, and the label map of each or None.

    Raises:
        DiffIMLError: it is no folder, or two photographs have the name of one map.
    """
    if not isinstance(source, (str, Path)):
        return [Path(file) for file in source], [None] * len(source)
    folder = Path(source)
    if not folder.is_dir():
        raise DiffIMLError(f"{folder} is not a folder of photographs")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
    maps = [folder.parent / "regions" / f"{file.stem}.png" for file in files]
    owners: dict[Path, Path] = {}
    for file, map_file in zip(files, maps, strict=True):
        if (owner := owners.setdefault(map_file, file)) != file and map_file.is_file():
            raise DiffIMLError(
                f"{map_file} has the name of two photographs, {owner.name} and {file.name}; rename or remove the one "
                "that it is not of"
            )
    return files, [file if file.is_file() else None for file in maps]


def _tables(file: Path) -> Tables | None:
    """A JPEG's quantisation tables of luma and chroma, None of other formats."""
    with opening(file) as image:
        tables = getattr(image, "quantization", None)
    return tuple(tuple(tables[key]) for key in sorted(tables))[:2] if tables else None
