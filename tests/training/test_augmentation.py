import albumentations as albu
import cv2
import numpy as np
import pytest

from diffiml_plugin.framework.imdlbenco import RandomInpainting, get_albu_transforms
from diffiml_plugin.training.augmentation import BoundedInpainting, QuickRotate90, quickened

PHOTO = cv2.resize(np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8), (320, 240))
WINDOWS = [(0, 0, 40, 60), (60, 100, 100, 120), (200, 260, 40, 60)]  # top, left, height, width


def both(top, left, height, width, flag):
    window = {"pos_h": top, "pos_w": left, "window_h": height, "window_w": width, "inpaint_flag": flag}
    return BoundedInpainting().apply(PHOTO, **window), RandomInpainting().apply(PHOTO, **window)


@pytest.mark.parametrize("flag", [cv2.INPAINT_TELEA, cv2.INPAINT_NS])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_a_small_rectangle_is_the_frameworks(window, flag):
    ours, theirs = both(*window, flag)
    assert np.array_equal(ours, theirs) and not np.array_equal(ours, PHOTO)


def test_a_large_rectangle_is_near_and_the_rest_untouched():
    top, left, height, width = 20, 30, 190, 250
    ours, theirs = both(top, left, height, width, cv2.INPAINT_TELEA)
    inside = np.zeros(PHOTO.shape[:2], bool)
    inside[top : top + height, left : left + width] = True
    assert np.array_equal(ours[~inside], PHOTO[~inside])
    error, change = (np.abs(pixels[inside].astype(int) - theirs[inside]).mean() for pixels in (ours, PHOTO))
    assert error < 16 < change


def test_no_more_than_a_bound_of_pixels_is_inpainted(monkeypatch):
    filled, inpaint = [], cv2.inpaint

    def counted(image, mask, *rest):
        filled.append(mask.sum())
        return inpaint(image, mask, *rest)

    monkeypatch.setattr(cv2, "inpaint", counted)
    large = np.zeros((1500, 2000, 3), np.uint8)
    BoundedInpainting().apply(large, pos_h=100, pos_w=100, window_h=1200, window_w=1500)
    assert len(filled) == 1 and 10_000 < filled[0] < 18_000


@pytest.mark.parametrize("shape", [(24, 32, 3), (24, 32, 1), (24, 32)], ids=str)
@pytest.mark.parametrize("factor", range(4))
def test_a_turn_is_albumentations(shape, factor):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    ours, theirs = (turn.apply(pixels, factor=factor) for turn in (QuickRotate90(), albu.RandomRotate90()))
    assert np.array_equal(ours, theirs) and ours.flags.c_contiguous


def test_the_training_transforms_are_the_frameworks_but_for_two():
    ours, theirs = quickened(get_albu_transforms("train")), get_albu_transforms("train")
    for own, other in zip(ours.transforms, theirs.transforms, strict=True):
        assert isinstance(own, type(other)) and own.p == other.p and own.always_apply == other.always_apply
    inpainting, turn = (own for own in ours.transforms if type(own).__module__ == BoundedInpainting.__module__)
    assert type(inpainting) is BoundedInpainting and inpainting.mask_value == 255 and type(turn) is QuickRotate90
