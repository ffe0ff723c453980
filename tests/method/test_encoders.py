"""Every encoder inherits the same tests from EncoderTester; what is particular to one follows below."""

import socket

import numpy as np
import pytest
import torch
from timm.data import IMAGENET_DEFAULT_STD

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.method.encoders import STRIDES, NoiseResiduals, build_encoder


@pytest.fixture(scope="class")
def encoder(request):
    torch.manual_seed(0)
    return build_encoder(request.cls.name)


class EncoderTester:
    name: str
    channels: tuple[int, int, int, int]

    @pytest.mark.parametrize("size", [(64, 64), (32, 96), (160, 64)])
    def test_feature_maps_of_any_size(self, encoder, size):
        with torch.no_grad():
            features = encoder.eval()(torch.randn(2, 3, *size))
        assert encoder.channels == self.channels
        assert [tuple(x.shape) for x in features] == [
            (2, c, size[0] // s, size[1] // s) for c, s in zip(self.channels, STRIDES, strict=True)
        ]
        assert all(x.isfinite().all() and x.std() > 0 for x in features)

    def test_every_parameter_is_used(self, encoder):
        """DistributedDataParallel waits for a gradient of each."""
        encoder.train().zero_grad(set_to_none=True)
        sum(x.square().mean() for x in encoder(torch.randn(2, 3, 64, 64))).backward()
        assert [name for name, p in encoder.named_parameters() if p.grad is None or not p.requires_grad] == []

    def test_a_result_does_not_depend_on_the_batch(self, encoder):
        image = torch.randn(3, 3, 64, 64)
        with torch.no_grad():
            alone = encoder.eval()(image[1:2])
            together = encoder(image)
        for one, many in zip(alone, together, strict=True):
            assert torch.allclose(one, many[1:2], atol=1e-5)

    def test_saved_and_loaded_weights_give_equal_features(self, encoder, tmp_path):
        torch.save(encoder.state_dict(), tmp_path / "encoder.pt")
        other = build_encoder(self.name)
        image = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            expected = encoder.eval()(image)
            assert not torch.equal(other.eval()(image)[-1], expected[-1])
            other.load_state_dict(torch.load(tmp_path / "encoder.pt", weights_only=True))
            for loaded, saved in zip(other(image), expected, strict=True):
                assert torch.equal(loaded, saved)


class TestSegformerB0(EncoderTester):
    name = "segformer_b0"
    channels = (32, 64, 160, 256)


class TestResNet50(EncoderTester):
    name = "resnet50"
    channels = (256, 512, 1024, 2048)


class TestMobileNet(EncoderTester):
    name = "mobilenetv3_small_050"
    channels = (8, 16, 24, 288)


class TestNoiseResidualsInMobileNet(EncoderTester):
    name = "srm_mobilenetv3_small_050"
    channels = (8, 16, 24, 288)


class TestPvt(EncoderTester):
    name = "pvt_v2_b0"
    channels = (32, 64, 160, 256)


class TestChannelsLastSwin(EncoderTester):
    name = "swin_tiny_patch4_window7_224"
    channels = (96, 192, 384, 768)


class TestViT(EncoderTester):
    name = "test_vit"
    channels = (16, 32, 64, 64)


class TestViTThatAverages(EncoderTester):
    name = "test_vit2"  # its norm is behind the average, in timm
    channels = (16, 32, 64, 64)


class TestViTThatPoolsByAttention(EncoderTester):
    name = "test_vit3"
    channels = (24, 48, 96, 96)


class TestDinoV3(EncoderTester):
    name = "vit_small_patch16_dinov3_qkvb"  # rotary positions
    channels = (96, 192, 384, 384)


class TestNoiseResidualsInViT(EncoderTester):
    name = "srm_test_vit"
    channels = (16, 32, 64, 64)


@pytest.mark.parametrize("name", ["test_vit", "vit_small_patch16_dinov3_qkvb"])
@torch.no_grad()
def test_a_vits_pyramid_stands_on_timms_last_map(name):
    encoder, image = build_encoder(name).eval(), torch.randn(2, 3, 64, 96)
    options = {"indices": 1, "norm": True, "output_fmt": "NCHW", "intermediates_only": True}
    (expected,) = encoder.net.forward_intermediates(image * encoder.scale + encoder.shift, **options)
    maps = encoder(image)
    assert torch.allclose(maps[2], expected, atol=1e-5)
    assert torch.equal(maps[3], torch.nn.functional.max_pool2d(maps[2], 2))
    assert torch.allclose(maps[1], encoder.to_stride_8(maps[2])) and torch.allclose(
        maps[0], encoder.to_stride_4(maps[2])
    )


@pytest.mark.parametrize(
    ("name", "millions"),
    [("segformer_b2", 24.196), ("segformer_b3", 44.072), ("segformer_b4", 60.843), ("resnet101", 42.500)],
)
def test_parameters(name, millions):
    count = sum(p.numel() for p in build_encoder(name).parameters())
    assert count / 1e6 == pytest.approx(millions, abs=5e-4)


def test_drop_path_grows_to_a_tenth():
    blocks = [block for stage in build_encoder("segformer_b0").stages for block in stage.blocks]
    rates = [block.drop_path.drop_prob for block in blocks]
    assert rates == pytest.approx([i / 70 for i in range(8)])


def test_initial_weights():
    b0 = build_encoder("segformer_b0")
    assert b0.stages[3].blocks[0].ffn.expand.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert b0.stages[3].blocks[0].ffn.depthwise.weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.03)
    assert b0.stages[3].embed.proj.weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.03)


def test_building_opens_no_connection(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("network")

    monkeypatch.setattr(socket, "socket", refuse)
    for name in ("segformer_b0", "resnet50", "pvt_v2_b0"):
        build_encoder(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("segformer_b9", "did you mean 'segformer_b5'"),
        ("resnt50", "did you mean 'resnet50'"),
        ("hf-hub:timm/resnet50.a1_in1k", "nor a timm model"),
        ("resnet50.no_such_tag", "no_such_tag"),
        ("vit_tiny_r_s16_p8_224", r"not at \[4, 8, 16\]"),
        ("coatnet_pico_rw_224", "does not take images of any size"),
        ("mvitv2_tiny", "does not take images of any size"),
    ],
)
def test_an_unsuitable_name_is_refused(name, message):
    with pytest.raises(DiffIMLError, match=message):
        build_encoder(name)


def test_noise_residuals_see_noise_and_neither_level_nor_slope():
    """A plane is filtered out; one grey level of noise is not, at any brightness, and content is clipped."""
    deviation = 255 * torch.tensor(IMAGENET_DEFAULT_STD).view(1, 3, 1, 1)
    slope = torch.arange(32.0).view(1, 1, 1, 32).expand(1, 3, 32, 32)
    torch.manual_seed(0)
    noise = torch.randn(1, 3, 32, 32)
    inside = np.s_[:, 3:, 3:-3, 3:-3]
    residuals = NoiseResiduals()
    assert residuals(slope / deviation)[inside].abs().max() < 1e-4
    of_noise = residuals(noise / deviation)[inside]
    assert torch.allclose(residuals((slope + noise) / deviation)[inside], of_noise, atol=1e-4)
    assert 0.1 < of_noise.std() < 1
    assert residuals(100 * noise / deviation)[inside].abs().max() == 2
