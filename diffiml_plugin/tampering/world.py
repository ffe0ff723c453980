"""Pictures as the world has them: a photograph with a past, tampered or not, and what happens to it afterwards."""

from collections.abc import Iterable

import cv2
import numpy as np

from diffiml_plugin.tampering.cutting import (
    MARGIN,
    Cut,
    Labelled,
    box_of,
    drawn_shape,
    grown,
    lassoed,
    snapped,
    with_margin,
)
from diffiml_plugin.tampering.filling import filled
from diffiml_plugin.tampering.history import GRID, draw_stages, needed, resize, run_stages
from diffiml_plugin.tampering.lettering import strokes_region, word
from diffiml_plugin.tampering.pasting import draw_warp, paste, recoloured, warped
from diffiml_plugin.tampering.photographs import Photographs
from diffiml_plugin.tampering.styles import Style
from diffiml_plugin.tampering.tamper import Tampered

_ATTEMPTS = 4  # for a region that shows, and for stages that suit a photograph's size
_ENLARGED = 1.6  # a photograph's or an object's sides are not enlarged by more, if it can be helped


def draw_picture(
    photographs: Photographs,
    number: int,
    style: Style,
    rng: np.random.Generator,
    tampered: bool,
    window: int | None = None,
) -> Tampered:
    """One picture of a stream; of its `kind` several make "mixed".

    Args:
        number: the photograph to start from.
        window: pixels, the side of the square that is made; None makes the whole picture, at a size of its own.
    """
    height, width = (window, window) if window else _whole_size(photographs.read(number).shape, rng)
    for _ in range(_ATTEMPTS):
        before, after = draw_stages(style.before, rng), draw_stages(style.after, rng)
        size = needed(after, height, width)
        if _cover(needed(before, *size), photographs.read(number)) <= _ENLARGED:  # a small one is not shrunk as well
            break
    host, labels = _view(photographs, number, needed(before, *size), bool(window), style, rng)
    host, labels = run_stages(before, host, labels, photographs.tables, rng)
    host, labels = np.ascontiguousarray(host[: size[0], : size[1]]), labels[: size[0], : size[1]]
    mask, kinds = np.zeros(size, np.uint8), set()
    if tampered:
        scene = _Scene(photographs, number, style, host, labels, rng)
        for _ in range(1 + rng.choice(len(style.objects), p=_shares(style.objects))):
            kind = str(rng.choice(list(style.kinds), p=_shares(style.kinds.values())))
            region = scene.tamper(kind)
            mask |= region
            kinds |= {kind} if region.any() else set()
    image, mask = run_stages(after, host, mask, photographs.tables, rng)
    image, mask = image[:height, :width], np.ascontiguousarray(mask[:height, :width])
    kind = "authentic" if not mask.any() else kinds.pop() if len(kinds) == 1 else "mixed"
    return Tampered(np.ascontiguousarray(image), mask, kind)


