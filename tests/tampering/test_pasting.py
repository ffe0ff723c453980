from dataclasses import replace

import cv2
import numpy as np
import pytest

from diffiml_plugin.tampering.cutting import SHAPES, Cut, box_of, drawn_shape, grown, labelled_objects, lassoed, snapped
from diffiml_plugin.tampering.filling import blended_away, filled
from diffiml_plugin.tampering.lettering import strokes_region, word
from diffiml_plugin.tampering.pasting import Warp, draw_warp, paste, recoloured, warped
from diffiml_plugin.tampering.styles import Style

HARD = Style(sharp=1, smeared=0, seamless=0, harmonised=0, recoloured=0)


def textured(seed, height=120, width=160):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def disc(radius=20, margin=10):
    side = 2 * (radius + margin) + 1
    return cv2.circle(np.zeros((side, side), np.uint8), (side // 2, side // 2), radius, 1, -1)


def test_drawn_shapes_have_the_wanted_size_within_limits():
    shapes = [drawn_shape(900, (200, 200), np.random.default_rng(seed)) for seed in range(40)]
    assert all(abs(shape.sum() / 900 - 1) < 0.2 for shape in shapes)
    tight = [drawn_shape(4000, (50, 60), np.random.default_rng(seed)) for seed in range(40)]
    assert all(shape.any() and shape.shape[0] <= 50 and shape.shape[1] <= 60 for shape in tight)
    assert len(SHAPES) == 5


def test_objects_of_a_label_map():
    labels = np.zeros((60, 80), np.uint8)
    labels[10:30, 20:50], labels[40:45, 5:9], labels[:8] = 7, 2, 0
    (item,) = labelled_objects(labels)
    assert (item.value, item.pixels, item.box) == (7, 600, np.s_[10:30, 20:50])


def test_regions_are_moved_to_edges():
    image = np.full((100, 100, 3), 40, np.uint8)
    image[30:70, 30:70] = 200
    rough = cv2.circle(np.zeros((100, 100), np.uint8), (50, 50), 24, 1, -1)
    truth = image[..., 0] > 100
    assert (snapped(image, rough) != truth).sum() < 0.4 * (rough != truth).sum()


def test_a_lasso_is_rougher_than_what_it_cuts_out():
    def corners(region):
        (outline,), _ = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        return len(cv2.approxPolyDP(outline, 1, True))

    rough = [lassoed(disc(40), np.random.default_rng(seed)) for seed in range(10)]
    assert np.mean([corners(region) for region in rough]) < 0.75 * corners(disc(40))
    assert all(0.8 < region.sum() / disc(40).sum() < 1.2 for region in rough)
    assert grown(disc(), 2).sum() > disc().sum() > grown(disc(), -2).sum()
    assert grown(disc(1), -9).any()  # what would vanish stays


def test_an_exact_copy_is_exact():
    host = textured(0)
    region = np.zeros(host.shape[:2], np.uint8)
    region[20:50, 30:70] = 1
    cut = Cut(host[10:60, 20:80].copy(), region[10:60, 20:80], (50, 35))
    made = host.copy()
    replaced = paste(made, cut, replace(HARD, least_change=0), np.random.default_rng(2), away=True)
    top, left = (part.start for part in box_of(replaced))
    inner = np.s_[top + 2 : top + 20, left + 2 : left + 30]  # its border may be anti-aliased
    assert np.array_equal(made[inner], host[22:40, 32:60])
    assert not (made != host).any(axis=2)[cv2.dilate(replaced, np.ones((5, 5), np.uint8)) == 0].any()


@pytest.mark.parametrize("warp", [Warp(), Warp(mirrored=True), Warp(1.5, 0.6), Warp(0.7, -0.4, True)])
def test_warps_scale_the_region(warp):
    cut = Cut(textured(1, 61, 61), disc())
    made = warped(cut, warp, np.random.default_rng(0))
    assert made.image.shape[:2] == made.region.shape
    assert made.region.sum() == pytest.approx(disc().sum() * warp.scale**2, rel=0.08)


def test_shares_of_warps():
    style = Style(unwarped=1, mirrored=0)
    assert draw_warp(style, np.random.default_rng(0)) == Warp()
    warps = [draw_warp(Style(unwarped=0, mirrored=0.5), np.random.default_rng(seed)) for seed in range(200)]
    assert 70 < sum(warp.mirrored for warp in warps) < 130
    assert max(abs(warp.angle) for warp in warps) < np.deg2rad(30.001)


def test_harmonised_objects_come_closer_to_the_host():
    host = np.full((80, 80, 3), 60, np.uint8)
    cut = Cut(np.clip(textured(3, 61, 61) // 4 + 150, 0, 255).astype(np.uint8), disc())
    made = recoloured(cut, host, replace(HARD, harmonised=1), np.random.default_rng(0))
    assert made.image.mean() < cut.image.mean() - 10
    assert recoloured(cut, host, HARD, np.random.default_rng(0)) is cut


def test_what_does_not_show_is_not_pasted():
    host = np.full((80, 80, 3), 60, np.uint8)
    cut = Cut(np.full((61, 61, 3), 61, np.uint8), disc())
    made = host.copy()
    assert not paste(made, cut, HARD, np.random.default_rng(0)).any() and np.array_equal(made, host)


def test_borders_are_hard_or_feathered():
    def soft(style):
        host = np.zeros((100, 100, 3), np.uint8)
        paste(host, Cut(np.full((61, 61, 3), 200, np.uint8), disc()), style, np.random.default_rng(4))
        return ((host[..., 0] > 10) & (host[..., 0] < 190)).sum()

    assert soft(replace(HARD, sharp=0, feather=(2.5, 2.5))) > 300 > soft(HARD)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("radius", [8, 30])
def test_filling_takes_an_object_away_and_leaves_the_rest(seed, radius):
    picture = np.full((120, 160, 3), 90, np.uint8)
    item = cv2.circle(np.zeros((120, 160), np.uint8), (50, 60), radius, 1, -1)
    region = grown(item, 2)
    picture[item > 0] = 220
    made = filled(picture, region, np.random.default_rng(seed))
    assert abs(float(made[item > 0].mean()) - 90) < 25
    assert (made[region == 0] == 90).all()


def test_blending_meets_the_surroundings():
    region, patch = disc(), np.full((61, 61, 3), 150, np.uint8)
    surroundings = np.broadcast_to(np.linspace(20, 80, 61)[None, :, None], (61, 61, 3)).astype(np.uint8)
    bent = blended_away(patch, surroundings, region)
    inner = cv2.erode(region, np.ones((3, 3), np.uint8))
    ring = (region - inner) > 0
    assert np.abs(bent.astype(int) - surroundings)[ring].mean() < 8


def test_words_have_a_region_that_covers_them():
    for seed in range(20):
        opacity = np.pad(word(24, np.random.default_rng(seed)), 10)
        assert strokes_region(opacity)[opacity > 0.5].all() and 10 < opacity.shape[0] < 70
