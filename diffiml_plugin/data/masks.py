"""Reads binary masks and label maps from files; a mask that is not black and white is never guessed at."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from diffiml_plugin.data.faults import grey_levels, shape_in_alpha
from diffiml_plugin.data.formats import SUFFIXES
from diffiml_plugin.data.images import decoding, refusal
from diffiml_plugin.data.lists import NEGATIVE, file_identity, read_list
from diffiml_plugin.errors import DiffIMLError

_logger = logging.getLogger(__name__)


def find_masks(source: str | Path) -> list[Path]:
    """The masks of a folder (all images below it) or of a JSON list [[image, mask | "Negative"], ...], each once, by
    whatever links it is reached.

    Raises:
        DiffIMLError: there is none.
    """
    if Path(source).suffix.lower() == ".json":
        masks = [Path(mask) for mask in read_list(source).masks if mask != NEGATIVE]  # images share some
    else:
        masks = sorted(file for file in Path(source).rglob("*") if file.suffix.lower() in SUFFIXES)
    if not masks:
        raise DiffIMLError(
            f"{source} holds no mask; expected a folder of images ({', '.join(SUFFIXES)}) or a JSON "
            "list [[image, mask], ...]"
        )
    return each_file_once(masks)


def each_file_once(files: Iterable[Path]) -> list[Path]:
    """By `file_identity`."""
    return list({file_identity(str(file)): file for file in files}.values())


def read_mask(path: Path, binarise: bool = False) -> np.ndarray:
    """A grey mask of at most two levels, [H, W] uint8 in {0, 1}: 1 where it is not 0.

    Args:
        binarise: cut the mean of other masks' channels at half of their format's range, with a warning that names the
            file.

    Raises:
        DiffIMLError: not readable, with its shape in the alpha channel, or of more levels than two and not `binarise`;
            names the file.
    """
    return read_masks([path], binarise)[0]


def read_masks(paths: Iterable[Path], binarise: bool = False) -> list[np.ndarray]:
    """The masks of many files, each as `read_mask` reads it; one warning counts those that were cut."""
    masks, cut = [], []
    for path in paths:
        mask, told = _binary(path, binarise)
        masks.append(mask)
        if told:
            cut.append(told)
    if cut:
        more = f" (and {len(cut) - 1} more of {len(masks)} masks)" if cut[1:] else ""
        _logger.warning(cut[0] + more)
    return masks


def read_label_map(path: Path) -> np.ndarray:
    """A map [H, W] of integers, one for each region; of a palette image, its indices."""
    with decoding(path) as image:
        labels = np.asarray(image)
        bands = [index for index, band in enumerate(image.getbands()) if band != "A"]
    if labels.dtype.kind not in "bui":
        raise DiffIMLError(f"{path} holds real numbers; expected a grey image of integers")
    labels = labels.reshape(*labels.shape[:2], -1)[..., bands]
    if not _is_grey(labels):
        raise DiffIMLError(f"{path} is coloured; expected a grey image, one integer for each region")
    return labels[..., 0]


def resized(mask: np.ndarray, size: int) -> np.ndarray:
    """The mask as the framework brings it to a square: nearest neighbour, [size, size]."""
    return cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST)


def stacked(masks: Sequence[np.ndarray]) -> np.ndarray:
    """Masks of one size as a batch of maps, [B, 1, H, W] float32."""
    return np.stack(masks)[:, None].astype(np.float32)


def _binary(path: Path, binarise: bool) -> tuple[np.ndarray, str]:
    """The mask of `read_mask`, and if it had to be cut, what it was."""
    with decoding(path) as image:
        if refused := refusal(image):
            raise DiffIMLError(f"{path} {refused}")
        if shape_in_alpha(image, grey_levels(image)) is not None:
            raise DiffIMLError(
                f"{path} has its shape in the alpha channel, which is not read; store it in black and white"
            )
        deep = image.mode.startswith("I")
        levels = np.atleast_3d(np.asarray(image if deep or image.mode in ("1", "L") else image.convert("RGB")))
    values, grey = np.unique(levels), _is_grey(levels)
    if grey and len(values) <= 2 and values[0] == 0:
        return (levels[..., 0] > 0).astype(np.uint8), ""
    top = 1 if levels.dtype == bool else 65535 if deep else 255
    if grey and len(values) == 1 and values[0] == top:
        return np.ones(levels.shape[:2], np.uint8), ""
    told = f"{path} is not binary: {'' if grey else 'coloured, '}{len(values)} levels from {values[0]} to {values[-1]}"
    if not binarise:
        raise DiffIMLError(f"{told}, expected 0 and one other; mend it, or cut it at {top // 2} by --binarise")
    return (levels.mean(2) > top / 2).astype(np.uint8), f"{told}; cut at {top // 2}"


def _is_grey(levels: np.ndarray) -> bool:
    return bool((levels == levels[..., :1]).all())
