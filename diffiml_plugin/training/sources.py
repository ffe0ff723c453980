"""What a model is trained on: lists, balanced lists and streams of tampered photographs."""

import logging
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import Any

import albumentations as albu

from diffiml_plugin.data.cache import PixelCache
from diffiml_plugin.data.examined import check_lists, digest_of, name_and_size
from diffiml_plugin.data.lists import SYNTH_PREFIX, ImageList, read_balanced, read_list, repeated
from diffiml_plugin.data.order import Samples
from diffiml_plugin.data.pairs import BalancedPairsDataset, PairsDataset, reads_images
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.framework.imdlbenco import get_albu_transforms
from diffiml_plugin.launch import Sample
from diffiml_plugin.models.inputs import Inputs, InputSettings
from diffiml_plugin.tampering.settings import read_strength
from diffiml_plugin.tampering.stream import SyntheticTampering
from diffiml_plugin.training.augmentation import quickened
from diffiml_plugin.training.cropping import GridCrop
from diffiml_plugin.training.settings import TrainSettings

_logger = logging.getLogger(__name__)


def train_transform(augmentation: str = "mvss", crop_size: int | None = None) -> Any:
    """What is done to a training image before it is resized or padded.

    Args:
        augmentation: "mvss", after MVSS-Net: flips, scale, brightness, JPEG, blur, copy-moved or inpainted rectangles;
            "turns": flips and right angles alone.
        crop_size: pixels; `GridCrop` to that side.
    """
    crop = [GridCrop(crop_size)] if crop_size else []
    if augmentation == "mvss":
        return albu.Compose([quickened(get_albu_transforms("train")), *crop])
    return albu.Compose([*crop, albu.HorizontalFlip(), albu.VerticalFlip(), albu.RandomRotate90()])


def read_training_set(
    settings: TrainSettings, inputs: InputSettings, post: Callable[[dict], None] | None, check: bool
) -> Samples:
    """The dataset that --data_path names: a folder, a JSON list, a balanced JSON, or `synth:FOLDER` of photographs.

    Args:
        check: whether this process warns of images that are cut.

    Raises:
        DiffIMLError: as `data.lists` and `data.examined` do; windows without --if_padding, or of several sizes
            elsewhere than in a stream; an unknown kind.
    """
    path, crop_size = settings.data_path, settings.crop_size
    if settings.windows and not inputs.if_padding:
        name = settings.windows_setting
        raise DiffIMLError(
            f"--{name} {getattr(settings, name)} cuts windows at the images' own resolution; add --if_padding, so "
            "that testing keeps it too"
        )
    if settings.synth_windows:
        return _Windows(settings, inputs, post)
    shown = replace(inputs, image_size=crop_size or inputs.image_size, padding_mode="constant")
    transform = train_transform(settings.augmentation, crop_size)
    cache = PixelCache(Path(settings.cache)) if settings.cache else None

    def dataset(source: ImageList | Path) -> Samples:
        if not isinstance(source, Path):
            return PairsDataset(source, Inputs(shown), transform, post, reads_images(post), cache)
        stream = SyntheticTampering(
            source,
            Inputs(shown),
            transform,
            post,
            reads_images(post),
            samples=settings.synth_samples,
            kinds=settings.synth_kinds.split(",") if settings.synth_kinds else None,
            window=settings.synth_window,
            authentic=settings.synth_authentic,
            settings=read_strength(settings.synth_strength),
        )
        if check and not crop_size:
            inputs.warn_if_cut(stream.longest_side)
        return stream

    if path.startswith(SYNTH_PREFIX):
        return dataset(Path(path.removeprefix(SYNTH_PREFIX)))
    balanced = read_balanced(path)
    sources = balanced or [read_list(path)]
    if lists := [source for source in sources if isinstance(source, ImageList)]:
        checked = check_lists(lists, settings.keep_going)
        for listed in checked.lists if check else ():
            if again := repeated(list(zip(listed.images, listed.masks, strict=True))):
                told = f"{listed.source} lists {len(again)} images again, such as {next(iter(again.values()))}"
                _logger.warning(f"{told}; each is trained on as often as it stands there")
        usable = iter(checked.lists)
        sources = [next(usable) if isinstance(source, ImageList) else source for source in sources]
        if check and not crop_size:
            inputs.warn_if_cut(checked.longest)
    datasets = [dataset(source) for source in sources]
    return BalancedPairsDataset(datasets, settings.samples_per_set) if balanced else datasets[0]


class _Windows:
    """Streams of --synth_windows, one after another. Of larger windows there are fewer: an epoch has as many pixels
    of each size."""

    def __init__(self, settings: TrainSettings, inputs: InputSettings, post: Callable[[dict], None] | None):
        if not (settings.data_path.startswith(SYNTH_PREFIX) and settings.synth_samples):
            raise DiffIMLError(
                "--synth_windows is of --data_path synth:FOLDER with --synth_samples; these are "
                f"{settings.data_path!r} and {settings.synth_samples}"
            )
        self.sides = settings.windows
        whole = sum(side**-2 for side in self.sides)
        self.dataset_list = [
            read_training_set(
                replace(
                    settings,
                    synth_windows="",
                    synth_window=side,
                    crop_size=side,
                    synth_samples=max(1, round(settings.synth_samples * side**-2 / whole)),
                ),
                inputs,
                post,
                check=False,
            )
            for side in self.sides
        ]
        self._ends = list(accumulate(len(part) for part in self.dataset_list))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        part = bisect_right(self._ends, index)
        return self.dataset_list[part][index - self._ends[part] + len(self.dataset_list[part])]


def parts_of(dataset: Samples, batch_size: int) -> list[tuple[int, int]]:
    """Images and batch size of each of its parts: of larger windows fewer, so that no batch has more pixels."""
    if not isinstance(dataset, _Windows):
        return [(len(dataset), batch_size)]
    sizes = [max(1, round(batch_size * (dataset.sides[0] / side) ** 2)) for side in dataset.sides]
    return [(len(part), size) for part, size in zip(dataset.dataset_list, sizes, strict=True)]


def files_digest(datasets: Iterable[Samples]) -> str:
    """A digest of what datasets are made of: names and sizes of their files in order, wherever those lie."""
    described = sha256()
    for dataset in datasets:
        for part in _parts([dataset]):
            files = part.photographs.files if isinstance(part, SyntheticTampering) else _listed_files(part)
            for file in files:
                described.update(f"{name_and_size(str(file))}\n".encode(errors="surrogateescape"))
        described.update(f"{len(dataset)}\n".encode())
    return described.hexdigest()


def bytes_digest(datasets: Iterable[Samples]) -> str:
    """A digest of the bytes of their lists' files, as the check read them. A user's own dataset is in none."""
    return digest_of([getattr(part, "digest", "") for part in _parts(datasets)])


def streams_digest(datasets: Iterable[Samples]) -> str:
    """A digest of what their streams are made of."""
    return digest_of([part.made_of for part in _parts(datasets) if isinstance(part, SyntheticTampering)])


def _parts(datasets: Iterable[Samples]) -> Iterator[Samples]:
    """The datasets, and those that one of several consists of."""
    for dataset in datasets:
        yield from getattr(dataset, "dataset_list", [dataset])


def _listed_files(dataset: Samples) -> list[str]:
    """Of a user's own dataset, none."""
    return [*getattr(dataset, "tp_path", ()), *getattr(dataset, "gt_path", ())]
