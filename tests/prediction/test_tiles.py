import numpy as np
import pytest

from diffiml_plugin.prediction.tiles import OVERLAP, Tiling


@pytest.mark.parametrize("size", [(100, 90), (512, 512), (513, 700), (1500, 2111), (4000, 777)], ids=str)
@pytest.mark.parametrize("side", [512, 768])
def test_tiles_cover_a_photo_on_the_grid_and_their_weights_amount_to_one(size, side):
    tiling = Tiling(*size, side, 32)
    total, values = np.zeros(size, np.float32), np.random.default_rng(0).random(size, dtype=np.float32)
    tiles = list(tiling)
    for tile in tiles:
        assert tile.top % 32 == tile.left % 32 == 0 and max(tile.height, tile.width) <= side
        tiling.add(total, tile, tile.of(values))
    np.testing.assert_allclose(total, values, atol=1e-5)
    assert len(tiles) == len(tiling) == len(set(tiles))


def test_neighbours_share_enough_and_are_no_more_than_needed():
    starts = Tiling(1536, 4000, 1536, 32).columns
    assert len(starts) == 3 and min(starts[i] + 1536 - starts[i + 1] for i in range(2)) >= OVERLAP - 32


def test_the_border_of_a_tile_does_not_count():
    tiling = Tiling(512, 760, 512, 32)
    first, second = tiling.weights[1]
    assert (first[-32:] == 0).all() and (second[:32] == 0).all()
    assert first[0] == 1 and second[-1] == 1  # where the photo ends nothing else can say it
