"""In which order, seeded how and in which batches samples are read."""

import ctypes
import math
import os
import random
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, zip_longest
from typing import TYPE_CHECKING, Protocol

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from diffiml_plugin import launchers
from diffiml_plugin.data.packed import pack
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.launch import Sample

if TYPE_CHECKING:  # it imports the framework, without which masks are drawn too
    from diffiml_plugin.data.pairs import PairsDataset


_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # glibc's names of `mallopt`'s settings
_KEPT = {_MMAP_THRESHOLD: 2**25, _TRIM_THRESHOLD: 2**28}  # bytes; 2**25 is the most that glibc takes
_GRACE = 20  # seconds that a loader's process lives after SIGTERM; SLURM kills after 30


class Samples(Protocol):
    """What is loaded from: a dataset of the framework's samples, of known length."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class SeededDataset(Dataset):
    """Samples that depend on (seed, epoch, index) alone, whoever loads them. Indexed by (epoch, index).

    Adds `index` to the sample, which is packed. The process's random states are left as they were.
    """

    def __init__(self, dataset: Samples, seed: int):
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        seed_cpu(self.seed, epoch, index)
        try:
            return pack({**self.dataset[index], "index": index})
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])


def seed_all(*key: int) -> None:
    """Starts Python's, numpy's and torch's generators, of all devices, from `key`."""
    torch.cuda.manual_seed_all(seed_cpu(*key))


def seed_cpu(*key: int) -> int:
    """As `seed_all`, without devices', for loaders' processes; returns the seed of torch's."""
    python, numpy, pytorch = (int(word) for word in np.random.SeedSequence(key).generate_state(3))
    random.seed(python)
    np.random.seed(numpy)
    torch.default_generator.manual_seed(pytorch)
    return pytorch


@dataclass(frozen=True)
class MicroBatch:
    """One process's share of one forward pass; `weight` makes the summed losses the mean over the whole update."""

    indices: tuple[int, ...]
    images: int  # that count; 0: the index is there only to keep step with the other processes
    weight: float
    last: bool  # of its update
    number: int  # in the epoch: the same images have the same one, however many processes there are


def plan_epoch(
    images: int,
    key: tuple[int, ...],
    batch_size: int,
    accumulation: int,
    rank: int = 0,
    processes: int = 1,
    least: int = 1,
) -> list[MicroBatch]:
    """An epoch in shuffled order, each image once, cut into updates of batch_size × accumulation × processes images.

    The last update may hold fewer images; its gradient is the mean over those. All processes get equally many
    micro-batches: one for which no image is left repeats one with weight 0.

    Args:
        least: images of a micro-batch; one that has fewer shows them again.
    """
    order = np.random.default_rng(key).permutation(images)
    total = batch_size * accumulation * processes
    plan = []
    for start in range(0, images, total):
        update = order[start : start + total]
        parts = np.array_split(update, math.ceil(len(update) / batch_size))
        steps = math.ceil(len(parts) / processes)
        for step in range(steps):
            number = step * processes + rank
            share = parts[number] if number < len(parts) else update[:0]
            shown = share if len(share) else update[:1]
            plan.append(
                MicroBatch(
                    tuple(int(index) for index in np.resize(shown, max(least, len(shown)))),
                    images=len(share),
                    weight=len(share) * processes / len(update),
                    last=step == steps - 1,
                    number=start // batch_size + number,
                )
            )
    return plan


def plan_turns(
    parts: Sequence[tuple[int, int]],
    key: tuple[int, ...],
    accumulation: int,
    rank: int = 0,
    processes: int = 1,
    least: int = 1,
) -> list[MicroBatch]:
    """As `plan_epoch`, of datasets one after another, each with a batch size of its own; their updates take turns.

    Args:
        parts: images and batch size of each.
    """
    updates, first = [], 0
    for number, (images, batch_size) in enumerate(parts):
        own = (*key, number) if number else key
        plan = plan_epoch(images, own, batch_size, accumulation, rank, processes, least)
        shifted = [
            replace(micro, indices=tuple(index + first for index in micro.indices), number=micro.number + first)
            for micro in plan
        ]
        updates.append([shifted[start:end] for start, end in pairwise(ends_of_updates(plan))])
        first += images
    return [micro for turn in zip_longest(*updates, fillvalue=()) for update in turn for micro in update]


