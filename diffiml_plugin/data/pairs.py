"""The framework's datasets, fed with checked pairs, in an order and with an augmentation that the seed decides."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from diffiml_plugin.data.cache import PixelCache
from diffiml_plugin.data.formats import read_content
from diffiml_plugin.data.images import open_image, read_header, read_image, read_mask
from diffiml_plugin.data.lists import NEGATIVE, ImageList
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.framework.adapters import diffiml_post_func, method_of
from diffiml_plugin.framework.imdlbenco import BalancedDataset, JsonDataset, get_albu_transforms
from diffiml_plugin.launch import Sample
from diffiml_plugin.method.config import DiffIMLConfig
from diffiml_plugin.method.diffiml import draw_noise
from diffiml_plugin.models.inputs import Inputs, InputSettings
from diffiml_plugin.models.registry import RegisteredModel
from diffiml_plugin.models.tiles import goes_whole


def pair_digest(digests: Sequence[str]) -> str:
    """What a record tells of the files of an image and its mask, from their SHA-256."""
    return sha256("".join(digests).encode()).hexdigest()[:16]


class PairsDataset(JsonDataset):
    """The framework's dataset, of pairs that were read and checked before.

    Its samples are the framework's, to the last bit and type, in half the time.

    Args:
        listed: an `ImageList`, or what a subclass's `_init_dataset_path` takes.
        transform, post: as `framework_arguments` takes them.
        normalised: False leaves images in uint8, for `packed.unpack` to normalise on the device.
        cache: of what was decoded.
        keyed: samples hold `noise_key` too, the digest of the image's file, and `content`, of image's and mask's; a
            `transform` does not change them.
        sampling: settings by which keyed samples hold their `noise` too, unless they are so large that tiles are cut.
    """

    def __init__(
        self,
        listed: Any,
        inputs: Inputs,
        transform: Any = None,
        post: Callable[[dict], None] | None = None,
        normalised: bool = True,
        cache: PixelCache | None = None,
        keyed: bool = False,
        sampling: DiffIMLConfig | None = None,
    ):
        super().__init__(listed, **framework_arguments(inputs.settings, transform, post))
        self.inputs, self.keyed, self.cache, self.sampling = inputs, keyed, cache, sampling
        self.post_transform = partial(inputs.transform, normalise=normalised)

    def frame(self, index: int) -> tuple[int, int]:
        """Height and width of sample `index`, in pixels."""
        if self.inputs.one_size:
            return self.output_size
        width, height, _ = read_header(self.tp_path[index])
        return self.inputs.frame(height, width)

    def __getitem__(self, index: int) -> Sample:
        image, mask, label, path, digests = self._get_image(index)
        if self.common_transforms is not None:
            augmented = self.common_transforms(image=image, mask=mask)
            image, mask = augmented["image"], augmented["mask"]
            label = int(mask.any())  # copied or inpainted rectangles tamper with an authentic image
        mask = (mask[..., 0] > 127).astype(np.uint8)
        masks = [mask] if self.edge_mask_generator is None else [mask, self.edge_mask_generator(mask)[0][0]]
        extents = image.shape[:2]
        transformed = self.post_transform(image=image, masks=masks)
        mask, *edges = (plane[None] for plane in transformed["masks"])  # [1, h, w]
        sample = {
            "image": transformed["image"],
            "mask": mask.double(),
            "label": label,
            "origin_shape": torch.tensor(extents),
            "shape": torch.tensor(self.output_size if self.is_resizing else extents),
            "name": os.path.basename(path),
        }
        if self.keyed:
            sample["noise_key"], sample["content"] = digests[0], pair_digest(digests)
            frame = transformed["image"].shape[-2:]  # all images of a batch have it
            if self.sampling and goes_whole(self.inputs, frame):
                sample["noise"] = draw_noise(self.sampling, digests[:1], frame)[0]
        if edges:
            sample["edge_mask"] = edges[0]
        if self.is_padding:
            sample["shape_mask"] = torch.zeros_like(sample["mask"])
            sample["shape_mask"][:, : extents[0], : extents[1]] = 1
        if self.post_funcs is not None:
            self.post_funcs(sample)
        return sample

    def _get_image(self, index: int) -> tuple:
        """Image [H, W, 3] uint8, mask [H, W, 1] uint8 in {0, 255}, label, path, and of a `keyed` set the
        digests of the files.

        The mask is cut before it is augmented, which only moves its pixels, and not after.
        """
        path, mask_path = self.tp_path[index], self.gt_path[index]
        digests: list[str] = []
        image = self._read(path, read_image, digests)
        if mask_path == NEGATIVE:
            return image, np.zeros((*image.shape[:2], 1), np.uint8), 0, path, digests
        mask = self._read(mask_path, read_mask, digests)[..., None]
        if mask.shape[:2] != image.shape[:2]:
            raise DiffIMLError(f"{mask_path} is not of the size of {path}; `benco datasets check` finds all such pairs")
        return image, mask, 1, path, digests

    def _read(self, path: str, decode: Callable[..., np.ndarray], digests: list[str]) -> np.ndarray:
        if self.keyed:
            content = read_content(path)
            digests.append(sha256(content).hexdigest())
            return decode(Path(path), content)
        return self.cache.read(Path(path), decode) if self.cache else decode(Path(path))

    def _init_dataset_path(self, path: ImageList) -> tuple[list[str], list[str]]:
        self.entry_path, self.digest = path.source, path.digest
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
    listed: ImageList,
    inputs: InputSettings,
    card: RegisteredModel,
    transform: Any = None,
    model: nn.Module | None = None,
) -> PairsDataset:
    """The images as the model is tested on them; `transform` is applied at their own size.

    Of the `model`, the loader's workers draw the noise that it samples from, if it does.
    """
    own, post = Inputs(inputs, card.size_multiple), card.post_function
    sampling = method_of(model).config if model is not None and card.samples else None
    return PairsDataset(
        listed,
        own,
        transform or test_transform(),
        post,
        normalised=reads_images(post),
        keyed=True,
        sampling=sampling,
    )


def reads_images(post: Callable[[dict], None] | None) -> bool:
    """Whether a post function may read a sample's image, which must then be normalised before; ours does not."""
    return post not in (None, diffiml_post_func)
