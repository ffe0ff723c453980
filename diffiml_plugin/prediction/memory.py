"""What a model's pass takes of memory and time, and how large a photo it holds."""

import logging
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import isqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.launch import MEMORY_SHARE, host_memory
from diffiml_plugin.models.tiles import WHOLE

_logger = logging.getLogger(__name__)
_SMALLEST, _STEP = 512, 256  # pixels of the smallest tile's side; sides are multiples of the step
_TRIED = 512  # pixels, side of the image whose pass is measured
_WRITTEN, _BLENDED = 20, 11  # bytes a pixel of a photo takes where it is read or its answer written, and among tiles
_SPARE = 1.15  # what the allocator and the kernels take for themselves, as a factor


@dataclass(frozen=True)
class _Cost:
    """Of a pass over one pixel."""

    bytes: float
    seconds: float


@dataclass(frozen=True)
class _Memory:
    """Bytes of a device or of the computer: in use before the first photo, and those that may be."""

    taken: float
    most: float

    def require(self, more: float, pixels: int, name: str) -> None:
        """Raises DiffIMLError unless it holds so many bytes more, for a photo of so many pixels."""
        if (needed := self.taken + more) > self.most:
            raise DiffIMLError(
                f"{name} has {pixels / 1e6:.1f} megapixels and takes {needed / 1e9:.1f} GB at the least, of "
                f"{self.most / 1e9:.1f} that it may; shrink it, or raise --max_memory"
            )


class PassMemory:
    """The largest photo, and the largest tile, that a model's pass may take.

    Args:
        run: a pass over an image [H, W, 3] uint8.
        limit: GB, of the device's memory or, on the CPU, of the process; None: what the computer has, less a reserve.
        side: pixels of a tile's side where there is no limit, and the memory suffices.
        noise: bytes that a pixel of a photo takes as noise, which its tiles share.
    """

    def __init__(
        self,
        run: Callable[[npt.NDArray[np.uint8]], None],
        device: torch.device,
        limit: float | None,
        side: int,
        noise: float = 0,
    ):
        self.run, self.device, self.limit, self.unlimited_side = run, device, limit, side
        self.beside = max(_WRITTEN, _BLENDED + noise)
        self.largest_said = 0
        bound, in_use = MEMORY_SHARE * host_memory(), psutil.Process().memory_info().rss
        if device.type == "cuda":
            self.computer = _Memory(in_use, bound)
            self.own = _Memory(torch.cuda.memory_allocated(device), np.inf if limit is None else 1e9 * limit)
        else:
            self.computer = self.own = _Memory(in_use, bound if limit is None else 1e9 * limit)

    def require_room(self, pixels: int, name: str) -> None:
        """For before a photo is decoded. Raises DiffIMLError if its pixels and maps alone take more than there is."""
        self.computer.require(self.beside * pixels, pixels, name)

    def holds(self, image: npt.NDArray[np.uint8]) -> bool:
        """Whether a photo [H, W, 3] passes whole."""
        pixels = image.shape[0] * image.shape[1]
        return pixels <= (WHOLE if self.limit is None else self._fitting(pixels))

    def side(self, image: npt.NDArray[np.uint8], name: str) -> int:
        """The side in pixels of the tiles that a photo is cut into; says what it takes, of each that is larger than
        those before.

        Raises:
            DiffIMLError: the memory does not suffice for any.
        """
        pixels = image.shape[0] * image.shape[1]
        side, fitting = self.unlimited_side, self._fitting(pixels)
        if self.limit is not None or fitting < side**2:
            side = max(_SMALLEST, isqrt(max(0, int(fitting))) // _STEP * _STEP)
            self.own.require(self._needed(pixels, side), pixels, name)
        if pixels > self.largest_said:
            self.largest_said = pixels
            memory = self.own.taken + self._needed(pixels, side)
            _logger.info(
                f"{name} has {pixels / 1e6:.1f} megapixels: tiles of {side}x{side}, about {memory / 1e9:.1f} GB, "
                f"about {pixels * self._cost.seconds:.0f} s"
            )
        return side

    def _fitting(self, pixels: int) -> float:
        """How many pixels a pass may have beside a photo of so many."""
        return (self.own.most - self.own.taken - self._needed(pixels, 0)) / (self._cost.bytes * _SPARE)

    def _needed(self, pixels: int, side: int) -> float:
        """Bytes that a photo of so many pixels takes of the device in tiles of that side."""
        beside = self.beside * pixels if self.own is self.computer else 0
        return beside + side**2 * self._cost.bytes * _SPARE

    @cached_property
    def _cost(self) -> _Cost:
        """Measured in a pass over a small image of noise; the one before it does what happens once."""
        image = np.random.default_rng(0).integers(0, 256, (_TRIED, _TRIED, 3), dtype=np.uint8)
        self.run(image)
        started = time.perf_counter()
        if self.device.type == "cuda":
            before = torch.cuda.memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self.run(image)
            peak = torch.cuda.max_memory_allocated(self.device) - before
        else:
            with _Allocations() as allocations:
                self.run(image)
            peak = allocations.peak
        return _Cost(peak / _TRIED**2, (time.perf_counter() - started) / _TRIED**2)


def halved(side: int) -> int | None:
    """The side of the next smaller tiles; None where there are none."""
    half = side // 2 // _STEP * _STEP
    return half if half >= _SMALLEST else None


class _Allocations(TorchDispatchMode):
    """Counts the bytes of the tensors made inside, and the most that lived at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        if any(returned.alias_info for returned in function._schema.returns):
            return output  # an argument's memory, such as the weights'
        for tensor in output if isinstance(output, (list, tuple)) else [output]:
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return output

    def _count(self, storage: torch.UntypedStorage) -> None:
        place, size = storage._cdata, storage.nbytes()
        if place in self.known:
            return
        self.known.add(place)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, place, size)

    def _forget(self, place: int, size: int) -> None:
        self.known.discard(place)
        self.now -= size
