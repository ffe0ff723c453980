from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from diffiml_plugin.framework.imdlbenco import MODELS
from diffiml_plugin.models.checkpoints import save_checkpoint


class BrightnessModel(nn.Module):
    """Calls bright pixels tampered: what it answers can be worked out by hand."""

    size_multiple = 2

    def __init__(self, gain: float = 1.0):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, image, mask=None, label=None, name=None, details=False, *args, **kwargs):
        brightness = torch.sigmoid(2 * self.gain * image.mean(1, keepdim=True))
        return {"pred_mask": brightness, "pred_label": brightness.amax((1, 2, 3)), "uncertainty": brightness * 0 + 0.25}


@pytest.fixture(scope="session")
def brightness_model() -> type[nn.Module]:
    """Registers BrightnessModel."""
    MODELS.register_module(module=BrightnessModel)
    return BrightnessModel


@pytest.fixture
def checkpoint(brightness_model: type[nn.Module], tmp_path: Path) -> Path:
    """Of a BrightnessModel trained at 64 pixels."""
    path = tmp_path / "weights.safetensors"
    save_checkpoint(path, brightness_model(), "BrightnessModel", {"gain": 1.0}, input={"image_size": 64})
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dark image with a bright right half, 90x60; and its twin of the same stem in a sub-folder."""
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[:, 45:] = 255
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("a.png", "a.bmp", "deep/a.png"):
        Image.fromarray(pixels).save(tmp_path / "in" / name)
    return tmp_path / "in"
