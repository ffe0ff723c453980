"""Samples as they travel from a loader's worker to the device: a fifth of the bytes, and the same values there."""

import torch
from torch import Tensor

from diffiml_plugin.launch import Sample, to_device
from diffiml_plugin.models.inputs import normalised

_BINARY = {  # key of a sample -> its type in the framework's datasets; 0 and 1 fit into a byte
    "mask": torch.float64,
    "shape_mask": torch.float64,
    "edge_mask": torch.float32,
    "edge_map": torch.float32,
}


def pack(sample: Sample) -> Sample:
    """The sample with its binary maps in uint8; maps of other values or types stay as they are."""
    return {key: _packed(value, _BINARY[key]) if key in _BINARY else value for key, value in sample.items()}


def unpack(batch: Sample, device: torch.device) -> Sample:
    """A batch of packed samples on `device`, its maps in the framework's types, its images normalised."""
    batch = to_device(batch, device)
    for key, value in batch.items():
        if isinstance(value, Tensor) and value.dtype == torch.uint8:
            batch[key] = normalised(value) if key == "image" else value.to(_BINARY.get(key, torch.uint8))
    return batch


def _packed(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    packed = tensor.to(torch.uint8)
    return packed if tensor.dtype == dtype and torch.equal(packed.to(dtype), tensor) else tensor
