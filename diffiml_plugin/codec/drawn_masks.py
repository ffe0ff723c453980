"""Masks of many kinds to train a mask autoencoder on: drawn here, read from files, cut from label maps."""

from collections.abc import Sequence

import cv2
import numpy as np

from diffiml_plugin.tampering.regions import drawn_region

_WHITE = (1,)  # what shapes are drawn with


def smooth_noise(size: int, cell: float, rng: np.random.Generator) -> np.ndarray:
    """Noise [size, size], smooth over about `cell` pixels, of zero mean and unit deviation."""
    count = max(4, round(size / cell) + 3)
    noise = cv2.resize(rng.standard_normal((count, count)), (size, size), interpolation=cv2.INTER_CUBIC)
    return (noise - noise.mean()) / noise.std()


def blob(size: int, rng: np.random.Generator) -> np.ndarray:
    """Object-like shapes, ragged ones too: smooth noise of two scales above a threshold."""
    rough = rng.choice([0, 0.1, 0.3])
    field = smooth_noise(size, size / rng.uniform(1, 5), rng) + rough * smooth_noise(size, rng.uniform(4, 24), rng)
    return (field > rng.uniform(-0.5, 1.5)).astype(np.uint8)


def islands(size: int, rng: np.random.Generator) -> np.ndarray:
    """Many small islands, or with equal odds a region full of small holes."""
    field = smooth_noise(size, rng.uniform(8, 40), rng)
    mask = (field > rng.uniform(1, 2)).astype(np.uint8)
    return mask if rng.random() < 0.5 else blob(size, rng) & (1 - mask)


def polygons(size: int, rng: np.random.Generator) -> np.ndarray:
    """One to four polygons, ellipses or blobs, with holes, often cut by the border."""
    mask: np.ndarray = np.zeros((2 * size, 2 * size), np.uint8)
    for index in range(rng.integers(1, 5)):
        area = (0.002, 0.2) if index else (0.02, 0.3)
        shape = drawn_region(2 * size, 2 * size, area, rng)
        mask = mask & (1 - shape) if index and rng.random() < 0.4 else mask | shape
    scale = rng.choice([1, 2])  # whole, or a window of it
    top, left = rng.integers(0, 2 * size - scale * size + 1, 2)
    window = mask[top : top + scale * size, left : left + scale * size]
    return cv2.resize(window, (size, size), interpolation=cv2.INTER_NEAREST)


def rectangles(size: int, rng: np.random.Generator) -> np.ndarray:
    """Upright or tilted rectangles of any proportion."""
    mask = np.zeros((size, size), np.uint8)
    for _ in range(rng.integers(1, 5)):
        sides = np.exp(rng.uniform(np.log(4), np.log(0.7 * size), 2))
        tilt = rng.choice([0.0, rng.uniform(0, 90)])
        box = cv2.boxPoints((tuple(rng.uniform(0, size, 2)), tuple(sides), tilt))
        cv2.fillPoly(mask, [box.round().astype(np.int32)], _WHITE)
    return mask


def strokes(size: int, rng: np.random.Generator) -> np.ndarray:
    """Thin structures: winding lines of one to twelve pixels."""
    mask = np.zeros((size, size), np.uint8)
    for _ in range(rng.integers(1, 8)):
        steps = rng.normal(0, rng.uniform(1, 6), (60, 2)).cumsum(axis=0) + rng.normal(0, 4, 2)
        path = rng.uniform(0, size, 2) + steps.cumsum(axis=0) * 0.3
        cv2.polylines(mask, [path.round().astype(np.int32)], rng.random() < 0.1, _WHITE, int(rng.integers(1, 13)))
    return mask


