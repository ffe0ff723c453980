"""What a LightVAE is trained and validated on, from the sources that a user names."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from diffiml_plugin.codec.drawn_masks import MaskMixture, synthetic_mask
from diffiml_plugin.data.masks import each_file_once, find_masks, read_label_map, read_masks
from diffiml_plugin.errors import DiffIMLError

SYNTHETIC = "synthetic"
_HELD_OUT = 10  # every tenth mask, where no validation set is named
_DRAWN = 64  # masks to validate on where none come from files


def read_sources(
    sources: Sequence[str], label_maps: str | None = None, val_masks: str | None = None, binarise: bool = False
) -> tuple[MaskMixture, list[np.ndarray], str]:
    """Reads everything into memory, each file once, under a progress bar.

    Args:
        sources: folders or JSON lists of masks, and "synthetic".
        label_maps: a folder of maps of regions.
        val_masks: a folder or JSON list of masks to validate on, of which none is trained on.

    Returns:
        what training draws from; masks to validate on; a line that says what the data are.

    Raises:
        DiffIMLError: a source without masks, or a file that is not a binary mask (see `data.masks.read_mask`).
    """
    training = (file for source in sources if source != SYNTHETIC for file in find_masks(source))
    validating = find_masks(val_masks) if val_masks else []
    files = each_file_once([*validating, *training])[len(validating) :]  # what is held out must not be trained on
    masks = read_masks(_under_bar(files), binarise)
    if validating:
        held_out = read_masks(_under_bar(validating), binarise)
    elif masks:
        held_out, masks = masks[::_HELD_OUT], [mask for index, mask in enumerate(masks) if index % _HELD_OUT]
    else:
        rng = np.random.default_rng(2**32 - 1)  # a stream that no training seed starts
        held_out = [synthetic_mask(512, rng) for _ in range(_DRAWN)]
    maps = [read_label_map(file) for file in _under_bar(find_masks(label_maps))] if label_maps else []
    synthetic = SYNTHETIC in sources
    if not (masks or maps or synthetic):
        raise DiffIMLError(f"--masks {' '.join(sources)} leaves no mask to train on; name more, or add `synthetic`")
    parts = [f"{len(masks)} masks from files"] * bool(masks) + [f"{len(maps)} label maps"] * bool(maps)
    described = ", ".join(parts + ["synthetic masks"] * synthetic)
    return MaskMixture(masks, maps, synthetic), held_out, described


def _under_bar(files: Sequence[Path]) -> Iterable[Path]:
    return tqdm(files, "reading masks", unit="mask", leave=False, disable=None)
