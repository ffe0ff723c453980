"""How an image becomes a model's input, resized or padded, and how a map of that input becomes the image's again."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.launch import Sample
from diffiml_plugin.settings import (
    DEFAULT,
    FLAG,
    PADDING_MODES,
    CommonSettings,
    Setting,
    layer,
    require_choice,
    resolve,
)

_logger = logging.getLogger(__name__)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, of values in [0, 1]
MAX_IMAGE_SIZE = 4096  # pixels; the side of the largest input


@dataclass(frozen=True)
class InputSettings:
    """How images reach the model: resized or padded (as `Inputs` says); stored with the weights.

    Raises:
        DiffIMLError: a size or an edge band outside its range, or an unknown padding mode.
    """

    image_size: int = 512
    if_padding: bool = False
    edge_mask_width: int | None = None
    padding_mode: str = "constant"

    def __post_init__(self) -> None:
        for name, most in (("image_size", MAX_IMAGE_SIZE), ("edge_mask_width", 1000)):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= most:
                raise DiffIMLError(f"--{name} {value} is outside [1, {most}] pixels")
        require_choice("padding_mode", self.padding_mode, PADDING_MODES)

    @classmethod
    def settle(cls, settings: CommonSettings, wanted: Mapping[str, Setting]) -> dict[str, Setting]:
        """The fields that have a value, and who says it: the flags, else `wanted` (stored with the weights, or the
        card's), or the default.

        Raises:
            DiffIMLError: --padding_mode reflect of images that are resized.
        """
        flags = {field.name: getattr(settings, field.name) for field in fields(cls)}
        if settings.if_resizing:
            flags["if_padding"] = False
        settled = resolve(layer(flags, FLAG), wanted, layer(asdict(cls()), DEFAULT))
        if settings.padding_mode == "reflect" and not settled["if_padding"].value:
            raise DiffIMLError("--padding_mode reflect is of padded images, but these are resized; add --if_padding")
        return settled

    def warn_if_cut(self, longest_side: int, multiple: int | None = None) -> None:
        """Warns that images of so many pixels lose some, unless `Inputs` pads them to a `multiple`."""
        if self.if_padding and not multiple and longest_side > self.image_size:
            _logger.warning(
                f"--if_padding cuts images of up to {longest_side} pixels to their upper left "
                f"{self.image_size}x{self.image_size}; raise --image_size, or use --if_resizing"
            )


@dataclass(frozen=True)
class Geometry:
    """Where an image lies in a model's input: in the upper left at its own resolution, or stretched over all of it.

    Attributes:
        height, width: of the image, in pixels.
        padded: in the upper left.
    """

    height: int
    width: int
    padded: bool

    def undo(self, values: Tensor) -> np.ndarray:
        """A map of the input, [h, w], as one of the image: [H, W] float32."""
        array = values.float().cpu().numpy()
        if self.padded:
            return array[: self.height, : self.width]
        return cv2.resize(array, (self.width, self.height), interpolation=cv2.INTER_LINEAR)


@dataclass(frozen=True)
class Inputs:
    """Makes the inputs of one model, for datasets and for single images alike.

    Attributes:
        settings: a resized image fills a square of `image_size`. One that is padded lies in it: with `padding_mode`
            "constant" in black, as the framework does; with "reflect" in a frame of its own, whose sides are the next
            multiples, filled with its mirror image.
        multiple: pixels, `RegisteredModel.size_multiple`; a padded image that is larger than `image_size` gets a square
            of the next multiple, which holds it whole. None: datasets cut it off, as the framework does.

    Raises:
        DiffIMLError: "reflect" without a multiple.
    """

    settings: InputSettings
    multiple: int | None = None

    def __post_init__(self) -> None:
        if self._reflects and not self.multiple:
            raise DiffIMLError(
                "--padding_mode reflect gives each image a frame of its own, which this model does not "
                "take; use constant"
            )

    @property
    def _reflects(self) -> bool:
        return self.settings.if_padding and self.settings.padding_mode == "reflect"

    @property
    def one_size(self) -> bool:
        """Whether all images come in one frame."""
        return not (self.settings.if_padding and self.multiple)

    def frame(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in pixels of the input that an image of such sides becomes."""
        size, multiple = self.settings.image_size, self.multiple
        if not (self.settings.if_padding and multiple):
            return size, size
        height, width = (-(-side // multiple) * multiple for side in (height, width))
        return (height, width) if self._reflects else (max(height, width, size),) * 2

    def transform(
        self, image: np.ndarray, masks: Sequence[np.ndarray] | None = None, normalise: bool = True
    ) -> dict[str, Any]:
        """An image [H, W, 3] uint8 and masks [H, W] of it → "image" [3, h, w], "masks" [h, w].

        Args:
            normalise: by ImageNet's means and deviations, in float32; else the image stays uint8.
        """
        frame = self.frame(*image.shape[:2])
        if self.settings.if_padding:
            image = _placed(image, frame, "reflect" if self._reflects else "constant")
            masks = [_placed(mask, frame, "constant") for mask in masks or ()]
        else:  # as the framework's transforms do it
            size = frame[::-1]
            image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
            masks = [cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST) for mask in masks or ()]
        tensor = torch.from_numpy(image).permute(2, 0, 1)
        return {
            "image": normalised(tensor) if normalise else tensor,
            "masks": [torch.from_numpy(mask) for mask in masks],
        }

    def prepare(self, image: np.ndarray, name: str = "the image") -> tuple[Tensor, Geometry]:
        """One image as the model sees it, and the way back to its own pixels.

        Args:
            image: [H, W, 3] uint8 RGB, the pixels as they are stored.
            name: what messages call it.

        Returns:
            [3, h, w] float32, ImageNet-normalised, the same values as a dataset's; the geometry that undoes it.

        Raises:
            DiffIMLError: an array of another type or shape, or one that is too large for a model of one size.
        """
        require_image(image, name)
        height, width = image.shape[:2]
        size, padded = self.settings.image_size, self.settings.if_padding
        if padded and self.one_size and max(height, width) > size:
            raise DiffIMLError(
                f"{name} has {width}x{height} pixels, the model takes {size} at most; "
                "shrink it, or raise --image_size if the model can"
            )
        return self.transform(np.ascontiguousarray(image))["image"], Geometry(height, width, padded)

    def sample(self, image: np.ndarray, name: str) -> tuple[Sample, Geometry]:
        """As `prepare`, with all that the framework's datasets give beside an authentic image called `name`."""
        tensor, geometry = self.prepare(image, name)
        own, frame = (geometry.height, geometry.width), tuple(tensor.shape[1:])
        blank = torch.zeros(1, *frame, dtype=torch.float64)
        sample: Sample = {
            "image": tensor,
            "mask": blank,
            "label": 0,
            "origin_shape": torch.tensor(own),
            "shape": torch.tensor(own if geometry.padded else frame),
            "name": os.path.basename(name),
        }
        if self.settings.edge_mask_width is not None:
            sample["edge_mask"] = blank.float()
        if geometry.padded:
            sample["shape_mask"] = blank.clone()
            sample["shape_mask"][:, : geometry.height, : geometry.width] = 1
        return sample, geometry


def require_image(image: np.ndarray, name: str) -> None:
    """Raises DiffIMLError unless the array is [H, W, 3] uint8 and not empty."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise DiffIMLError(
            f"{name} is an array of {image.dtype} and shape {image.shape}; expected uint8 and (height, width, 3), RGB"
        )


def normalised(image: Tensor) -> Tensor:
    """[..., 3, H, W] uint8 RGB → ImageNet-normalised float32, to the bit what albumentations makes of it."""
    mean = 255 * torch.tensor(_MEAN).view(3, 1, 1)
    scale = (255 * torch.tensor(_STD).view(3, 1, 1)).reciprocal()
    mean, scale = (part.to(image.device, non_blocking=True) for part in (mean, scale))
    return (image.float() - mean) * scale


def _placed(plane: np.ndarray, frame: tuple[int, int], mode: Literal["constant", "reflect"]) -> np.ndarray:
    """A plane [H, W, ...] in the upper left of a frame, cut off where that is smaller."""
    plane = plane[: frame[0], : frame[1]]
    missing = [(0, side - extent) for side, extent in zip(frame, plane.shape[:2], strict=True)]
    return np.pad(plane, [*missing, *[(0, 0)] * (plane.ndim - 2)], mode)
