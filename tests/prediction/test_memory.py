import time

import pytest
import torch
from torch import nn

from diffiml_plugin.api import load
from diffiml_plugin.method.config import DiffIMLConfig
from diffiml_plugin.method.diffiml import DiffIML
from diffiml_plugin.method.encoders import build_encoder
from diffiml_plugin.method.lightvae import LightVAE
from diffiml_plugin.prediction import files as module
from diffiml_plugin.prediction.files import predict
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


def test_pixels_in_memory_are_bounded(monkeypatch):
    monkeypatch.setattr(module, "_PIXELS", 100)
    queue = module._Queue()
    assert not queue.full_with(1000)  # one alone never is
    queue.put("a", None, 60)
    assert queue.full_with(50) and not queue.full_with(40)
    assert queue.get() == ("a", None) and not queue.full_with(1000)


def test_a_large_photo_is_read_when_those_before_are_written(checkpoint, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PIXELS", 100)
    events, detector = [], load(checkpoint, device="cpu")
    read_photo, write = detector.read, module.write_result

    def slowly(result, start):
        time.sleep(0.1)
        files = write(result, start)
        events.append("written")
        return files

    monkeypatch.setattr(detector, "read", lambda photo: (events.append("read"), read_photo(photo))[1])
    monkeypatch.setattr(module, "write_result", slowly)
    assert predict(detector, [str(folder)], tmp_path / "out").total() == 3
    assert events == ["read", "written"] * 3
