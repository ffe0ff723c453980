"""The library's face: `load` makes a detector of photos, `load_model` a module of tensors.

from diffiml_plugin import load

detector = load("small")
result = detector("photo.jpg")
result.mask, result.probability, result.uncertainty, result.score
result.sentence, result.verdict, result.image_probability, result.regions
result.save("out/")
"""

import math
import os
from typing import Any

import torch
from torch import Tensor, nn

from diffiml_plugin.errors import DiffIMLError, of_arguments
from diffiml_plugin.launch import require_torchs_defaults
from diffiml_plugin.models.opened import open_model
from diffiml_plugin.prediction.detector import Detector
from diffiml_plugin.prediction.photograph import Photo
from diffiml_plugin.prediction.result import Result
from diffiml_plugin.settings import CommonSettings
from diffiml_plugin.stored import typed
from diffiml_plugin.weights import hub

__all__ = ["Detector", "Photo", "Result", "load", "load_model"]
_HIGHEST = 2.7  # of an ImageNet-normalised image: white in blue, (1 - 0.406) / 0.225, is 2.64


@typed
def load(
    name_or_path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    device: str = "auto",
    image_size: int | None = None,
    threshold: float | None = None,
    precision: str = "auto",
    compile: str = "auto",
    max_memory: float | None = None,
    model: str = "",
    **settings: Any,
) -> Detector:
    """A trained model, ready for photos: `load("small")("photo.jpg").mask`.

    Args:
        name_or_path: `small`, the model that travels with the package; a file of weights; the folder of a training,
            whose best weights count, or of `save_pretrained`; or ORGANISATION/NAME of the hub, where there is no such
            path. What was fetched once is found offline.
        revision: of the hub: a commit, which stays what it is, a tag or a branch; None: the newest.
        device: auto (a GPU, if there is one), cuda or cpu.
        image_size: pixels, the side that the model works at; None: as it was trained.
        threshold: in [0, 1]; a pixel of higher probability counts as manipulated. None: the checkpoint's own, else 0.5.
        precision: of encoder and denoiser: auto (fp16 on a GPU), fp32, bf16 or fp16.
        compile: auto (on a GPU), on or off: compile DiffIML and capture CUDA graphs.
        max_memory: GB that a prediction may take, as `Detector` says; larger photos go in tiles. None: those of more
            than 4 megapixels, in tiles of 1536x1536, or of less where the computer's memory does not suffice.
        model: its name in the framework's registry, for a file that does not say.
        settings: of the model's constructor, where they change how it runs: DiffIML's ensemble_size,
            num_inference_steps, sampler, tta, noise_seed. The rest is as stored.

    Raises:
        DiffIMLError: no such file, a damaged or foreign one; a device that is not there; a setting that the model does
            not have, or a value of another type or outside its range.
    """
    with of_arguments():
        common = CommonSettings(image_size=image_size, device=device)
        place = _place(name_or_path, revision)
        return Detector(place, common, model, settings, threshold, precision, compile, max_memory)


def _place(name_or_path: str | os.PathLike[str], revision: str | None) -> str:
    """What `find_checkpoint` takes: the hub's name with its prefix, unless there is such a path."""
    name = os.fspath(name_or_path)
    if revision is None and (os.path.exists(name) or not hub.is_name(name)):
        return name
    return hub.PREFIX + name.removeprefix(hub.PREFIX) + (f"@{revision}" if revision else "")


@typed
def load_model(path: str | os.PathLike[str]) -> nn.Module:
    """The model of a checkpoint for tensors, on the CPU, in test mode: `model(image=...)["pred_mask"]`.

    `image` is [B, 3, H, W], B 1 or more, floating-point and ImageNet-normalised; DiffIML's sides are multiples of 32.
    `noise_key`, B strings, decides the noise; without it the image's values do, never a name. The mask is [B, 1, H, W]
    float32 in [0, 1]. Half and double precision are computed in the weights' own, float32.

    Args:
        path: as `load` takes it.

    Raises:
        DiffIMLError: as `load`. The model raises it for an image that is no such tensor: uint8, values in [0, 1] or
            [0, 255], which are not normalised, or not finite, an empty batch, another shape; and where its weights
            were cast, or torch's default type or device is another.
    """
    with of_arguments():
        module = open_model(path, CommonSettings(), torch.device("cpu")).build().eval()
    module.register_forward_pre_hook(_require_normalised, with_kwargs=True)
    return module


def _require_normalised(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """Checks the image of a call of the module, and gives it the precision of the weights."""
    if not torch.compiler.is_compiling():
        require_torchs_defaults()
    image, *others = args or (kwargs.pop("image", None),)
    if not isinstance(image, Tensor):
        raise DiffIMLError(
            f"image is a {type(image).__name__}; this model takes tensors [B, 3, H, W], "
            "and diffiml_plugin.load one for paths, PIL images and arrays"
        )
    if image.ndim != 4 or image.shape[1] != 3 or 0 in image.shape:
        raise DiffIMLError(f"image has shape {tuple(image.shape)}; expected [B, 3, H, W], none of them 0")
    weights = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    if weights is not torch.float32:
        raise DiffIMLError(f"the weights were cast to {weights}; keep them in float32, and call under torch.autocast")
    if not image.is_floating_point() or _is_raw(image):
        raise DiffIMLError(
            f"image holds {image.dtype} from {image.min():.4g} to {image.max():.4g}, which is not normalised; expected "
            "(image in [0, 1] - mean) / std with ImageNet's mean and std, or diffiml_plugin.load, which takes photos"
        )
    return (image.to(weights), *others), kwargs


def _is_raw(image: Tensor) -> bool:
    """Whether these can only be a photo's values in [0, 1] or [0, 255], or none; one value alone says nothing."""
    if torch.compiler.is_compiling():  # which cannot branch on values
        return False
    low, high = (value.item() for value in image.aminmax())
    return not math.isfinite(high - low) or (low >= 0 and low != high and (high <= 1 or high > _HIGHEST))
