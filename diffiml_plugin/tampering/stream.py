"""A stream of tampered images made from clean photographs, and a fixed set of them on disk."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from diffiml_plugin.data.examined import digest_of
from diffiml_plugin.data.pairs import PairsDataset
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.files import beginning, inside, write_picture, write_text
from diffiml_plugin.models.inputs import Inputs
from diffiml_plugin.tampering.photographs import Photographs
from diffiml_plugin.tampering.settings import KINDS, LARGEST_WINDOW, REALISTIC, TamperSettings
from diffiml_plugin.tampering.styles import Style, require_kinds, restricted
from diffiml_plugin.tampering.tamper import Tampered, jpeg, tamper, with_history
from diffiml_plugin.tampering.world import draw_picture

LIST = "list.json"
_MOST = 10_000_000  # images of an epoch: their list takes 0.2 GB
_MAX_SIDE = 1024  # pixels; inpainting a larger photograph would take longer than a training step
_MAX_SIDE_OF_STYLES = 2048  # pixels; styles inpaint small boxes alone


class SyntheticTampering(PairsDataset):
    """The framework's sample dict, from photographs tampered on the fly.

    The host of image `index` is photograph `index % len(photographs)`, in styles after a fixed shuffle, so that a few
    images come from all sources; its donor is any other one. The rest is drawn from numpy's global generator, which
    `data.order.SeededDataset` starts from (seed, epoch, index). Where there are fewer samples than photographs, it also
    says which of the images `index`, `index + samples`, ... a sample is: in time all of the photographs are hosts.

    Args:
        photographs: a folder (a `regions` folder beside it, if any, holds label maps, STEM.png), or a list of
            files, whose regions are drawn.
        inputs, transform, post, normalised: as `PairsDataset` takes them.
        samples: images per epoch; None means one per photograph.
        kinds: the manipulations to draw from: of `settings.KINDS`, or of `styles.KINDS` where there are styles. None
            draws from all of the former, or in the proportions of each style.
        authentic: share of the images that are compressed as the others are, but not tampered (label 0, empty mask).
        window: pixels, the side of the square that is made. Of settings, a random square of at least this side is cut
            out and shrunk to it before tampering. None takes the whole photograph.
        settings: ranges for `tamper`, which shrinks photographs to 1024 pixels where they are longer; or styles by
            name for `draw_picture`.

    Raises:
        DiffIMLError: as `Photographs` does; an unknown kind; more than 10 million images.
    """

    def __init__(
        self,
        photographs: str | Path | Sequence[Path],
        inputs: Inputs,
        transform: Any = None,
        post: Callable[[dict], None] | None = None,
        normalised: bool = True,
        *,
        samples: int | None = None,
        kinds: Sequence[str] | None = None,
        authentic: float = 0.1,
        window: int | None = None,
        settings: TamperSettings | Mapping[str, Style] = REALISTIC,
    ):
        if window is not None and not 1 <= window <= LARGEST_WINDOW:
            raise DiffIMLError(f"a window of {window} pixels is not made; expected 1 to {LARGEST_WINDOW}")
        self.authentic, self.window = authentic, window
        self.settings: TamperSettings | list[Style]
        if isinstance(settings, TamperSettings):
            self.settings, self.kinds = settings, tuple(kinds or KINDS)
            require_kinds(self.kinds, KINDS)
        else:
            self.settings = [restricted(style, kinds) if kinds else style for style in settings.values()]
        in_styles = not isinstance(settings, TamperSettings)
        self.photographs = Photographs(photographs, _MAX_SIDE_OF_STYLES if in_styles else _MAX_SIDE)
        count = len(self.photographs)
        self.hosts = np.random.default_rng(0).permutation(count) if in_styles else np.arange(count)
        self.longest_side = window or self.photographs.longest_side  # of an image of the stream, in pixels
        self.samples = samples or len(self.photographs)
        if self.samples > _MOST:
            raise DiffIMLError(f"{self.samples} images are not made at a time; expected {_MOST} at most")
        super().__init__(photographs, inputs, transform, post, normalised)

    @cached_property
    def made_of(self) -> str:
        """A digest of the photographs, their label maps, and the settings that are not as by default."""
        return digest_of([self.photographs.digest, _chosen(self.settings)])

    def draw(self, index: int, rng: np.random.Generator) -> Tampered:
        """The image as it would be stored, [H, W, 3] uint8; its kind is "authentic" if it was not tampered."""
        number = self._host(index)
        if isinstance(self.settings, TamperSettings):
            return self._tampered(number, self.settings, rng)
        weights = np.array([style.weight for style in self.settings])
        style = self.settings[rng.choice(len(weights), p=weights / weights.sum())]
        return draw_picture(self.photographs, number, style, rng, rng.random() >= self.authentic, self.window)

    def _tampered(self, number: int, settings: TamperSettings, rng: np.random.Generator) -> Tampered:
        host, regions = self._cut_out(number, rng)
        if rng.random() < self.authentic:
            # Compressed as a tampered one is, or the missing compression would give it away.
            image = jpeg(with_history(host, settings, rng), settings.jpeg_after, rng)
            return Tampered(image, np.zeros(host.shape[:2], np.uint8), "authentic")
        other = (number + rng.integers(1, len(self.photographs))) % len(self.photographs)
        donor, donor_regions = self._cut_out(other, rng)
        return tamper(host, donor, rng, str(rng.choice(self.kinds)), regions, donor_regions, settings)

    def _init_dataset_path(self, path: Any) -> tuple[list[str], list[str]]:
        self.entry_path = str(path)
        return [""] * self.samples, [""] * self.samples  # their length is the dataset's

    def _get_image(self, index: int) -> tuple:
        rng = np.random.default_rng(np.random.randint(2**32, size=4, dtype=np.uint64))
        index += self.samples * int(rng.integers(-(-len(self.hosts) // self.samples)))
        tampered = self.draw(index, rng)
        mask = tampered.mask[..., None] * 255
        return tampered.image, mask, int(tampered.kind != "authentic"), self.name(index, tampered), []

    def name(self, index: int, tampered: Tampered) -> str:
        """Its file name: photograph, kind, number."""
        return f"{beginning(self.photographs.files[self._host(index)].stem)}_{tampered.kind}_{index:06d}.png"

    def _host(self, index: int) -> int:
        return int(self.hosts[index % len(self.hosts)])

    def _cut_out(self, number: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
        photo, regions = self.photographs.read(number), self.photographs.labels(number)
        if self.window is None:
            return photo, regions
        height, width = photo.shape[:2]
        side = rng.integers(min(self.window, height, width), min(height, width) + 1)
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        cut, size = np.s_[top : top + side, left : left + side], (self.window, self.window)
        photo = cv2.resize(photo[cut], size, interpolation=cv2.INTER_AREA)
        if regions is not None:
            regions = cv2.resize(regions[cut], size, interpolation=cv2.INTER_NEAREST)
        return photo, regions


def _chosen(settings: Any) -> Any:
    """What settings say that their defaults do not, so that a version with more of them says the same."""
    if is_dataclass(settings):
        kind: Any = type(settings)
        values = {field.name: getattr(settings, field.name) for field in fields(settings)}
        return {name: _chosen(value) for name, value in values.items() if value != getattr(kind(), name)}
    return [*map(_chosen, settings)] if isinstance(settings, list | tuple) else settings


def write_tampered(stream: SyntheticTampering, folder: Path, seed: int) -> Path:
    """Stores one epoch of `stream` as `Tp/`, `Gt/` (PNG, so the compression traces stay) and `list.json`.

    The list comes last, and whole.

    Returns:
        the list, `[[image, mask, kind] | [image, "Negative"], ...]`, relative to itself.
    """
    pairs = []
    for part in ("Tp", "Gt"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for index in tqdm(range(len(stream)), "tamper", unit="img", leave=False, disable=None):
        tampered = stream.draw(index, np.random.default_rng((seed, index)))
        name = stream.name(index, tampered)
        write_picture(inside(folder, f"Tp/{name}"), tampered.image)
        if tampered.mask.any():
            write_picture(inside(folder, f"Gt/{name}"), tampered.mask * 255)
        pairs.append([f"Tp/{name}", f"Gt/{name}", tampered.kind] if tampered.mask.any() else [f"Tp/{name}", "Negative"])
    listing = folder / LIST
    write_text(listing, json.dumps(pairs, indent=1))
    return listing