def text(size: int, rng: np.random.Generator) -> np.ndarray:
    """Lines of letters and digits in OpenCV's fonts."""
    mask = np.zeros((size, size), np.uint8)
    for _ in range(rng.integers(1, 6)):
        word = "".join(chr(code) for code in rng.integers(48, 123, rng.integers(1, 12)))
        scale = rng.uniform(0.6, 5)
        cv2.putText(
            mask,
            word,
            (int(rng.integers(-20, size // 2)), int(rng.integers(0, size + 20))),
            int(rng.integers(0, 8)),
            scale,
            _WHITE,
            max(1, round(scale * rng.uniform(1, 4))),
        )
    return mask


def constant(size: int, rng: np.random.Generator) -> np.ndarray:
    """An empty mask, or one time in three a full one."""
    return np.full((size, size), rng.random() < 1 / 3, np.uint8)


KINDS = {blob: 0.3, islands: 0.14, polygons: 0.2, rectangles: 0.1, strokes: 0.12, text: 0.1, constant: 0.04}


def synthetic_mask(size: int, rng: np.random.Generator) -> np.ndarray:
    """A mask of a random kind of KINDS, [size, size] uint8 in {0, 1}."""
    kinds = list(KINDS)
    return kinds[rng.choice(len(kinds), p=list(KINDS.values()))](size, rng)


def region_union(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One to four random regions of a label map [H, W] of integers from 0 on, together: {0, 1} uint8."""
    values = np.flatnonzero(np.bincount(labels.ravel()))
    chosen = np.zeros(values[-1] + 1, np.uint8)  # a table: seven times as fast as np.isin
    chosen[rng.choice(values, min(len(values), rng.integers(1, 5)), replace=False)] = 1
    return chosen[labels]


def varied(mask: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A [size, size] window of `mask`: mirrored, and either stretched to the square or turned and scaled.

    Both kinds of pixel edges occur: the stairs of nearest-neighbour resizing, as the framework does it, and
    smooth ones.
    """
    mask = mask[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]
    if rng.random() < 0.5:
        mask = mask.T
    height, width = mask.shape
    scale = np.exp(rng.uniform(np.log(0.7), np.log(3)))
    stretch = np.exp(rng.uniform(-0.45, 0.45))
    across, down = scale * np.sqrt(stretch), scale / np.sqrt(stretch)
    turn = rng.uniform(-np.pi, np.pi) if rng.random() < 0.3 else 0.0
    linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ np.diag([across, down])
    rows, columns = np.nonzero(mask)
    pick = rng.integers(len(rows)) if len(rows) else None
    centre = np.array([columns[pick], rows[pick]]) if len(rows) else np.array([width / 2, height / 2])
    shift = rng.uniform(0.1, 0.9, 2) * size - linear @ centre  # a pixel of the region lies in the window
    flags = cv2.INTER_NEAREST if rng.random() < 0.6 else cv2.INTER_LINEAR
    warped = cv2.warpAffine(
        np.ascontiguousarray(mask) * np.uint8(255),
        np.column_stack([linear, shift]),
        (size, size),
        flags=flags,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return (warped > 127).astype(np.uint8)


class MaskMixture:
    """Draws training masks of one size from synthetic kinds, masks of files and label maps.

    Args:
        masks: [H, W] uint8 in {0, 1}, of any size.
        label_maps: [H, W] integers from 0 on, one for each region.
    """

    def __init__(self, masks: Sequence[np.ndarray] = (), label_maps: Sequence[np.ndarray] = (), synthetic: bool = True):
        self.masks, self.label_maps = masks, label_maps
        weights = np.array([0.4 * synthetic, 0.35 * bool(len(masks)), 0.25 * bool(len(label_maps))])
        self.shares = weights / weights.sum()

    def draw(self, size: int, rng: np.random.Generator) -> np.ndarray:
        """[size, size] uint8 in {0, 1}."""
        source = rng.choice(3, p=self.shares)
        if source == 0:
            return synthetic_mask(size, rng)
        if source == 1:
            return varied(self.masks[rng.integers(len(self.masks))], size, rng)
        return varied(region_union(self.label_maps[rng.integers(len(self.label_maps))], rng), size, rng)
