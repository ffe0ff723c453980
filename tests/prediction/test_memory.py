import pytest
import torch
from torch import nn

from diffiml_plugin.method.config import DiffIMLConfig
from diffiml_plugin.method.diffiml import DiffIML
from diffiml_plugin.method.encoders import build_encoder
from diffiml_plugin.method.lightvae import LightVAE
from diffiml_plugin.prediction.memory import _Allocations


@torch.no_grad()
def peak(run, *inputs) -> int:
    """The most bytes of tensors that lived at once in a call."""
    with _Allocations() as allocations:
        run(*inputs)
    return allocations.peak


def test_weights_are_no_memory_of_a_pass():
    layer, image = nn.Linear(1000, 1000), torch.zeros(1, 1000)  # the matrix product sees its weights through a view
    assert peak(layer, image) == 4 * 1000
    assert peak(lambda: layer(torch.zeros(1, 1000)).mul_(2)) == 2 * 4 * 1000


@pytest.fixture
def method():
    torch.manual_seed(0)
    own = DiffIML(DiffIMLConfig(denoiser="light", num_inference_steps=1), build_encoder("segformer_b3"), LightVAE())
    return own.eval().to(memory_format=torch.channels_last)


def test_five_members_take_a_quarter_more_memory_than_one_at_the_most(method):
    """What takes most is the encoder, which runs once whatever N is."""
    image = torch.zeros(1, 3, 128, 128)
    one, five = (method.with_settings(ensemble_size=members) for members in (1, 5))
    peaks = [peak(own, image, own.draw_noise(["a"], image.shape[-2:]), True) for own in (one, five)]
    assert peaks[1] <= 1.25 * peaks[0], peaks