def ends_of_updates(plan: Sequence[MicroBatch]) -> list[int]:
    """How many micro-batches there are before the first update, the second, and so on, and in all."""
    return [0, *(place for place, micro in enumerate(plan, start=1) if micro.last)]


def plan_test(
    dataset: "PairsDataset", indices: Iterable[int], batch_size: int, most: float = math.inf
) -> list[tuple[int, ...]]:
    """Batches of `indices`, each of images of one frame; of larger frames fewer, so that no batch has more pixels.

    Args:
        most: pixels of a frame that the memory holds.

    Raises:
        DiffIMLError: an image with a larger frame.
    """
    by_frame: dict[tuple[int, int], list[int]] = {}
    for index in indices:
        by_frame.setdefault(dataset.frame(index), []).append(index)
    batches = []
    for frame, group in by_frame.items():
        if math.prod(frame) > most:
            raise DiffIMLError(
                f"{dataset.tp_path[group[0]]} takes {math.prod(frame) / 1e6:.1f} megapixels with its padding, and the "
                f"memory here suffices for {most / 1e6:.1f} in a test; shrink it, leave it out, or test it elsewhere"
            )
        count = min(batch_size, max(1, batch_size * math.prod(dataset.output_size) // math.prod(frame)))
        batches += [tuple(group[start : start + count]) for start in range(0, len(group), count)]
    return batches


def make_loader(
    dataset: SeededDataset, epoch: int, batches: list[tuple[int, ...]], workers: int, device: torch.device
) -> DataLoader:
    """A loader that yields the samples of each tuple of indices as one batch, in that order."""
    keys = [[(epoch, index) for index in batch] for batch in batches]
    return _loader(dataset, keys, min(workers, len(batches)), device)


def _loader(
    dataset: SeededDataset,
    batches: list[list[tuple[int, int]]],
    workers: int,
    device: torch.device,
    persistent: bool = False,
) -> DataLoader:
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=start_worker,
        persistent_workers=persistent and workers > 0,
        generator=torch.Generator(),  # the loader's own draw leaves the global state alone
    )


class EpochLoader:
    """As `make_loader`, for one epoch after another; its workers, which take seconds to start, stay."""

    def __init__(self, dataset: SeededDataset, workers: int, device: torch.device):
        self.dataset, self.workers, self.device = dataset, workers, device
        self._batches: list[list[tuple[int, int]]] = []  # of the present epoch; the loader reads it anew each time
        self._loader: DataLoader | None = None

    def epoch(self, epoch: int, batches: list[tuple[int, ...]]) -> Iterator[Sample]:
        """The samples of each tuple of indices as one batch, in that order."""
        self._batches[:] = [[(epoch, index) for index in batch] for batch in batches]
        if self._loader is None:
            self._loader = _loader(self.dataset, self._batches, self.workers, self.device, persistent=True)
        return iter(self._loader)


def worker_count(asked: int | None) -> int:
    """Loader workers per process: as asked, else this process's share of the node's cores at hand."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    bound = launchers.slurm_tasks(os.environ) > 1 and cores < (os.cpu_count() or 1)  # srun gave each task its own
    return (cores if bound else cores // launchers.processes_here(os.environ)) if asked is None else asked


def start_worker(_: int) -> None:
    """What each loader process begins with.

    Ctrl-C and SLURM's SIGTERM reach it too, but its batches are wanted until the main process has stored its state.
    """
    cv2.setNumThreads(0)  # its threads do not survive the fork
    _keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE))


def _keep_freed_memory() -> None:
    """Lets glibc keep up to 256 MB that were freed. Else each large photo's pixels get new pages from the system again
    and again, which takes longer than decoding them."""
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        for setting, size in _KEPT.items():
            mallopt(setting, size)
