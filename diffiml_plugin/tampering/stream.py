"""A stream of tampered images made from clean photographs, and a fixed set of them on disk."""

import functools
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from diffiml_plugin.data.images import SUFFIXES, read_image
from diffiml_plugin.data.masks import read_label_map
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.files import write_text
from diffiml_plugin.framework.imdlbenco import JsonDataset
from diffiml_plugin.tampering.settings import KINDS, REALISTIC, TamperSettings, require_kind
from diffiml_plugin.tampering.tamper import Tampered, jpeg, tamper, with_history

LIST = "list.json"
SYNTH_PREFIX = "synth:"  # --data_path synth:DIR
_MAX_SIDE = 1024  # pixels; inpainting a larger photograph would take longer than a training step


class SyntheticTampering(JsonDataset):
    """The framework's sample dict, from photographs tampered on the fly.

    The host of sample `index` is photograph `index % len(photographs)`, its donor any other one. The rest
    is drawn from numpy's global generator, which `data.SeededDataset` starts from (seed, epoch, index).

    Args:
        photographs: a folder (a `regions` folder beside it, if any, holds label maps, STEM.png), or a list of
            files, whose regions are drawn.
        samples: images per epoch; None means one per photograph.
        kinds: the manipulations to draw from, of `KINDS`.
        authentic: share of the images that are compressed as the others are, but not tampered (label 0, empty mask).
        window: pixels; a random square of at least this side is cut out and shrunk to it before tampering.
            None takes the whole photograph. In either case it is first shrunk to 1024 pixels, where longer.
        framework: what IMDLBenCo's datasets takes: is_resizing, output_size, post_funcs...

    Raises:
        DiffIMLError: fewer than two photographs, an unreadable one, a label map of another size, an unknown kind.
    """

    def __init__(
        self,
        photographs: str | Path | Sequence[Path],
        *,
        samples: int | None = None,
        kinds: Sequence[str] = KINDS,
        authentic: float = 0.1,
        window: int | None = None,
        settings: TamperSettings = REALISTIC,
        **framework,
    ):
        self.photographs, self.regions, longest = _find(photographs)
        self.longest_side = window or min(longest, _MAX_SIDE)  # of an image of the stream, in pixels
        for kind in kinds:
            require_kind(kind)
        self.samples = samples or len(self.photographs)
        self.kinds, self.authentic, self.window, self.settings = tuple(kinds), authentic, window, settings
        super().__init__(photographs, **framework)

    def draw(self, index: int, rng: np.random.Generator) -> Tampered:
        """The image as it would be stored, [H, W, 3] uint8; its kind is "authentic" if it was only compressed."""
        number = index % len(self.photographs)
        host, regions = self._read(number, rng)
        if rng.random() < self.authentic:
            # Compressed as a tampered one is, or the missing compression would give it away.
            image = jpeg(with_history(host, self.settings, rng), self.settings.jpeg_after, rng)
            return Tampered(image, np.zeros(host.shape[:2], np.uint8), "authentic")
        other = (number + rng.integers(1, len(self.photographs))) % len(self.photographs)
        donor, donor_regions = self._read(other, rng)
        return tamper(host, donor, rng, str(rng.choice(self.kinds)), regions, donor_regions, self.settings)

    def _init_dataset_path(self, path) -> tuple[list[str], list[str]]:
        self.entry_path = str(path)
        return [""] * self.samples, [""] * self.samples  # their length is the dataset's

    def _get_image(self, index: int) -> tuple:
        made = self.draw(index, np.random.default_rng(np.random.randint(2**32, size=4, dtype=np.uint64)))
        name, size = self.name(index, made), made.mask.shape[::-1]
        mask = np.repeat(made.mask[..., None] * 255, 3, axis=2)
        return made.image, mask, int(made.kind != "authentic"), size, size, name, name

    def name(self, index: int, made: Tampered) -> str:
        """Its file name: photograph, kind, number."""
        return f"{self.photographs[index % len(self.photographs)].stem}_{made.kind}_{index:06d}.png"

    def _read(self, number: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
        photo, regions = _photograph(self.photographs[number]), self.regions[number]
        height, width = photo.shape[:2]
        if regions is not None:
            regions = cv2.resize(
                read_label_map(regions).astype(np.int32), (width, height), interpolation=cv2.INTER_NEAREST
            )
        if self.window is None:
            return photo, regions
        side = rng.integers(min(self.window, height, width), min(height, width) + 1)
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        cut, size = np.s_[top : top + side, left : left + side], (self.window, self.window)
        photo = cv2.resize(photo[cut], size, interpolation=cv2.INTER_AREA)
        if regions is not None:
            regions = cv2.resize(regions[cut], size, interpolation=cv2.INTER_NEAREST)
        return photo, regions


def write_tampered(stream: SyntheticTampering, folder: Path, seed: int) -> Path:
    """Stores one epoch of `stream` as `Tp/`, `Gt/` (PNG, so the compression traces stay) and `list.json`.

    Files of these names are overwritten, others in the folder stay; the list comes last, and whole.

    Returns:
        the list, `[[image, mask | "Negative"], ...]`, relative to itself.
    """
    pairs = []
    for part in ("Tp", "Gt"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for index in tqdm(range(len(stream)), "tamper", unit="img", leave=False, disable=None):
        made = stream.draw(index, np.random.default_rng((seed, index)))
        name = stream.name(index, made)
        Image.fromarray(made.image).save(folder / "Tp" / name)
        if made.mask.any():
            Image.fromarray(made.mask * 255).save(folder / "Gt" / name)
        pairs.append([f"Tp/{name}", f"Gt/{name}" if made.mask.any() else "Negative"])
    listing = folder / LIST
    write_text(listing, json.dumps(pairs, indent=1))
    return listing


@functools.lru_cache(maxsize=16)  # the demo's handful is decoded once; of a large folder little is held
def _photograph(path: Path) -> np.ndarray:
    photo = read_image(path)
    scale = min(1, _MAX_SIDE / max(photo.shape))
    return cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _find(photographs: str | Path | Sequence[Path]) -> tuple[list[Path], list[Path | None], int]:
    """The photographs, the label map of each or None, and the longest side of all in pixels."""
    if isinstance(photographs, (str, Path)):
        folder = Path(photographs)
        if not folder.is_dir():
            raise DiffIMLError(f"{folder} is not a folder of photographs")
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
        maps = [folder.parent / "regions" / f"{file.stem}.png" for file in files]
    else:
        files, maps = [Path(file) for file in photographs], [None] * len(photographs)
    if len(files) < 2:
        raise DiffIMLError(f"{photographs} holds {len(files)} photographs; a splice needs at least two")
    regions = [file if file and file.is_file() else None for file in maps]
    longest = 0
    for photo, region in zip(files, regions, strict=True):
        sizes = [_size(file) for file in (photo, region) if file]
        if len(set(sizes)) > 1:
            raise DiffIMLError(
                f"{region} is {sizes[1][0]}x{sizes[1][1]} pixels, its photograph {photo.name} "
                f"{sizes[0][0]}x{sizes[0][1]}; make the label map anew or remove it"
            )
        longest = max(longest, *sizes[0])
    return files, regions, longest


def _size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.size
    except OSError as error:
        raise DiffIMLError(f"{path} is not a readable image ({error}); replace or remove it") from error
