import numpy as np
import pytest

from diffiml_plugin.codec.drawn_masks import KINDS, MaskMixture, region_union, varied


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_draws_binary_masks_repeatably(kind):
    for size in (64, 128):
        drawn = [kind(size, np.random.default_rng(3)) for _ in range(2)]
        assert drawn[0].shape == (size, size) and drawn[0].dtype == np.uint8
        assert set(np.unique(drawn[0])) <= {0, 1} and np.array_equal(*drawn)


def test_kinds_are_what_they_are_called():
    rng = np.random.default_rng(0)
    means = {kind.__name__: np.mean([kind(128, rng).mean() for _ in range(40)]) for kind in KINDS}
    assert all(0.005 < mean < 0.7 for mean in means.values()), means


def test_mixture_draws_from_each_of_its_sources_and_from_no_other():
    rng = np.random.default_rng(0)
    full, labels = np.ones((40, 60), np.uint8), np.arange(2400).reshape(40, 60)
    assert all(MaskMixture([full], synthetic=False).draw(32, rng).all() for _ in range(10))
    drawn = [MaskMixture([full], [labels]).draw(64, rng).mean() for _ in range(60)]
    assert 5 < sum(mean == 1 for mean in drawn) < 40 and len(set(drawn)) > 10


def test_a_varied_mask_still_shows_the_region():
    rng = np.random.default_rng(0)
    mask = np.zeros((100, 150), np.uint8)
    mask[40:60, 70:90] = 1
    shares = [varied(mask, 64, rng).mean() for _ in range(50)]
    assert all(share > 0 for share in shares) and max(shares) > 2 * min(shares)


def test_a_union_is_made_of_whole_regions():
    labels = np.repeat(np.arange(6), 10).reshape(6, 10)
    union = region_union(labels, np.random.default_rng(1))
    assert 1 <= union.any(axis=1).sum() <= 4 and np.array_equal(union.any(axis=1), union.all(axis=1))
