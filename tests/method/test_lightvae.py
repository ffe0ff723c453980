import pytest
import torch

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.method.lightvae import LightVAE


def test_budget_and_shapes():
    codec = LightVAE()
    assert sum(parameter.numel() for parameter in codec.parameters()) <= 80_000
    y = torch.rand(2, 1, 40, 64)
    latent = codec.encode(y)
    assert latent.shape == (2, 4, 5, 8)
    decoded = codec.decode(latent)
    assert decoded.shape == y.shape and decoded.min() >= 0 and decoded.max() <= 1


def test_each_target_has_its_own_scale_and_decoding_undoes_it():
    torch.manual_seed(0)
    codec, y = LightVAE(width=4), torch.rand(1, 1, 16, 16)
    plain = codec.encode(y, "edge")
    expected = codec.decode(plain, "edge")
    codec.latent_mean[1] = torch.tensor([1.0, -2.0, 3.0, 0.5])
    codec.latent_std[1] = torch.tensor([2.0, 0.5, 4.0, 1.0])
    scaled = codec.encode(y, "edge")
    assert torch.allclose(scaled[0, 1], (plain[0, 1] + 2) / 0.5, atol=1e-5)
    assert torch.allclose(codec.decode(scaled, "edge"), expected, atol=1e-5)
    assert torch.equal(codec.encode(y, "mask"), plain)


def test_sides_and_targets_are_checked():
    with pytest.raises(DiffIMLError, match="30x32"):
        LightVAE(width=2).encode(torch.zeros(1, 1, 30, 32))
    with pytest.raises(DiffIMLError, match="'edges'"):
        LightVAE(width=2).encode(torch.zeros(1, 1, 32, 32), "edges")
