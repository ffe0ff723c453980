import numpy as np
import pytest
import torch

from diffiml_plugin.codec.drawn_masks import KINDS
from diffiml_plugin.codec.metrics import encode_maps, latent_statistics, reconstruction_f1
from diffiml_plugin.data.masks import find_masks, read_mask, resized
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.method.edges import edge_map
from diffiml_plugin.method.lightvae import LightVAE
from diffiml_plugin.weights.files import read_metadata, save_weights
from diffiml_plugin.weights.lightvae import SHIPPED, load_lightvae, save_lightvae


@pytest.fixture(scope="module")
def shipped():
    return load_lightvae()


def test_shipped_weights_are_small_and_say_how_they_were_trained(shipped):
    assert SHIPPED.stat().st_size < 1_000_000
    assert sum(parameter.numel() for parameter in shipped.parameters()) <= 80_000
    provenance = read_metadata(SHIPPED)["provenance"]
    assert provenance["teacher"] == "none" and provenance["steps"] > 0 and provenance["data"]


def test_shipped_weights_keep_empty_and_full_masks(shipped):
    for side in (128, 512, 1024):
        for value in (0, 1):
            latent = shipped.encode(torch.full((1, 1, side, side), float(value)))
            assert ((shipped.decode(latent) > 0.5) != value).float().mean() < 1e-5
            assert latent[..., 2:-2, 2:-2].std((2, 3)).max() < 1e-3  # a constant, but for the border


def test_shipped_weights_on_masks_that_people_drew(shipped, bsds):
    masks = [resized(read_mask(file), 512) for file in find_masks(bsds / "val" / "Gt")[::4]]
    f1 = reconstruction_f1(shipped, masks)
    assert f1.mean() > 0.998 and f1.min() > 0.993
    assert reconstruction_f1(shipped, masks, noise=0.3).mean() > 0.9975
    edges = [edge_map(mask) for mask in masks]
    assert reconstruction_f1(shipped, edges, "edge").mean() > 0.99
    for target, maps in (("mask", masks), ("edge", edges)):
        means, deviations = latent_statistics(encode_maps(shipped, maps, target))
        assert max(map(abs, means)) < 0.3 and all(0.7 < deviation < 1.4 for deviation in deviations)


@pytest.mark.parametrize("side, reached", [(128, 0.98), (256, 0.993), (1024, 0.998)])
def test_shipped_weights_at_other_sizes(shipped, bsds, side, reached):
    masks = [resized(read_mask(file), side) for file in find_masks(bsds / "val" / "Gt")[::12]]
    assert reconstruction_f1(shipped, masks).mean() > reached


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_shipped_weights_on_masks_of_every_kind(shipped, kind):
    rng = np.random.default_rng(7)
    masks = [kind(256, rng) for _ in range(6)]
    assert np.median(reconstruction_f1(shipped, masks)) > 0.97  # of a few lines one pixel wide half can be lost
    assert np.median(reconstruction_f1(shipped, [edge_map(mask) for mask in masks], "edge")) > 0.95


def test_another_width_is_rebuilt_from_its_file(tmp_path):
    codec, y = LightVAE(width=5), torch.rand(1, 1, 16, 16)
    save_lightvae(tmp_path / "a.safetensors", codec, {})
    assert torch.equal(load_lightvae(tmp_path / "a.safetensors").encode(y), codec.encode(y))


def test_truncated_and_foreign_files_are_refused_by_name_and_hash(tmp_path):
    truncated, foreign = tmp_path / "truncated.safetensors", tmp_path / "foreign.safetensors"
    truncated.write_bytes(SHIPPED.read_bytes()[:-1000])
    save_weights(foreign, {"weight": torch.zeros(2)}, {"model": "Other"})
    for path in (truncated, foreign):
        with pytest.raises(DiffIMLError, match=rf"{path.name}.*sha256 [0-9a-f]{{64}}"):
            load_lightvae(path)
