"""An image on its way to a model, and a map on its way back: tested as a pair, and against the framework's datasets."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from diffiml_plugin.data.lists import NEGATIVE, ImageList
from diffiml_plugin.data.pairs import PairsDataset, test_transform
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.framework.imdlbenco import JsonDataset, get_albu_transforms
from diffiml_plugin.models.inputs import Inputs, InputSettings

test_transform.__test__ = False
RESIZED, PADDED = InputSettings(64), InputSettings(64, if_padding=True)
REFLECTED = InputSettings(64, if_padding=True, padding_mode="reflect")
SIZES = [(50, 90), (64, 64), (1, 7), (97, 33)]


def photo(height, width):
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def stored(tmp_path):
    def store(pixels):
        Image.fromarray(pixels).save(tmp_path / "photo.png")
        return str(tmp_path / "photo.png")

    return store


@pytest.mark.parametrize("settings", [RESIZED, PADDED, REFLECTED, InputSettings(64, edge_mask_width=7)], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_sample_is_the_datasets_to_the_last_bit(stored, settings, size):
    if settings.edge_mask_width and min(size) <= 7:
        pytest.skip("the framework draws no edge there")
    pixels = photo(*size)
    path, inputs = stored(pixels), Inputs(settings, 32)
    expected = PairsDataset(ImageList("", (path,), (NEGATIVE,)), inputs, test_transform())[0]
    sample, _ = inputs.sample(pixels, path)
    assert sample.keys() == expected.keys()
    for key, value in expected.items():
        assert type(sample[key]) is type(value)
        if isinstance(value, torch.Tensor):
            assert sample[key].dtype == value.dtype and torch.equal(sample[key], value), key
        else:
            assert sample[key] == value, key


@pytest.mark.parametrize("settings", [RESIZED, PADDED], ids=str)
def test_the_tensor_is_the_frameworks_own(stored, tmp_path, settings):
    pixels = photo(50, 60)
    (tmp_path / "list.json").write_text(json.dumps([[stored(pixels), NEGATIVE]]))
    framework = JsonDataset(
        str(tmp_path / "list.json"),
        is_padding=settings.if_padding,
        is_resizing=not settings.if_padding,
        output_size=(64, 64),
        common_transforms=get_albu_transforms("test"),
    )
    assert torch.equal(Inputs(settings).prepare(pixels)[0], framework[0]["image"])


@pytest.mark.parametrize("settings", [PADDED, REFLECTED], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_what_was_padded_comes_back_to_the_last_bit(settings, size):
    pixels = photo(*size)
    tensor, geometry = Inputs(settings, 32).prepare(pixels)
    assert tensor.shape[1] % 32 == tensor.shape[2] % 32 == 0
    for channel, mean, deviation in zip(range(3), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True):
        back = geometry.undo(tensor[channel] * deviation + mean)
        assert back.dtype == np.float32 and np.array_equal(np.round(255 * back), pixels[..., channel])


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_what_was_resized_comes_back_in_place(size):
    height, width = size
    across = np.broadcast_to(np.linspace(0, 255, width), size)
    down = np.broadcast_to(np.linspace(0, 255, height)[:, None], size)
    pixels = np.stack([across, down, across], 2).astype(np.uint8)
    tensor, geometry = Inputs(RESIZED).prepare(pixels)
    assert tensor.shape == (3, 64, 64)
    for channel, mean, deviation in ((0, 0.485, 0.229), (1, 0.456, 0.224)):
        back = 255 * geometry.undo(tensor[channel] * deviation + mean)
        assert back.shape == size and np.abs(back - pixels[..., channel]).max() < 255 / 20


def test_half_precision_comes_back_as_float32():
    _, geometry = Inputs(RESIZED).prepare(photo(50, 90))
    assert geometry.undo(torch.zeros(64, 64, dtype=torch.bfloat16)).dtype == np.float32


def test_views_of_an_array_are_images_too():
    pixels = photo(50, 90)
    mirrored, _ = Inputs(RESIZED).prepare(pixels[:, ::-1])
    assert torch.equal(mirrored, Inputs(RESIZED).prepare(np.ascontiguousarray(pixels[:, ::-1]))[0])
    pixels.flags.writeable = False
    Inputs(PADDED, 32).prepare(pixels)


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (photo(8, 8) / 255, r"mine is an array of float64 and shape \(8, 8, 3\); expected uint8"),
        (photo(8, 8)[..., 0], r"of uint8 and shape \(8, 8\)"),
        (photo(8, 8).transpose(2, 0, 1), r"shape \(3, 8, 8\)"),
        (photo(8, 8)[:0], r"shape \(0, 8, 3\)"),
    ],
)
def test_another_type_or_shape_is_refused(array, told):
    with pytest.raises(DiffIMLError, match=told):
        Inputs(RESIZED).prepare(array, "mine")


def test_a_padded_image_has_a_frame_that_holds_it_or_is_refused():
    assert Inputs(PADDED, 32).frame(50, 90) == (96, 96) and Inputs(PADDED, 32).frame(20, 30) == (64, 64)
    assert Inputs(REFLECTED, 32).frame(50, 90) == (64, 96)
    assert Inputs(RESIZED, 32).frame(50, 90) == Inputs(PADDED).frame(50, 90) == (64, 64)
    with pytest.raises(DiffIMLError, match="mine has 90x50 pixels, the model takes 64 at most"):
        Inputs(PADDED).prepare(photo(50, 90), "mine")
