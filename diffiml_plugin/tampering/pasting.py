"""Lays a cut-out object over a picture: turned and scaled, recoloured, with a border of one kind or another."""

from dataclasses import dataclass

import cv2
import numpy as np

from diffiml_plugin.tampering.cutting import MARGIN, Cut, box_of
from diffiml_plugin.tampering.filling import blended_away
from diffiml_plugin.tampering.styles import Style

_PLACES = 4  # tried for a copy, which should lie away from its original


@dataclass(frozen=True)
class Warp:
    """How an object is mirrored, scaled and turned (radians), in this order."""

    scale: float = 1.0
    angle: float = 0.0
    mirrored: bool = False

    @property
    def matrix(self) -> np.ndarray:
        """[2, 2], of x and y."""
        cosine, sine = self.scale * np.cos(self.angle), self.scale * np.sin(self.angle)
        return np.array([[cosine, -sine], [sine, cosine]]) * ((-1 if self.mirrored else 1), 1)


def draw_warp(style: Style, rng: np.random.Generator) -> Warp:
    """A warp by the style's shares and ranges."""
    mirrored = bool(rng.random() < style.mirrored)
    if rng.random() < style.unwarped:
        return Warp(mirrored=mirrored)
    scale = float(rng.uniform(*style.scale)) if rng.random() < 0.8 else 1.0
    angle = float(np.deg2rad(rng.uniform(-style.rotation, style.rotation))) if rng.random() < style.turned else 0.0
    return Warp(scale, angle, mirrored)


def warped(cut: Cut, warp: Warp, rng: np.random.Generator) -> Cut:
    """The object after `warp`, in a box that holds it and its margin."""
    image, region = cut.image, cut.region
    if warp.scale == 1 and warp.angle == 0:
        if warp.mirrored:
            image, region = np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(region[:, ::-1])
        return Cut(image, region, cut.centre)
    hull = cv2.convexHull(cv2.findNonZero(region))[:, 0] @ warp.matrix.T  # [K, 2], x and y
    low, high = hull.min(axis=0) - MARGIN, hull.max(axis=0) + MARGIN
    size = tuple(int(side) for side in np.ceil(high - low + 1))
    affine = np.hstack([warp.matrix, -low[:, None]])
    method = (cv2.INTER_LINEAR, cv2.INTER_CUBIC)[rng.integers(2)]
    turned = cv2.warpAffine(image, affine, size, flags=method, borderMode=cv2.BORDER_REFLECT_101)
    soft = cv2.warpAffine(region * np.uint8(255), affine, size, flags=cv2.INTER_LINEAR)
    return Cut(turned, (soft > 127).astype(np.uint8), cut.centre)


def recoloured(cut: Cut, host: np.ndarray, style: Style, rng: np.random.Generator) -> Cut:
    """The object with colours of its own or, in part, those of the `host` [H, W, 3] uint8."""
    gain, offset = np.ones(3), np.zeros(3)
    if rng.random() < style.harmonised:
        strength = rng.uniform(0.3, 1.0)
        mean, deviation = (level.ravel() for level in cv2.meanStdDev(cut.image, mask=cut.region))
        wanted, spread = (level.ravel() for level in cv2.meanStdDev(host))
        contrast = np.clip(spread.mean() / max(deviation.mean(), 1), 0.6, 1.5)
        gain = np.full(3, (1 - strength) + strength * contrast)
        offset = mean + strength * np.clip(wanted - mean, -50, 50) - gain * mean
    elif rng.random() < style.recoloured:
        contrast, *gains = 1 + rng.uniform(-style.colour, style.colour, 4)
        mean = np.array(cv2.mean(cut.image, cut.region)[:3])
        gain = np.full(3, contrast)
        offset = mean * np.array(gains) - contrast * mean
    else:
        return cut
    curves = np.clip(np.arange(256)[:, None] * gain + offset, 0, 255).round().astype(np.uint8)
    return Cut(cv2.LUT(cut.image, curves[None]), cut.region, cut.centre)


def paste(host: np.ndarray, cut: Cut, style: Style, rng: np.random.Generator, away: bool = False) -> np.ndarray:
    """Lays the object over `host` [H, W, 3] uint8, which is changed in place.

    Args:
        away: far from where it was cut out.

    Returns:
        the region that was replaced, [H, W] uint8 {0, 1}; empty if the object hardly differs from what was there.
    """
    inner = box_of(cut.region)
    rows, columns = inner[0].stop - inner[0].start, inner[1].stop - inner[1].start
    top, left = _place(host.shape[:2], (rows, columns), cut.centre if away else None, rng)
    image, region, box = _overlap(cut, (top - inner[0].start, left - inner[1].start), host.shape)
    result = np.zeros(host.shape[:2], np.uint8)
    if not region.any():
        return result
    under = host[box]
    if cv2.norm(under, image, cv2.NORM_L1, region) < style.least_change * 3 * region.sum():
        return result
    if rng.random() < style.seamless:
        image = blended_away(image, under, region)
    alpha = _border(region, style, rng)
    mixed = cv2.blendLinear(image, under, alpha, 1 - alpha)
    result[box] = alpha > 0.5
    if rng.random() < style.smeared:
        kernel = np.ones((3, 3), np.uint8)
        ring = cv2.dilate(region, kernel) - cv2.erode(region, kernel)
        mixed = np.where(ring[..., None] > 0, cv2.GaussianBlur(mixed, (0, 0), rng.uniform(0.7, 2)), mixed)
    host[box] = mixed
    return result


def _border(region: np.ndarray, style: Style, rng: np.random.Generator) -> np.ndarray:
    """The object's opacity, [H, W] float32: hard, anti-aliased or feathered at the border."""
    alpha = region.astype(np.float32)
    if rng.random() < style.sharp:
        return alpha if rng.random() < 0.5 else cv2.GaussianBlur(alpha, (3, 3), 0.5)
    feathered = cv2.GaussianBlur(alpha, (0, 0), rng.uniform(*style.feather))
    return feathered if feathered.max() > 0.5 else alpha


def _place(
    extents: tuple[int, ...], size: tuple[int, int], centre: tuple[float, float] | None, rng: np.random.Generator
) -> tuple[int, int]:
    """Top and left for an object of `size`: inside a picture of `extents`, or over its edge if it is too large."""
    room = np.array(extents) - size
    overhang = 0.3 * np.array(size) * (rng.random() < 0.15)
    low, high = np.minimum(room, 0) - overhang, np.maximum(room, 0) + overhang
    places = rng.uniform(low, high, (1 if centre is None else _PLACES, 2))
    chosen = 0
    if centre is not None:
        moved = np.abs(places + np.array(size) / 2 - np.array(centre[::-1])).max(axis=1)
        chosen = moved.argmax()
    top, left = places[chosen]
    return int(top), int(left)


def _overlap(
    cut: Cut, corner: tuple[int, int], shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, tuple[slice, slice]]:
    """What of the object lies in a picture of that shape when its box starts at `corner`, and where that is."""
    inside, box = [], []
    for start, extent, limit in zip(corner, cut.region.shape, shape, strict=False):
        first, last = max(0, start), min(limit, start + extent)
        box.append(slice(first, max(first, last)))
        inside.append(slice(first - start, max(first, last) - start))
    rows, columns = box
    return cut.image[tuple(inside)], np.ascontiguousarray(cut.region[tuple(inside)]), (rows, columns)
