"""The framework's datasets, fed with checked pairs, in an order and with an augmentation that the seed decides."""

from collections.abc import Callable
from typing import Any

from PIL import Image

from diffiml_plugin.data.images import open_image
from diffiml_plugin.data.lists import ImageList
from diffiml_plugin.framework.imdlbenco import BalancedDataset, JsonDataset, get_albu_transforms
from diffiml_plugin.models.inputs import Inputs, InputSettings
from diffiml_plugin.models.registry import RegisteredModel


class PairsDataset(JsonDataset):
    """The framework's dataset, of pairs that were read and checked before.

    Args:
        transform, post: as `framework_arguments` takes them.
    """

    def __init__(
        self, listed: ImageList, inputs: Inputs, transform: Any = None, post: Callable[[dict], None] | None = None
    ):
        super().__init__(listed, **framework_arguments(inputs.settings, transform, post))
        self.inputs = inputs
        self.post_transform = inputs.transform

    def frame(self, index: int) -> tuple[int, int]:
        """Height and width of sample `index`, in pixels."""
        if self.inputs.one_size:
            return self.output_size
        with Image.open(self.tp_path[index]) as image:
            return self.inputs.frame(*image.size[::-1])

    def _init_dataset_path(self, path: ImageList) -> tuple[list[str], list[str]]:
        self.entry_path = path.source
        return list(path.images), list(path.masks)


class BalancedPairsDataset(BalancedDataset):
    """The framework's balanced sampling: `sample_number` random images of each dataset per epoch."""

    def __init__(self, datasets: list[Any], sample_number: int):
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
    return PairsDataset(listed, Inputs(inputs, card.size_multiple), transform or test_transform(), card.post_function)
