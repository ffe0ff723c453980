"""What every training has around its step: learning rate, moving average, accumulation, mean losses, watch over NaN."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar, cast

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from diffiml_plugin.errors import DiffIMLError

_Model = TypeVar("_Model", bound=nn.Module)


def adamw(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    backbone: nn.Module | None = None,
    backbone_lr: float | None = None,
) -> Optimizer:
    """AdamW on what is trained of a model; biases and norms do not decay.

    Args:
        backbone: a part of the model that learns at the rate `backbone_lr`, instead of `lr`, throughout the schedule.

    Raises:
        DiffIMLError: nothing of the backbone is trained.
    """
    from timm.optim import create_optimizer_v2, param_groups_weight_decay  # LightVAE's training does without timm

    one_kernel: dict[str, Any] = {"fused": True} if next(model.parameters()).is_cuda else {}
    if backbone is None or backbone_lr is None:
        return create_optimizer_v2(model, "adamw", lr=lr, weight_decay=weight_decay, **one_kernel)
    apart = {id(parameter) for parameter in backbone.parameters() if parameter.requires_grad}
    if not apart:
        raise DiffIMLError(f"--encoder_lr {backbone_lr} is of an encoder that is frozen; leave one of both out")
    groups = []
    for inside, scale in ((False, 1.0), (True, backbone_lr / lr)):  # the first group's rate is the one that is logged
        for group in param_groups_weight_decay(model, weight_decay):
            chosen = [parameter for parameter in group["params"] if (id(parameter) in apart) == inside]
            groups += [{**group, "params": chosen, "lr_scale": scale}] if chosen else []
    return create_optimizer_v2(groups, "adamw", lr=lr, weight_decay=weight_decay, **one_kernel)


class Learner(Generic[_Model]):
    """A model that learns: its weights, their moving average, the optimizer, and the number of updates it has had.

    Args:
        ema_decay: of the moving average, 0 for none; lower at the first updates, which are soon forgotten.
    """

    def __init__(self, model: _Model, optimizer: Optimizer, ema_decay: float = 0.0):
        self.model, self.optimizer, self.ema_decay, self.updates = model, optimizer, ema_decay, 0
        self.average = AveragedModel(model, multi_avg_fn=self._follow, use_buffers=True) if ema_decay else None

    @property
    def tested(self) -> _Model:
        """The model that is tested and stored: the moving average, if there is one."""
        return cast(_Model, self.average.module) if self.average else self.model

    @property
    def rate(self) -> float:
        """The learning rate of the last update."""
        return self.optimizer.param_groups[0]["lr"]

    def update(self, rate: float) -> None:
        """Moves the weights along their gradients, at this learning rate, and clears those."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.updates += 1
        if self.average:
            self.average.update_parameters(self.model)

    def state(self) -> dict[str, Any]:
        """All that `restore` needs."""
        return {
            "model": self.model.state_dict(),
            "ema": self.average and self.average.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "update": self.updates,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state` was taken. Of the optimizer's options it decides the last learning rate alone.

        Raises:
            Exception: of any kind, for a state that does not fit; for `resume.restoring` to tell.
        """
        _load(self.model, state["model"])
        optimizer_state = state["optimizer"]
        rates = [float(group["lr"]) for group in optimizer_state["param_groups"]]
        groups = zip(self.optimizer.state_dict()["param_groups"], rates, strict=True)
        self.optimizer.load_state_dict(
            {**optimizer_state, "param_groups": [{**group, "lr": rate} for group, rate in groups]}
        )
        for parameter, moments in self.optimizer.state.items():
            shapes = {moments[name].shape for name in ("exp_avg", "exp_avg_sq")}
            if shapes != {parameter.shape} or not 0 < float(moments["step"]) <= state["update"]:
                raise ValueError("moments of other parameters, or of other updates")
            if not all(moments[name].isfinite().all() for name in ("exp_avg", "exp_avg_sq")):
                raise ValueError("moments that are not finite")
        self.updates = state["update"]
        if self.updates and not self.optimizer.state and not state.get("scaler"):  # which skips the first updates
            raise ValueError("no moments")
        if self.average:
            _load(self.average.module, state["ema"])
            self.average.n_averaged.fill_(self.updates)

    def _follow(self, averages: Any, weights: Any, count: Any) -> None:
        decay = min(self.ema_decay, 1 - (1 + self.updates) ** (-2 / 3))  # timm's warm-up
        get_ema_multi_avg_fn(decay)(averages, weights, count)


def _load(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Loads a model's tensors. Raises an error of any kind if they do not fit, in their types too, or a parameter is
    not finite."""
    if {name: tensor.dtype for name, tensor in tensors.items()} != {k: v.dtype for k, v in model.state_dict().items()}:
        raise ValueError("tensors of other types")
    if not all(tensors[name].isfinite().all() for name, _ in model.named_parameters()):
        raise ValueError("parameters that are not finite")
    model.load_state_dict(tensors)


@contextmanager
def keeping(buffers: Iterable[Tensor]) -> Iterator[None]:
    """Afterwards, buffers are as they were: activations computed anew would count twice in batch statistics."""
    before = [(buffer, buffer.clone()) for buffer in buffers]
    yield
    for buffer, value in before:
        buffer.copy_(value)


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


def learning_rate(progress: float, peak: float, lowest: float = 0.0, warmup: float = 0.0) -> float:
    """Linear warm-up, then half a cosine from `peak` to `lowest`; `progress` and `warmup` as shares of the run."""
    if progress < warmup:
        return peak * progress / warmup
    done = (progress - warmup) / (1 - warmup)  # 0..1
    return lowest + (peak - lowest) * (1 + math.cos(math.pi * done)) / 2


def require_finite(loss: Tensor, updates: int, images: Sequence[str] = (), timesteps: Tensor | None = None) -> None:
    """Raises DiffIMLError, naming the step, the images and their timesteps if known, unless the loss is finite.

    Args:
        updates: that were made before.
    """
    if torch.isfinite(loss):
        return
    shown = f", images {', '.join(images)}" if images else ""
    at = "" if timesteps is None else f", t {timesteps.tolist()}"
    raise DiffIMLError(
        f"the loss is {loss.item()} at step {updates + 1}{shown}{at}; {'look at these images, ' if images else ''}"
        "lower --lr, or try --precision fp32 (the last checkpoint is from before)"
    )


class LossWatch:
    """Watches losses for NaN without waiting for the device at each: it looks at many at a time."""

    def __init__(self) -> None:
        self._unseen: list[tuple[Tensor, int, Sequence[str], Tensor | None]] = []

    def add(self, loss: Tensor, updates: int, images: Sequence[str], timesteps: Tensor | None) -> None:
        """A loss to look at; arguments as of `require_finite`."""
        self._unseen.append((loss.detach(), updates, images, timesteps))

    def look(self) -> None:
        """Raises DiffIMLError as `require_finite` for the first loss since the last look that is not finite."""
        unseen, self._unseen = self._unseen, []
        if unseen and not torch.stack([loss for loss, *_ in unseen]).isfinite().all():
            for watched in unseen:
                require_finite(*watched)


class LossMeter:
    """Means of named losses over images and over all processes."""

    def __init__(self) -> None:
        self._since_point, self._total = _Sums(), _Sums()

    def add(self, losses: Mapping[str, Tensor], images: int) -> None:
        """The losses of one forward pass, each a mean over its images."""
        self._since_point.add({name: (value.detach() * images, images) for name, value in losses.items()})

    def point(self) -> dict[str, float]:
        """The means since the last point. All processes must call it together."""
        point = self._gathered()
        self._total.add(point.parts)
        self._since_point = _Sums()
        return point.means()

    def mean(self) -> dict[str, float]:
        """The means over all points."""
        return self._total.means()

    def state(self) -> dict[str, Any]:
        """What `restore`, on one process, goes on from. All processes must call it together."""
        return {"since_point": self._gathered().stored(), "total": self._total.stored()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state` was taken."""
        self._since_point, self._total = (_Sums.restored(state[part]) for part in ("since_point", "total"))

    def _gathered(self) -> "_Sums":
        """The sums since the last point of all processes."""
        gathered = _Sums()
        for parts in gather_object([self._since_point.stored()]):
            gathered.add(parts)
        return gathered


class _Sums:
    """`parts`: of each loss its sum, a number or a tensor of one, and over how many images; a step may not name it."""

    def __init__(self, parts: Mapping[str, tuple[Any, int]] | None = None) -> None:
        self.parts: dict[str, tuple[Any, int]] = dict(parts or {})

    def add(self, parts: Mapping[str, tuple[Any, int]]) -> None:
        for name, (value, images) in parts.items():
            before, so_far = self.parts.get(name, (0.0, 0))
            self.parts[name] = before + value, so_far + images

    @classmethod
    def restored(cls, parts: Any) -> "_Sums":
        if isinstance(parts, tuple):  # of an earlier version: sums, and one number of images
            sums, images = parts
            parts = {name: (value, images) for name, value in sums.items()}
        if not all(math.isfinite(value) and images > 0 for value, images in parts.values()):
            raise ValueError("losses that no steps have")
        return cls({name: (float(value), int(images)) for name, (value, images) in parts.items()})

    def stored(self) -> dict[str, tuple[float, int]]:
        return {name: (float(value), images) for name, (value, images) in self.parts.items()}

    def means(self) -> dict[str, float]:
        return {name: value / images for name, (value, images) in self.parts.items()}
