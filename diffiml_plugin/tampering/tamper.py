"""Tampers one authentic photograph: splice, copy-move or removal, seeded by a generator."""

from dataclasses import dataclass

import cv2
import numpy as np

from diffiml_plugin.tampering.regions import drawn_region, labelled_region
from diffiml_plugin.tampering.settings import KINDS, REALISTIC, TamperSettings
from diffiml_plugin.tampering.styles import require_kinds

_ATTEMPTS = 8
_Layer = tuple[np.ndarray, np.ndarray]  # colour [H, W, 3] and alpha [H, W], float32


@dataclass(frozen=True)
class Tampered:
    """image [H, W, 3] uint8 RGB; mask [H, W] uint8, 1 where pixels were replaced; kind, one of KINDS or "authentic"."""

    image: np.ndarray
    mask: np.ndarray
    kind: str


def tamper(
    host: np.ndarray,
    donor: np.ndarray,
    rng: np.random.Generator,
    kind: str,
    regions: np.ndarray | None = None,
    donor_regions: np.ndarray | None = None,
    settings: TamperSettings = REALISTIC,
) -> Tampered:
    """Tampers `host` [H, W, 3] uint8 RGB; the result depends on the arguments and on `rng`'s state alone.

    Args:
        donor: another photograph of any size, whose object a splice pastes.
        kind: one of KINDS.
        regions, donor_regions: integer label maps of host and donor; None draws the shapes.

    Raises:
        DiffIMLError: an unknown kind.
    """
    require_kinds([kind], KINDS)
    # Host and donor have compression histories of their own: with the last step, a double compression.
    host = with_history(host, settings, rng)
    source, labels = host, regions
    if kind == "splice":
        source, labels = with_history(donor, settings, rng), donor_regions

    for attempt in range(_ATTEMPTS):
        region = None
        if labels is not None and attempt < _ATTEMPTS // 2:
            region = labelled_region(labels, settings.area, rng)
        if region is None:
            region = drawn_region(source.shape[0], source.shape[1], settings.area, rng)
        if kind == "removal":
            content, alpha = _inpainted(host, region, rng)
        else:
            content, alpha = _pasted(host, source, region, settings, rng)
        mask = (alpha > 0.5).astype(np.uint8)
        image = (host + alpha[..., None] * (content - host)).round().astype(np.uint8)
        if mask.any() and np.abs(image.astype(np.float32) - host)[mask > 0].mean() >= settings.least_change:
            break
    return Tampered(jpeg(image, settings.jpeg_after, rng), mask, kind)


def with_history(photo: np.ndarray, settings: TamperSettings, rng: np.random.Generator) -> np.ndarray:
    """`photo` [H, W, 3] uint8 RGB as it was before tampering. Were all compressed anew, that would tell them apart."""
    if settings.recompressed < 1 and rng.random() >= settings.recompressed:
        return photo
    return jpeg(photo, settings.jpeg_before, rng)


def jpeg(image: np.ndarray, quality: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """`image` [H, W, 3] uint8 RGB after one JPEG compression of a quality drawn from the closed range."""
    setting = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(quality[0], quality[1] + 1))]
    _, encoded = cv2.imencode(".jpg", image[..., ::-1], setting)
    return np.ascontiguousarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1])


def _inpainted(host: np.ndarray, region: np.ndarray, rng: np.random.Generator) -> _Layer:
    method = (cv2.INPAINT_TELEA, cv2.INPAINT_NS)[rng.integers(2)]
    content = cv2.inpaint(host, region, float(rng.uniform(3, 7)), method)
    return content.astype(np.float32), region.astype(np.float32)


def _pasted(
    host: np.ndarray,
    source: np.ndarray,
    region: np.ndarray,
    settings: TamperSettings,
    rng: np.random.Generator,
) -> _Layer:
    """The object under `region`, scaled, turned, recoloured and laid over the host: its colour and alpha."""
    height, width = host.shape[:2]

    # Scale: the object keeps its share of the image, times the drawn scale, held within the range of areas.
    share = region.mean()
    share_in_host = np.clip(share * rng.uniform(*settings.scale) ** 2, *settings.area)
    scale = np.sqrt(share_in_host / share * host[..., 0].size / region.size)
    if scale < 0.7:  # an affine warp would alias
        region = cv2.resize(region, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
        source = cv2.resize(source, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        scale = 1.0
        if not region.any():  # too thin to be seen at this size: nothing is pasted, and `tamper` tries again
            return host.astype(np.float32), np.zeros((height, width), np.float32)

    # Place: the turned object's box lies inside the host, or over its middle when it is too large.
    angle = np.deg2rad(rng.uniform(-settings.rotation, settings.rotation))
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turn[:, 0] *= rng.choice((-1, 1))  # mirrored half of the time
    hull = cv2.convexHull(cv2.findNonZero(region))[:, 0].astype(float)  # [K, 2], x and y
    low, high = (hull @ turn.T).min(axis=0), (hull @ turn.T).max(axis=0)
    room = np.array([width, height]) - 1 - (high - low)
    shifts = np.where(room > 0, rng.uniform(0, np.maximum(room, 0), (4, 2)), room / 2) - low
    moved = np.linalg.norm((hull @ turn.T - hull).mean(axis=0) + shifts, axis=1)
    shift = shifts[moved.argmax()]  # a copy lies away from its original
    affine = np.hstack([turn, shift[:, None]])
    alpha = cv2.warpAffine(region, affine, (width, height), flags=cv2.INTER_NEAREST).astype(np.float32)
    content = cv2.warpAffine(
        source, affine, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
    ).astype(np.float32)
    contrast, *gains = 1 + rng.uniform(-settings.colour, settings.colour, 4)
    middle = content.mean(axis=(0, 1))
    content = np.clip((content - middle) * contrast + middle * gains, 0, 255)
    feathered = cv2.GaussianBlur(alpha, (0, 0), rng.uniform(*settings.feather))
    return content, feathered if feathered.max() > 0.5 else alpha
