from dataclasses import replace

import cv2
import numpy as np
import pytest

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.tampering.regions import drawn_region, labelled_region
from diffiml_plugin.tampering.settings import KINDS, REALISTIC, VISIBLE, TamperSettings
from diffiml_plugin.tampering.tamper import jpeg, tamper, with_history


def photo(seed, height=96, width=128):
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_region_changes(kind):
    untouched = TamperSettings(jpeg_before=(100, 100), jpeg_after=(100, 100))
    host, donor = photo(0), photo(1, 80, 200)
    made = tamper(host, donor, np.random.default_rng(5), kind, settings=untouched)
    assert made.kind == kind and made.image.shape == host.shape and made.image.dtype == np.uint8
    assert made.mask.shape == host.shape[:2] and set(np.unique(made.mask)) == {0, 1}
    change = np.abs(made.image.astype(int) - host).mean(axis=2)
    assert change[made.mask > 0].mean() > 4 * change[made.mask == 0].mean()


@pytest.mark.parametrize("kind", KINDS)
def test_same_generator_state_gives_the_same_image(kind):
    first, again, other = (tamper(photo(0), photo(1), np.random.default_rng(s), kind) for s in (3, 3, 4))
    assert np.array_equal(first.image, again.image) and np.array_equal(first.mask, again.mask)
    assert not np.array_equal(first.mask, other.mask)


def test_mask_is_never_empty_and_area_is_in_range():
    settings = TamperSettings(area=(0.05, 0.3))
    shares = [
        tamper(photo(0), photo(1), np.random.default_rng(i), kind, settings=settings).mask.mean()
        for kind in KINDS
        for i in range(20)
    ]
    assert min(shares) > 0.03 and max(shares) < 0.32
    flat = np.full((64, 64, 3), 128, np.uint8)  # nothing done to it can show
    assert all(tamper(flat, flat, np.random.default_rng(i), kind).mask.any() for kind in KINDS for i in range(4))


def test_removal_follows_the_label_map():
    labels = np.zeros((96, 128), np.uint8)
    labels[20:60, 30:70] = 7
    settings = TamperSettings(area=(0.05, 0.2))
    made = tamper(photo(0), photo(1), np.random.default_rng(0), "removal", labels, settings=settings)
    assert np.array_equal(made.mask, labels == 7)


def test_splice_takes_its_shape_from_the_donor():
    labels = np.zeros((96, 128), np.uint8)
    labels[20:60, 30:70] = 7
    settings = TamperSettings(area=(0.05, 0.2), scale=(1, 1), rotation=0)
    made = tamper(photo(0), photo(1), np.random.default_rng(0), "splice", None, labels, settings)
    rows, columns = np.nonzero(made.mask)
    assert abs(np.ptp(rows) - 39) <= 2 and abs(np.ptp(columns) - 39) <= 2


def changed(settings):
    """A splice from a grey donor into a grey host, with hardly any compression: grey levels added, and the mask."""
    host, donor = np.full((96, 128, 3), 100, np.uint8), np.full((96, 128, 3), 160, np.uint8)
    lossless = replace(settings, jpeg_before=(100, 100), jpeg_after=(100, 100))
    made = tamper(host, donor, np.random.default_rng(2), "splice", settings=lossless)
    return made.image.astype(int) - host, made.mask > 0


@pytest.mark.parametrize(("sigma", "low", "high"), [(3, 6, 60), (0.3, 0, 2)])
def test_borders_are_feathered_by_the_wanted_width(sigma, low, high):
    change, mask = changed(TamperSettings(colour=0, feather=(sigma, sigma)))
    away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)  # pixels from the region
    assert low <= np.abs(change[(away > 1.5) & (away < 3)]).mean() < high


def test_pasted_objects_are_recoloured():
    plain, mask = changed(TamperSettings(colour=0))
    dyed, _ = changed(TamperSettings(colour=0.3))
    assert np.median(plain[mask]) == pytest.approx(60, abs=2)
    assert np.abs(np.median(dyed[mask], axis=0) - 60).max() > 5


def test_what_was_not_tampered_has_been_compressed_twice():
    host, settings = photo(0), TamperSettings(jpeg_before=(30, 30), recompressed=1, jpeg_after=(100, 100))
    made = tamper(host, photo(1), np.random.default_rng(0), "removal", settings=settings)
    once, outside = jpeg(host, (30, 30), np.random.default_rng(0)).astype(int), made.mask == 0
    assert np.abs(once - host).mean() > 3 * np.abs(made.image.astype(int) - once)[outside].mean()


def test_unknown_kind_gets_the_nearest():
    with pytest.raises(DiffIMLError, match="did you mean 'splice'"):
        tamper(photo(0), photo(1), np.random.default_rng(0), "splise")


def test_regions_have_the_wanted_area():
    rng = np.random.default_rng(0)
    shares = [drawn_region(120, 90, (0.1, 0.2), rng).mean() for _ in range(50)]
    assert min(shares) > 0.06 and max(shares) < 0.23
    assert labelled_region(np.zeros((10, 10), np.uint8), (0.1, 0.5), rng) is None


def test_half_of_the_photographs_keep_the_history_they_came_with():
    rng, host = np.random.default_rng(0), photo(0)
    kept = [with_history(host, REALISTIC, rng) is host for _ in range(200)]
    assert 75 < sum(kept) < 125
    assert not any(with_history(host, VISIBLE, rng) is host for _ in range(20))


def test_a_region_that_vanishes_when_its_donor_shrinks_is_tried_again():
    labels = np.zeros((960, 960), np.uint8)
    labels[:, 7::96] = 1  # hair-thin lines between the columns that the shrinking keeps
    settings = TamperSettings(area=(0.01, 0.35), scale=(1, 1))
    made = tamper(photo(0, 48, 48), photo(1, 960, 960), np.random.default_rng(0), "splice", None, labels, settings)
    assert made.kind == "splice" and made.mask.any()
