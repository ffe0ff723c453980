import random

import numpy as np
import pytest

from diffiml_plugin.training.cropping import GridCrop


def position(window):
    """Row and column of a window of an image whose pixels hold their own place."""
    return int(window[0, 0, 0]), int(window[0, 0, 1])


@pytest.fixture
def image():
    rows, columns = np.mgrid[:120, :200]
    return np.stack([rows, columns, 0 * rows], 2).astype(np.uint8)


def test_windows_start_on_the_grid_of_jpeg_and_reach_everywhere(image):
    random.seed(0)
    mask = np.zeros((120, 200), np.uint8)
    windows = [GridCrop(64)(image=image, mask=mask) for _ in range(300)]
    assert {w["image"].shape for w in windows} == {(64, 64, 3)}
    tops, lefts = zip(*(position(w["image"]) for w in windows), strict=True)
    assert set(tops) == set(range(0, 57, 8)) and set(lefts) == set(range(0, 137, 8))


def test_image_and_mask_are_cut_alike_and_half_of_the_windows_seek_the_region(image):
    random.seed(0)
    mask = np.zeros((120, 200), np.uint8)
    mask[100:110, 180:190] = 255
    held = 0
    for _ in range(200):
        made = GridCrop(32)(image=image, mask=mask)
        top, left = position(made["image"])
        assert np.array_equal(made["mask"], mask[top : top + 32, left : left + 32])
        held += made["mask"].any()
    assert 80 < held < 140  # by chance alone: about 10


def test_a_smaller_image_is_padded_at_the_right_and_the_bottom(image):
    made = GridCrop(160)(image=image, mask=np.full((120, 200, 3), 255, np.uint8))
    assert made["image"].shape == made["mask"].shape == (160, 160, 3)
    assert made["mask"][:120].all() and not made["mask"][120:].any()
