"""The framework's datasets, fed with checked pairs, in an order and with an augmentation that the seed decides."""

import math
import os
import random
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import albumentations as albu
import cv2
import numpy as np
import torch
from albumentations.pytorch import ToTensorV2
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from diffiml_plugin.bench import launch
from diffiml_plugin.bench.cropping import GridCrop
from diffiml_plugin.bench.framework import BalancedDataset, JsonDataset, get_albu_transforms
from diffiml_plugin.bench.imagecheck import check_lists
from diffiml_plugin.bench.imagelists import ImageList, read_balanced, read_list
from diffiml_plugin.bench.images import open_image
from diffiml_plugin.bench.models import input_mode, post_function, size_multiple
from diffiml_plugin.bench.settings import CommonSettings, TrainSettings
from diffiml_plugin.bench.synthetic import SYNTH_PREFIX, SyntheticTampering
from diffiml_plugin.bench.tamper import BY_STRENGTH
from diffiml_plugin.errors import DiffIMLError

Sample = dict[str, Any]


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
            raise DiffIMLError("--padding_mode reflect gives each image a frame of its own, which this model does not "
                               "take; use constant")
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
        return normalised(image=np.pad(image, [*missing, (0, 0)], "reflect"),
                          masks=[np.pad(mask, missing) for mask in masks])

    def _init_dataset_path(self, path: ImageList) -> tuple[list[str], list[str]]:
        self.entry_path = path.source
        return list(path.images), list(path.masks)


class BalancedPairsDataset(BalancedDataset):
    """The framework's balanced sampling: `sample_number` random images of each dataset per epoch."""

    def __init__(self, datasets: list[Dataset], sample_number: int):
        self.sample_number = sample_number
        self.settings_list = [[dataset.entry_path, type(dataset)] for dataset in datasets]
        self.dataset_list = datasets


@dataclass(frozen=True)
class InputSettings:
    """How images reach the model: resized or padded (as `PairsDataset` says); stored with the weights."""

    image_size: int = 512
    if_padding: bool = False
    edge_mask_width: int | None = None
    padding_mode: str = "constant"

    @classmethod
    def of(cls, settings: CommonSettings, stored: Mapping[str, Any] | None = None) -> "InputSettings":
        """As the flags say; what they leave open as it was `stored`, else as the model wants it, else the default.

        Raises:
            DiffIMLError: --padding_mode reflect of images that are resized.
        """
        made = replace(cls(), **(stored or input_mode(settings.model)))
        if settings.if_padding is not None or settings.if_resizing:
            made = replace(made, if_padding=bool(settings.if_padding))
        if settings.padding_mode == "reflect" and not made.if_padding:
            raise DiffIMLError("--padding_mode reflect is of padded images, but these are resized; add --if_padding")
        given = {name: getattr(settings, name) for name in ("image_size", "edge_mask_width", "padding_mode")}
        return replace(made, **{name: value for name, value in given.items() if value is not None})

    def warn_if_cut(self, longest_side: int, multiple: int | None = None) -> None:
        """Says on stderr that images of so many pixels lose some, unless `PairsDataset` pads them to a `multiple`."""
        if self.if_padding and not multiple and longest_side > self.image_size:
            print(f"warning: --if_padding cuts images of up to {longest_side} pixels to their upper left "
                  f"{self.image_size}x{self.image_size}; raise --image_size, or use --if_resizing", file=sys.stderr)

    def framework(self, transform: Any, post: Callable[[dict], None] | None) -> dict[str, Any]:
        """The framework's dataset arguments. `transform` is an albumentations pipeline, applied before resizing."""
        return {
            "is_resizing": not self.if_padding,
            "is_padding": self.if_padding,
            "output_size": (self.image_size, self.image_size),
            "edge_width": self.edge_mask_width,
            "common_transforms": transform,
            "post_funcs": post,
            "img_loader": open_image,
        }


def train_transform(augmentation: str = "mvss", crop_size: int | None = None) -> Any:
    """What is done to a training image before it is resized or padded.

    Args:
        augmentation: "mvss", after MVSS-Net: flips, scale, brightness, JPEG, blur, copy-moved or inpainted rectangles;
            "turns": flips and right angles alone.
        crop_size: pixels; `GridCrop` to that side.
    """
    crop = [GridCrop(crop_size)] if crop_size else []
    if augmentation == "mvss":
        return albu.Compose([get_albu_transforms("train"), *crop])
    return albu.Compose([*crop, albu.HorizontalFlip(), albu.VerticalFlip(), albu.RandomRotate90()])


def test_transform() -> Any:
    """Nothing; the framework's dataset then takes an image's label from its mask."""
    return get_albu_transforms("test")


def make_test_set(listed: ImageList, inputs: InputSettings, model: str, transform: Any = None) -> PairsDataset:
    """The images as the model of that name is tested on them; `transform` is applied at their own size."""
    framework = inputs.framework(transform or test_transform(), post_function(model))
    return PairsDataset(listed, size_multiple(model), inputs.padding_mode, **framework)


