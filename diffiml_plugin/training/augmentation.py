"""The framework's training transforms, where theirs take long on a large photograph."""

from typing import Any

import albumentations as albu
import cv2
import numpy as np

from diffiml_plugin.framework.imdlbenco import RandomInpainting

_RADIUS = 3  # pixels, of the neighbourhood that fills one, as the framework has it
_MARGIN = _RADIUS + 1  # pixels around a rectangle that can matter
_MOST = 128 * 128  # pixels that are inpainted; 0.7 microseconds each
_TURNS = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}  # as numpy counts them


class BoundedInpainting(RandomInpainting):
    """As the framework's, from the same draws; a rectangle of more than `_MOST` pixels is filled at lower resolution.

    Inpainting smears colours inwards from the rim, so that the inside of a large rectangle has no detail to lose.
    """

    def apply(
        self,
        img: np.ndarray,
        pos_h: int = 0,
        pos_w: int = 0,
        window_h: int = 1,
        window_w: int = 1,
        inpaint_flag: int = cv2.INPAINT_TELEA,
        **_: Any,
    ) -> np.ndarray:
        top, left = max(0, pos_h - _MARGIN), max(0, pos_w - _MARGIN)
        around = img[top : pos_h + window_h + _MARGIN, left : pos_w + window_w + _MARGIN]
        inside = np.zeros(around.shape[:2], np.uint8)
        inside[pos_h - top : pos_h - top + window_h, pos_w - left : pos_w - left + window_w] = 1
        image = img.copy()
        window = image[pos_h : pos_h + window_h, pos_w : pos_w + window_w]
        window[:] = _filled(around, inside, inpaint_flag)[inside > 0].reshape(window.shape)
        return image


def _filled(image: np.ndarray, mask: np.ndarray, flag: int) -> np.ndarray:
    """`image` [H, W, 3] uint8 inpainted where `mask` [H, W] is 1; of no more than about `_MOST` pixels at a time."""
    scale = (_MOST / max(int(mask.sum()), 1)) ** 0.5
    if scale >= 1:
        return cv2.inpaint(np.ascontiguousarray(image), mask, _RADIUS, flag)
    height, width = image.shape[:2]
    size = max(1, round(scale * width)), max(1, round(scale * height))
    # Where a cell is partly of the rectangle all of it is filled, or pixels to be replaced would colour the rest.
    touched = (cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0).astype(np.uint8)
    small = cv2.inpaint(cv2.resize(image, size, interpolation=cv2.INTER_AREA), touched, _RADIUS, flag)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


class QuickRotate90(albu.RandomRotate90):
    """As albumentations', to the bit, by OpenCV: numpy copies a turned photograph pixel by pixel."""

    def apply(self, img: np.ndarray, factor: int = 0, **_: Any) -> np.ndarray:
        if factor not in _TURNS:
            return img
        turned = cv2.rotate(img, _TURNS[factor])
        return turned.reshape(*turned.shape[:2], *img.shape[2:])  # OpenCV drops a single channel


def quickened(transform: albu.Compose) -> albu.Compose:
    """The framework's training transforms with `BoundedInpainting` and `QuickRotate90` in place of their likes."""
    quicker = {RandomInpainting: BoundedInpainting, albu.RandomRotate90: QuickRotate90}
    for position, step in enumerate(transform.transforms):
        if type(step) in quicker:
            settings = {name: getattr(step, name) for name in (*step.get_transform_init_args_names(), "p")}
            transform.transforms[position] = quicker[type(step)](**settings)
    return transform