class _Scene:
    """A picture that is being tampered: `host` changes in place."""

    def __init__(
        self,
        photographs: Photographs,
        number: int,
        style: Style,
        host: np.ndarray,
        labels: np.ndarray,
        rng: np.random.Generator,
    ):
        self.photographs, self.number, self.style = photographs, number, style
        self.host, self.labels, self.rng = host, labels, rng

    def tamper(self, kind: str) -> np.ndarray:
        """Tampers once; the region [H, W] uint8 {0, 1}, empty if nothing that shows came of it."""
        region = np.zeros(self.host.shape[:2], np.uint8)
        for _ in range(_ATTEMPTS):
            pixels = self._pixels()
            region = getattr(self, f"_{kind}")(pixels)
            if region.any():
                break
        return region

    def _pixels(self) -> float:
        """How many pixels a region has: log-uniform within the style's small or other areas."""
        area = self.style.small_area if self.rng.random() < self.style.small else self.style.area
        return float(np.exp(self.rng.uniform(*np.log(area)))) * self.host[..., 0].size

    def _splice(self, pixels: float) -> np.ndarray:
        warp = draw_warp(self.style, self.rng)
        cut = self._from_photograph(pixels / warp.scale**2)
        if not cut.region.any():  # too thin to be seen at this size
            return np.zeros(self.host.shape[:2], np.uint8)
        cut = self._trimmed(cut)
        cut = recoloured(warped(cut, warp, self.rng), self.host, self.style, self.rng)
        return paste(self.host, cut, self.style, self.rng)

    def _copy_move(self, pixels: float) -> np.ndarray:
        warp = draw_warp(self.style, self.rng)
        region = self._region_of_host(min(pixels, 0.25 * self.host[..., 0].size) / warp.scale**2)
        box = with_margin(box_of(region), region.shape)
        middle = tuple((part.start + part.stop) / 2 for part in (box[1], box[0]))
        cut = self._trimmed(Cut(self.host[box].copy(), region[box], middle))
        cut = warped(cut, warp, self.rng)
        if self.rng.random() < 0.25:
            cut = recoloured(cut, self.host, self.style, self.rng)
        return paste(self.host, cut, self.style, self.rng, away=True)

    def _removal(self, pixels: float) -> np.ndarray:
        region = grown(self._region_of_host(min(pixels, 0.2 * self.host[..., 0].size)), int(self.rng.integers(0, 4)))
        content = filled(self.host, region, self.rng)
        if cv2.norm(content, self.host, cv2.NORM_L1, region) < self.style.least_change * 3 * region.sum():
            return np.zeros_like(region)
        self.host[:] = content
        return region

    def _text(self, pixels: float) -> np.ndarray:
        height = int(np.clip(np.sqrt(min(pixels, 0.05 * self.host[..., 0].size) / 2.5), 7, 80))
        opacity = np.pad(word(height, self.rng), MARGIN)
        grey = (0, 255, None)[self.rng.choice(3)] if self.rng.random() < 0.7 else None
        colour = self.rng.integers(0, 256, 3) if grey is None else np.full(3, grey)
        letters = Cut((np.zeros((*opacity.shape, 3)) + colour).astype(np.uint8), strokes_region(opacity))
        return self._written(letters, opacity)

    def _written(self, letters: Cut, opacity: np.ndarray) -> np.ndarray:
        region = np.zeros(self.host.shape[:2], np.uint8)
        room = np.array(region.shape) - opacity.shape
        if (room <= 0).any():
            return region
        top, left = self.rng.integers(room)
        box = np.s_[top : top + opacity.shape[0], left : left + opacity.shape[1]]
        if cv2.norm(self.host[box], letters.image, cv2.NORM_L1, letters.region) < 60 * letters.region.sum():
            return region  # not to be read
        opacity = opacity * self.rng.uniform(0.75, 1)
        self.host[box] = cv2.blendLinear(letters.image, np.ascontiguousarray(self.host[box]), opacity, 1 - opacity)
        region[box] = letters.region
        return region

    def _region_of_host(self, pixels: float) -> np.ndarray:
        """A region of the picture, of an object in it or drawn and moved to edges: [H, W] uint8 {0, 1}, not empty."""
        if self.labels.any() and self.rng.random() < self.style.labelled:
            values = np.bincount(self.labels.ravel())
            values[0] = 0
            fit = np.flatnonzero((values >= max(60, 0.3 * pixels)) & (values <= 4 * pixels))
            if len(fit):
                return (self.labels == self.rng.choice(fit)).astype(np.uint8)
        region = np.zeros(self.host.shape[:2], np.uint8)
        shape = drawn_shape(pixels, region.shape, self.rng)
        top, left = self.rng.integers(np.array(region.shape) - shape.shape + 1)
        region[top : top + shape.shape[0], left : left + shape.shape[1]] = shape
        if self.rng.random() < 0.5:
            box = with_margin(box_of(region), region.shape, MARGIN + int(0.3 * np.sqrt(pixels)))
            region[box] = snapped(self.host[box], region[box])
        return region

    def _trimmed(self, cut: Cut) -> Cut:
        """The object as it was cut out by hand: roughly at times, with a little of its background or without."""
        region = lassoed(cut.region, self.rng) if self.rng.random() < self.style.lasso else cut.region
        low, high = self.style.halo
        region = grown(region, int(self.rng.integers(low, high + 1)))
        return Cut(cut.image, region if region.any() else cut.region, cut.centre)

    def _from_photograph(self, pixels: float) -> Cut:
        """An object of another photograph, of about so many pixels, with a past of its own."""
        along_labels = self.rng.random() < self.style.labelled
        donors = (self.photographs.with_labels if along_labels else ()) or range(len(self.photographs))
        number = donors[self.rng.integers(len(donors))]
        if number == self.number:
            number = (number + 1) % len(self.photographs)
        objects = self.photographs.objects(number) if along_labels else []
        if objects:
            image, region = self._labelled(number, objects[self.rng.integers(len(objects))], pixels)
        else:
            image, region = self._drawn(number, pixels)
        past = draw_stages(self.style.before, self.rng, whole=False)
        return Cut(*run_stages(past, image, region, self.photographs.tables, self.rng))

    def _labelled(self, number: int, item: Labelled, pixels: float) -> tuple[np.ndarray, np.ndarray]:
        """An object of a label map and its region, scaled to about so many pixels."""
        photo, labels = self.photographs.read(number), self.photographs.labels(number)
        assert labels is not None  # `item` is from there
        scale = float(np.clip(np.sqrt(pixels / item.pixels), 0.05, _ENLARGED))
        box = with_margin(item.box, photo.shape, int(np.ceil(MARGIN / scale)))
        region = (labels[box] == item.value).astype(np.uint8)
        size = tuple(max(8, round(side * scale)) for side in region.shape[::-1])
        image = resize(np.ascontiguousarray(photo[box]), size, self.rng)
        region = cv2.resize(region * np.uint8(255), size, interpolation=cv2.INTER_AREA) > 127
        return image, region.astype(np.uint8)

    def _drawn(self, number: int, pixels: float) -> tuple[np.ndarray, np.ndarray]:
        """A piece of a photograph and a drawn shape of about so many pixels in it, often moved to its edges."""
        photo = self.photographs.read(number)
        scale = _scale(_cover(self.host.shape, photo), self.style, self.rng)
        limits = tuple(int(side * scale) - 2 * MARGIN - 2 for side in photo.shape[:2])
        region = np.pad(drawn_shape(pixels, limits, self.rng), MARGIN)
        box = _box(photo, scale, region.shape, self.rng)
        image = resize(np.ascontiguousarray(photo[box]), region.shape[::-1], self.rng)
        return image, snapped(image, region) if self.rng.random() < 0.6 else region


