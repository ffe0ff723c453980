"""The arithmetic around a training step: accumulation, learning rate, the mean losses, the watch over NaN."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.training.settings import TrainSettings


def accumulation(total_batch_size: int, batch_size: int, processes: int) -> int:
    """Forward passes per update, so that batch_size × processes × passes = total_batch_size.

    Raises:
        DiffIMLError: they do not divide.
    """
    passes, rest = divmod(total_batch_size, batch_size * processes)
    if rest or not passes:
        fitting = [str(size) for size in range(1, total_batch_size + 1) if total_batch_size % (size * processes) == 0]
        mend = f"--batch_size {' or '.join(fitting)}" if fitting else f"a --total_batch_size divisible by {processes}"
        raise DiffIMLError(
            f"--total_batch_size {total_batch_size} cannot be made of {processes} processes with "
            f"--batch_size {batch_size}; choose {mend}"
        )
    return passes


def learning_rate(progress: float, settings: TrainSettings) -> float:
    """Linear warm-up, then half a cosine from `lr` to `min_lr`; `progress` in epochs."""
    if progress < settings.warmup_epochs:
        return settings.lr * progress / settings.warmup_epochs
    done = (progress - settings.warmup_epochs) / (settings.epochs - settings.warmup_epochs)  # 0..1
    return settings.min_lr + (settings.lr - settings.min_lr) * (1 + math.cos(math.pi * done)) / 2


def require_finite(output: Mapping[str, Any], names: Sequence[str], update: int) -> None:
    """Raises DiffIMLError, naming the step, the images and their timesteps if known, unless the loss is finite."""
    loss = output["backward_loss"]
    if torch.isfinite(loss):
        return
    timesteps = output.get("timesteps")
    at = "" if timesteps is None else f", t {timesteps.tolist()}"
    raise DiffIMLError(
        f"the loss is {loss.item()} at step {update + 1}, images {', '.join(names)}{at}; look at these "
        "images, lower --lr, or try --precision fp32 (the last checkpoint is from before)"
    )


class LossMeter:
    """Means of named losses over images and over all processes."""

    def __init__(self):
        self._since_point, self._total = _Sums(), _Sums()

    def add(self, losses: Mapping[str, Tensor], images: int) -> None:
        """The losses of one forward pass, each a mean over its images."""
        self._since_point.add({name: value.detach() * images for name, value in losses.items()}, images)

    def point(self) -> dict[str, float]:
        """The means since the last point. All processes must call it together."""
        mine = {name: float(value) for name, value in self._since_point.sums.items()}
        point = _Sums()
        for sums, images in gather_object([(mine, self._since_point.images)]):
            point.add(sums, images)
        self._total.add(point.sums, point.images)
        self._since_point = _Sums()
        return point.means()

    def mean(self) -> dict[str, float]:
        """The means over all points."""
        return self._total.means()


class _Sums:
    def __init__(self):
        self.sums, self.images = defaultdict(float), 0

    def add(self, sums: Mapping[str, float | Tensor], images: int) -> None:
        self.images += images
        for name, value in sums.items():
            self.sums[name] = self.sums[name] + value

    def means(self) -> dict[str, float]:
        return {name: value / self.images for name, value in self.sums.items()}
