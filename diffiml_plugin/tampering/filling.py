"""Removes what a region holds: the surroundings are smeared into it, or a place beside it is cloned over it."""

import cv2
import numpy as np

from diffiml_plugin.tampering.cutting import box_of, with_margin

_SMEARED = 64  # pixels, longest side of a region that is smeared over; of a larger one everybody would see it
_PLACES = 8  # looked at for a clone
_SMEARS = (cv2.INPAINT_TELEA, cv2.INPAINT_NS, None)


def filled(picture: np.ndarray, region: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`picture` [H, W, 3] uint8 with `region` [H, W] uint8 {0, 1} filled from what surrounds it.

    By Telea's or the Navier-Stokes inpainting, or by cloning, each as often; a large region by cloning alone.
    """
    box = with_margin(box_of(region), region.shape, 12)
    result, part, hole = picture.copy(), np.ascontiguousarray(picture[box]), np.ascontiguousarray(region[box])
    method = _SMEARS[rng.integers(3)] if max(hole.shape) <= _SMEARED else None
    if method is None:
        result[box] = _cloned(picture, box, hole, rng)
    else:
        result[box] = cv2.inpaint(part, hole, rng.uniform(2, 5), method)
    return result


def _cloned(picture: np.ndarray, box: tuple[slice, slice], hole: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The box with its hole covered by another place, whose colours are bent to meet the hole's border.

    The place is that of a few whose surroundings are most like the hole's; where the picture has no room for one, the
    surroundings' colours are continued.
    """
    part, inner = picture[box], box_of(hole)
    rows, columns = hole.shape
    best, lowest = np.full_like(part, 128), np.inf
    ring = cv2.dilate(hole, np.ones((5, 5), np.uint8)) - hole
    for _ in range(_PLACES):
        top = rng.integers(picture.shape[0] - rows + 1)
        left = rng.integers(picture.shape[1] - columns + 1)
        apart = (
            abs(top - box[0].start) >= inner[0].stop - inner[0].start
            or abs(left - box[1].start) >= inner[1].stop - inner[1].start
        )
        other = picture[top : top + rows, left : left + columns]
        cost = cv2.norm(part, other, cv2.NORM_L1, ring) if apart else np.inf
        if cost < lowest:
            best, lowest = other, cost
    return np.where(hole[..., None] > 0, blended_away(best, part, hole), part)


def blended_away(patch: np.ndarray, surroundings: np.ndarray, region: np.ndarray) -> np.ndarray:
    """`patch` with colours bent smoothly so that they meet `surroundings` around `region`: both [H, W, 3] uint8.

    The difference outside the region is continued into it by a pyramid, in place of Poisson's equation.
    """
    known = (1 - region).astype(np.float32)[..., None]
    difference = (surroundings.astype(np.float32) - patch) * known
    return np.clip(patch + _continued(difference, known) + 0.5, 0, 255).astype(np.uint8)


def _continued(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """`values` [H, W, 3], weighted, where `weight` [H, W, 1] is 1, and their smooth continuation elsewhere."""
    height, width = weight.shape[:2]
    if min(height, width) <= 2:
        return np.broadcast_to(values.sum((0, 1)) / max(weight.sum(), 1e-6), values.shape)
    size = (width + 1) // 2, (height + 1) // 2
    coarse, coarse_weight = (cv2.resize(level, size, interpolation=cv2.INTER_AREA) for level in (values, weight))
    coarse_weight = coarse_weight.reshape(size[1], size[0], 1)
    whole = coarse / np.maximum(coarse_weight, 1e-6)
    held = np.minimum(1, coarse_weight * 4)
    below = _continued(whole * held, held)
    below = cv2.resize(np.ascontiguousarray(below), (width, height), interpolation=cv2.INTER_LINEAR)
    return values + (1 - weight) * below