def _view(
    photographs: Photographs,
    number: int,
    size: tuple[int, int],
    window: bool,
    style: Style,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """A part of a photograph, or all of it, at `size` (height, width), and its label map, 0 where there is none."""
    photo, labels = photographs.read(number), photographs.labels(number)
    cover = _cover(size, photo)
    box = _box(photo, _scale(cover, style, rng) if window else cover, size, rng)
    image = resize(np.ascontiguousarray(photo[box]), size[::-1], rng)
    if labels is None:
        return image, np.zeros(size, np.uint8)
    return image, cv2.resize(labels[box], size[::-1], interpolation=cv2.INTER_NEAREST)


def _box(photo: np.ndarray, scale: float, size: tuple[int, ...], rng: np.random.Generator) -> tuple[slice, slice]:
    """A place in `photo` that has `size` (height, width) once it is scaled."""
    box = []
    for extent, wanted in zip(photo.shape, size, strict=False):
        side = min(extent, int(np.ceil(wanted / scale)))
        start = int(rng.integers(extent - side + 1))
        start -= start % GRID if scale == 1 else 0  # on the grid of its own compression
        box.append(slice(start, start + side))
    return box[0], box[1]


def _cover(size: tuple[int, ...], photo: np.ndarray) -> float:
    """By how much `photo` is scaled when it just covers `size`, height and width."""
    return max(wanted / side for wanted, side in zip(size, photo.shape[:2], strict=False))


def _scale(cover: float, style: Style, rng: np.random.Generator) -> float:
    """By how much a photograph is scaled, if `cover` makes it just as large as is needed."""
    if cover <= 1 and rng.random() < style.native:
        return 1.0
    scale = cover ** (1 - rng.uniform(*style.zoom)) if cover < 1 else cover
    return scale * (rng.uniform(1, 1.5) if rng.random() < style.enlarged else 1.0)


def _whole_size(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[int, int]:
    """Height and width of a whole picture: 0.1 to 3 megapixels, log-uniform, the photograph's sides at most doubled."""
    area = shape[0] * shape[1]
    most = min(3e6, 4 * area)
    pixels = np.exp(rng.uniform(np.log(min(1e5, most)), np.log(most)))
    return round(shape[0] * np.sqrt(pixels / area)), round(shape[1] * np.sqrt(pixels / area))


def _shares(weights: Iterable[float]) -> np.ndarray:
    shares = np.array(list(weights), float)
    return shares / shares.sum()
