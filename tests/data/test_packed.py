import albumentations as albu
import numpy as np
import torch

from diffiml_plugin.data.packed import pack, unpack
from diffiml_plugin.models.inputs import normalised

CPU = torch.device("cpu")


def test_maps_travel_in_bytes_and_arrive_as_they_were():
    plane = (torch.rand(1, 8, 8) > 0.5).double()
    sample = {"image": torch.randn(3, 8, 8), "mask": plane, "shape_mask": plane, "name": "a", "label": 1}
    sample |= {"edge_map": plane.float(), "edge_mask": plane.float()}
    packed = pack(sample)
    assert {packed[key].dtype for key in ("mask", "shape_mask", "edge_map", "edge_mask")} == {torch.uint8}
    arrived = unpack(packed, CPU)
    for key, value in sample.items():
        same = torch.equal(arrived[key], value) if isinstance(value, torch.Tensor) else arrived[key] == value
        assert same and type(arrived[key]) is type(value), key
        assert not isinstance(value, torch.Tensor) or arrived[key].dtype == value.dtype


def test_maps_that_are_not_binary_or_of_another_type_stay_as_they_are():
    soft = {"mask": torch.full((1, 2, 2), 0.5, dtype=torch.float64), "edge_map": torch.ones(1, 2, 2).double()}
    for key, value in pack(soft).items():
        assert value is soft[key]


def test_normalising_on_the_device_gives_what_the_worker_gave():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    expected = torch.from_numpy(albu.Normalize()(image=pixels)["image"]).permute(2, 0, 1)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    assert torch.equal(normalised(image), expected)
    assert torch.equal(unpack({"image": image[None]}, CPU)["image"], expected[None])
