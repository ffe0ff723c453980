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
from diffiml_plugin.models.tiles import WHOLE

_logger = logging.getLogger(__name__)
_SMALLEST, _STEP = 512, 256  # pixels of the smallest tile's side; sides are multiples of the step
_TRIED = 512  # pixels, side of the image whose pass is measured
_BESIDE = 25  # bytes a pixel of a photo takes beside the pass: read, as maps, tinted and encoded
_SPARE = 1.15  # what the allocator and the kernels take for themselves, as a factor


@dataclass(frozen=True)
class _Cost:
    """Of a pass over one pixel."""

    bytes: float
    seconds: float


class PassMemory:
    """The largest photo, and the largest tile, that a model's pass may take.

    Args:
        run: a pass over an image [H, W, 3] uint8.
        limit: GB, of the device's memory or, on the CPU, of the process; None: none.
        side: pixels of a tile's side where there is no limit.
    """

    def __init__(
        self, run: Callable[[npt.NDArray[np.uint8]], None], device: torch.device, limit: float | None, side: int
    ):
        self.run, self.device, self.limit, self.unlimited_side = run, device, limit, side
        self.largest_said = 0
        if limit is not None:  # `holds` may be asked beside the model
            self.holds(np.zeros((1, 1, 3), np.uint8))

    def holds(self, image: npt.NDArray[np.uint8]) -> bool:
        """Whether a photo [H, W, 3] passes whole."""
        pixels = image.shape[0] * image.shape[1]
        return pixels <= (WHOLE if self.limit is None else self._fitting(pixels))

    def side(self, image: npt.NDArray[np.uint8], name: str) -> int:
        """The side in pixels of the tiles that a photo is cut into; says what it takes, of each that is larger than
        those before.

        Raises:
            DiffIMLError: the limit is too low for any.
        """
        pixels = image.shape[0] * image.shape[1]
        side = self.unlimited_side
        if self.limit is not None:
            side = isqrt(max(0, int(self._fitting(pixels)))) // _STEP * _STEP
            if side < _SMALLEST:
                least = (self._taken + _BESIDE * pixels + _SMALLEST**2 * self._cost.bytes * _SPARE) / 1e9
                raise DiffIMLError(
                    f"{name} has {pixels / 1e6:.1f} megapixels and takes {least:.1f} GB in the smallest tiles; "
                    f"raise --max_memory {self.limit:g}"
                )
        if pixels > self.largest_said:
            self.largest_said = pixels
            memory = self._taken + _BESIDE * pixels + side**2 * self._cost.bytes * _SPARE
            _logger.info(
                f"{name} has {pixels / 1e6:.1f} megapixels: tiles of {side}x{side}, about {memory / 1e9:.1f} GB, "
                f"about {pixels * self._cost.seconds:.0f} s"
            )
        return side

    def _fitting(self, pixels: int) -> float:
        """How many pixels a pass may have beside a photo of so many."""
        beside = 0 if self.device.type == "cuda" else _BESIDE * pixels
        return (1e9 * (self.limit or 0) - self._taken - beside) / (self._cost.bytes * _SPARE)

    @cached_property
    def _taken(self) -> int:
        """Bytes in use before the first photo."""
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        return psutil.Process().memory_info().rss

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


def out_of_memory(error: BaseException) -> bool:
    """Whether the device's memory, or the CPU's, did not suffice."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


class _Allocations(TorchDispatchMode):
    """Counts the bytes of the tensors made inside, and the most that lived at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
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
