import sys

import pytest
import torch
from torch import nn

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.method.adaptation import adapt
from diffiml_plugin.method.config import DiffIMLConfig, EncoderConfig
from diffiml_plugin.method.diffiml import DiffIML
from diffiml_plugin.method.encoders import build_encoder
from diffiml_plugin.method.lightvae import LightVAE
from diffiml_plugin.method.segmenter import Segmenter

ATTENTION = ["test_vit", "vit_small_patch16_dinov3_qkvb", "segformer_b0", "pvt_v2_b0"]


def adapted(name, freeze=False, rank=0):
    torch.manual_seed(0)
    encoder = build_encoder(name)
    adapt(encoder.backbone, freeze, rank)
    return encoder


def gradients(encoder):
    """The names of the parameters that get one."""
    sum(x.square().mean() for x in encoder(torch.randn(2, 3, 64, 64))).backward()
    return {name for name, parameter in encoder.named_parameters() if parameter.grad is not None}


def trained(encoder):
    return {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("name", ["test_vit", "resnet10t"])
def test_a_frozen_backbone_leaves_the_pyramid_to_be_trained(name):
    encoder = adapted(name, freeze=True)
    assert all(part.startswith("to_stride") for part in trained(encoder))
    if name == "test_vit":
        assert gradients(encoder) == trained(encoder) != set()


@pytest.mark.parametrize("name", ATTENTION)
def test_low_rank_changes_start_at_nothing_and_are_all_that_is_trained_of_a_backbone(name):
    image = torch.randn(1, 3, 64, 64)
    encoder, plain = adapted(name, rank=3), adapted(name)
    with torch.no_grad():
        for mine, its in zip(encoder.eval()(image), plain.eval()(image), strict=True):
            assert torch.allclose(mine, its, atol=1e-5)
    assert gradients(encoder) == trained(encoder)  # each is used, which DistributedDataParallel waits for
    of_backbone = {part for part in trained(encoder) if not part.startswith("to_stride")}
    assert of_backbone and all("lora_" in part for part in of_backbone)
    assert all(min(encoder.get_parameter(part).shape) == 3 for part in of_backbone)
    with torch.no_grad():
        for part in of_backbone:
            encoder.get_parameter(part).add_(0.1)
        assert not torch.equal(encoder(image)[2], plain(image)[2])


@pytest.mark.parametrize("make", [lambda encoder: Segmenter(encoder), lambda encoder: DiffIML(CONFIG, encoder, CODEC)])
def test_statistics_of_a_frozen_encoder_stay(make):
    for freeze in (True, False):
        encoder = adapted("resnet10t", freeze)
        model = make(encoder).train()
        before = {name: tensor.clone() for name, tensor in encoder.named_buffers()}
        model.condition_encoder(torch.randn(2, 3, 64, 64) + 5)
        assert all(torch.equal(before[name], tensor) for name, tensor in encoder.named_buffers()) == freeze
        assert model.training and encoder.training is not freeze


CODEC, CONFIG = LightVAE(), DiffIMLConfig(encoder="resnet10t")


def test_a_backbone_without_attention_is_refused():
    with pytest.raises(DiffIMLError, match="lora=4 changes attention, of which .* has none"):
        adapt(build_encoder("resnet10t").backbone, False, 4)


def test_without_peft_the_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(DiffIMLError, match=r"pip install 'diffiml-plugin\[lora\]'"):
        adapt(nn.ModuleDict({"qkv": nn.Linear(2, 6)}), False, 1)


def test_a_rank_below_0_is_refused():
    with pytest.raises(DiffIMLError, match="lora=-1 is a rank"):
        EncoderConfig(lora=-1)
