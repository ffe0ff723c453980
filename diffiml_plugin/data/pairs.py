"""The framework's datasets, fed with checked pairs, in an order and with an augmentation that the seed decides."""

from collections.abc import Callable
from typing import Any

import albumentations as albu
import numpy as np
from albumentations.pytorch import ToTensorV2
from PIL import Image
from torch.utils.data import Dataset

from diffiml_plugin.data.images import open_image
from diffiml_plugin.data.lists import ImageList
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.framework.imdlbenco import BalancedDataset, JsonDataset, get_albu_transforms
from diffiml_plugin.models.inputs import InputSettings
from diffiml_plugin.models.registry import RegisteredModel


class PairsDataset(JsonDataset):
    """The framework's dataset, of pairs that were read and checked before.

    Args:
        multiple: pixels; a padded image that is larger than the output size gets a square of the next multiple,
            which holds it whole. None cuts it off, as the framework does.
        padding_mode: "constant", black, as the framework does; "reflect": every padded image gets a frame of its own,
            whose sides are the next multiples, filled with its mirror image.
        framework: what IMDLBenCo's datasets takes: is_padding, output_size, post_funcs...

    Raises:
        DiffIMLError: "reflect" without a multiple.
    """

    def __init__(
        self, listed: ImageList, multiple: int | None = None, padding_mode: str = "constant", **framework: Any
    ):
        super().__init__(listed, **framework)
        self.multiple = multiple if self.is_padding else None
        self.reflect = self.is_padding and padding_mode == "reflect"
        if self.reflect and not multiple:
            raise DiffIMLError(
                "--padding_mode reflect gives each image a frame of its own, which this model does not "
                "take; use constant"
            )
        if self.multiple:
            self.post_transform = self._pad

    def frame(self, index: int) -> tuple[int, int]:
        """Height and width of sample `index`, in pixels."""
        if not self.multiple:
            return self.output_size
        with Image.open(self.tp_path[index]) as image:
            return self._frame(*image.size[::-1])

    def _frame(self, height: int, width: int) -> tuple[int, int]:
        height, width = (-(-side // self.multiple) * self.multiple for side in (height, width))
        return (height, width) if self.reflect else (max(height, width, self.output_size[0]),) * 2

    def _pad(self, image: np.ndarray, masks: list[np.ndarray]) -> dict[str, Any]:
        extents = image.shape[:2]
        frame = self._frame(*extents)
        if not self.reflect:
            return get_albu_transforms("pad", output_size=frame)(image=image, masks=masks)
        missing = [(0, side - extent) for side, extent in zip(frame, extents, strict=True)]
        normalised = albu.Compose([albu.Normalize(), ToTensorV2(transpose_mask=True)])  # the framework's take squares
        return normalised(
            image=np.pad(image, [*missing, (0, 0)], "reflect"), masks=[np.pad(mask, missing) for mask in masks]
        )

    def _init_dataset_path(self, path: ImageList) -> tuple[list[str], list[str]]:
        self.entry_path = path.source
        return list(path.images), list(path.masks)


class BalancedPairsDataset(BalancedDataset):
    """The framework's balanced sampling: `sample_number` random images of each dataset per epoch."""

    def __init__(self, datasets: list[Dataset], sample_number: int):
        self.sample_number = sample_number
        self.settings_list = [[dataset.entry_path, type(dataset)] for dataset in datasets]
        self.dataset_list = datasets


def framework_arguments(inputs: InputSettings, transform: Any, post: Callable[[dict], None] | None) -> dict[str, Any]:
    """The framework's dataset arguments. `transform` is an albumentations pipeline, applied before resizing."""
    return {
        "is_resizing": not inputs.if_padding,
        "is_padding": inputs.if_padding,
        "output_size": (inputs.image_size, inputs.image_size),
        "edge_width": inputs.edge_mask_width,
        "common_transforms": transform,
        "post_funcs": post,
        "img_loader": open_image,
    }


def test_transform() -> Any:
    """Nothing; the framework's dataset then takes an image's label from its mask."""
    return get_albu_transforms("test")


def make_test_set(
    listed: ImageList, inputs: InputSettings, card: RegisteredModel, transform: Any = None
) -> PairsDataset:
    """The images as the model is tested on them; `transform` is applied at their own size."""
    framework = framework_arguments(inputs, transform or test_transform(), card.post_function)
    return PairsDataset(listed, card.size_multiple, inputs.padding_mode, **framework)
