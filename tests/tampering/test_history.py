import cv2
import numpy as np
import pytest

from diffiml_plugin.tampering.history import compressed, draw_stages, needed, retouched, run_stages
from diffiml_plugin.tampering.styles import StageSettings

PLAIN = StageSettings(compressed=0)


def photo(height=160, width=192):
    coarse = np.random.default_rng(0).integers(0, 256, (height // 5, width // 5, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def blockiness(image, offset):
    """How much larger the steps across the columns of JPEG's grid are than those elsewhere, for a grid at `offset`."""
    steps = np.abs(np.diff(image.astype(int).mean(axis=2), axis=1)).mean(axis=0)
    on_grid = np.arange(len(steps)) % 8 == (7 - offset) % 8
    return steps[on_grid].mean() / steps[~on_grid].mean()


def test_a_history_leaves_what_was_asked_for():
    stage = StageSettings(resized=1, factor=(0.55, 1.4), off_grid=1, compressed=0)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        stages = draw_stages([stage] * 3, rng)
        height, width = needed(stages, 64, 80)
        image, mask = run_stages(stages, photo(height, width), np.ones((height, width), np.uint8), (), rng)
        assert image.shape[:2] == mask.shape and mask.all()
        assert 64 <= mask.shape[0] <= 72 and 80 <= mask.shape[1] <= 88


def test_the_mask_follows_the_picture():
    rng = np.random.default_rng(3)
    image = np.zeros((120, 120, 3), np.uint8)
    image[30:70, 40:90] = 255
    stages = draw_stages([StageSettings(resized=1, factor=(0.7, 0.7), off_grid=1, compressed=0)], rng)
    made, mask = run_stages(stages, image, (image[..., 0] > 0).astype(np.uint8), (), rng)
    assert ((made[..., 0] > 127) != mask).mean() < 0.005


def test_cropping_moves_the_grid_of_an_earlier_compression():
    once = compressed(photo(), StageSettings(quality=(20, 20), camera_tables=0), (), np.random.default_rng(0))
    assert blockiness(once, 0) > 1.2 > blockiness(once, 3)
    stages = draw_stages([StageSettings(off_grid=1, compressed=0)] * 40, np.random.default_rng(0))
    assert len({stage.offset for stage in stages}) > 10
    moved = next(stage for stage in stages if stage.offset[1] == 3)
    assert blockiness(moved.run(once, once[..., 0], (), np.random.default_rng(0))[0], 3) > 1.2


def test_a_piece_of_a_picture_keeps_its_size():
    stage = StageSettings(resized=1, off_grid=1)
    assert needed(draw_stages([stage], np.random.default_rng(0), whole=False), 40, 50) == (40, 50)


def test_tables_of_photographs_are_used_where_they_are_fine_enough():
    coarse, fine = ((90,) * 64, (90,) * 64), ((2,) * 64, (2,) * 64)
    settings = StageSettings(camera_tables=1, quality=(75, 75), full_chroma=1)
    error = [
        np.abs(compressed(photo(), settings, tables, np.random.default_rng(0)).astype(int) - photo()).mean()
        for tables in ((coarse, fine), (coarse,))
    ]
    assert error[0] < 1.5 < error[1]  # the fine table, or quality 75 where there is none


def test_webp_and_the_share_that_is_not_compressed():
    rng, image = np.random.default_rng(0), photo()
    kept = [compressed(image, StageSettings(compressed=0.5), (), rng) is image for _ in range(60)]
    assert 15 < sum(kept) < 45
    webp = compressed(image, StageSettings(webp=1, quality=(70, 70)), (), rng)
    assert webp.shape == image.shape and 0 < np.abs(webp.astype(int) - image).mean() < 8


@pytest.mark.parametrize(
    "settings",
    [
        StageSettings(denoised=1),
        StageSettings(blurred=1),
        StageSettings(noisy=1, noise=(3, 3)),
        StageSettings(toned=1),
        StageSettings(sharpened=1),
    ],
)
def test_each_retouch_changes_the_whole_picture(settings):
    image = np.clip(photo().astype(int) + np.random.default_rng(1).integers(-9, 10, photo().shape), 0, 255)
    image = image.astype(np.uint8)
    made = retouched(image, settings, np.random.default_rng(0))
    change = np.abs(made.astype(int) - image).max(axis=2)
    assert made.dtype == np.uint8 and (change > 0).mean() > 0.5
    assert retouched(image, PLAIN, np.random.default_rng(0)) is image


def test_noise_has_the_wanted_strength_and_is_stronger_in_the_light():
    def deviation(level):
        flat = np.full((200, 200, 3), level, np.uint8)
        noisy = retouched(flat, StageSettings(noisy=1, noise=(3, 3)), np.random.default_rng(0))
        return noisy.std(axis=(0, 1)).mean()

    assert deviation(128) == pytest.approx(3.3, abs=0.5)
    assert deviation(220) > 1.2 * deviation(60)