def read_training_set(
    settings: TrainSettings, inputs: InputSettings, post: Callable[[dict], None] | None, check: bool
) -> Dataset:
    """The dataset that --data_path names: a folder, a JSON list, a balanced JSON, or `synth:FOLDER` of photographs.

    Args:
        check: look at every file first.

    Raises:
        DiffIMLError: as `imagelists` and `imagecheck` do; --crop_size without --if_padding; an unknown kind.
    """
    path, crop_size = settings.data_path, settings.crop_size
    if crop_size and not inputs.if_padding:
        raise DiffIMLError(f"--crop_size {crop_size} cuts windows at the images' own resolution; add --if_padding, so "
                           "that testing keeps it too")
    shown = replace(inputs, image_size=crop_size or inputs.image_size)
    framework = shown.framework(train_transform(settings.augmentation, crop_size), post)

    def dataset(source: ImageList | Path) -> Dataset:
        if not isinstance(source, Path):
            return PairsDataset(source, **framework)
        stream = SyntheticTampering(source, kinds=settings.synth_kinds.split(","), window=settings.synth_window,
                                    authentic=settings.synth_authentic, settings=BY_STRENGTH[settings.synth_strength],
                                    **framework)
        if check and not crop_size:
            inputs.warn_if_cut(stream.longest_side)
        return stream

    if path.startswith(SYNTH_PREFIX):
        return dataset(Path(path.removeprefix(SYNTH_PREFIX)))
    balanced = read_balanced(path)
    sources = balanced or [read_list(path)]
    lists = [source for source in sources if isinstance(source, ImageList)]
    if check and lists:
        longest = check_lists(lists)
        if not crop_size:
            inputs.warn_if_cut(longest)
    found = [dataset(source) for source in sources]
    return BalancedPairsDataset(found, settings.samples_per_set) if balanced else found[0]


class SeededDataset(Dataset):
    """Samples that depend on (seed, epoch, index) alone, whoever loads them. Indexed by (epoch, index).

    Adds `index` to the sample. The process's random states are left as they were.
    """

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        _seed_cpu(self.seed, epoch, index)
        try:
            return {**self.dataset[index], "index": index}
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])


def seed_all(*key: int) -> None:
    """Starts Python's, numpy's and torch's generators, of all devices, from `key`."""
    torch.cuda.manual_seed_all(_seed_cpu(*key))


def _seed_cpu(*key: int) -> int:
    python, numpy, pytorch = (int(word) for word in np.random.SeedSequence(key).generate_state(3))
    random.seed(python)
    np.random.seed(numpy)
    torch.default_generator.manual_seed(pytorch)
    return pytorch


@dataclass(frozen=True)
class MicroBatch:
    """One process's share of one forward pass; `weight` makes the summed losses the mean over the whole update."""

    indices: tuple[int, ...]
    images: int  # 0: the index is there only to keep step with the other processes
    weight: float
    last: bool  # of its update


def plan_epoch(
    images: int, key: tuple[int, ...], batch_size: int, accumulation: int, rank: int = 0, processes: int = 1
) -> list[MicroBatch]:
    """An epoch in shuffled order, each image once, cut into updates of batch_size × accumulation × processes images.

    The last update may hold fewer images; its gradient is the mean over those. All processes get equally many
    micro-batches: one for which no image is left repeats one with weight 0.
    """
    order = np.random.default_rng(key).permutation(images)
    total = batch_size * accumulation * processes
    plan = []
    for start in range(0, images, total):
        update = order[start:start + total]
        steps = math.ceil(len(update) / (batch_size * processes))
        shares = np.array_split(update, steps * processes)[rank::processes]
        plan += [
            MicroBatch(
                tuple(int(index) for index in (share if len(share) else update[:1])),
                images=len(share),
                weight=len(share) * processes / len(update),
                last=step == steps - 1,
            )
            for step, share in enumerate(shares)
        ]
    return plan


def plan_test(dataset: PairsDataset, indices: Iterable[int], batch_size: int) -> list[tuple[int, ...]]:
    """Batches of `indices`, each of images of one frame; of larger frames fewer, so that no batch has more pixels."""
    by_frame: dict[tuple[int, int], list[int]] = {}
    for index in indices:
        by_frame.setdefault(dataset.frame(index), []).append(index)
    batches = []
    for frame, group in by_frame.items():
        count = min(batch_size, max(1, batch_size * math.prod(dataset.output_size) // math.prod(frame)))
        batches += [tuple(group[start:start + count]) for start in range(0, len(group), count)]
    return batches


def make_loader(
    dataset: SeededDataset, epoch: int, batches: list[tuple[int, ...]], workers: int, device: torch.device
) -> DataLoader:
    """A loader that yields the samples of each tuple of indices as one batch, in that order."""
    return DataLoader(
        dataset,
        batch_sampler=[[(epoch, index) for index in batch] for batch in batches],
        num_workers=min(workers, len(batches)),
        pin_memory=device.type == "cuda",
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # the loader's own draw leaves the global state alone
    )


def worker_count(asked: int | None) -> int:
    """Loader workers per process: as asked, else this process's share of the node's cores at hand, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    bound = launch.slurm_tasks(os.environ) > 1 and cores < (os.cpu_count() or 1)  # srun gave each task its own
    return min(8, cores if bound else cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))) if asked is None else asked


def to_device(batch: Sample, device: torch.device) -> Sample:
    """Moves the tensors of a batch."""
    return {k: v.to(device, non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)  # its threads do not survive the fork
