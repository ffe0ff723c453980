import numpy as np
import pytest

from diffiml_plugin.method.edges import edge_map


def test_edge_of_a_square_is_a_band_around_its_contour():
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 16:48] = 1
    edge = edge_map(mask)
    assert edge.dtype == np.uint8 and set(np.unique(edge)) == {0, 1}
    assert edge[32, 14:19].any() and edge[14:19, 32].any()
    assert not edge[20:44, 20:44].any() and not edge[:12].any()
    assert 3 <= edge[32, :32].sum() <= 4


@pytest.mark.parametrize("value", [0, 1])
def test_constant_masks_have_no_edge(value):
    assert not edge_map(np.full((40, 56), value, np.uint8)).any()
