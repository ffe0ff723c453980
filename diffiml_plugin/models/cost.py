"""What a model costs: parameters, multiply-adds as fvcore counts them (Table 4: 1 multiply-add = 1), and seconds."""

import shlex
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from statistics import median
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor, nn

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.framework.adapters import method_of
from diffiml_plugin.models.registry import RegisteredModel, find_model
from diffiml_plugin.models.untrained import blank_batch, build_untrained, untrained

if TYPE_CHECKING:
    from fvcore.nn import FlopCountAnalysis

ENSEMBLE_SIZES = (1, 5)  # of Table 4
_ALWAYS = "one image, random weights; 1 multiply-add = 1, fused attention as two matrix products"
COUNTS = {  # name -> what is counted of DiffIML; of other models all are the same
    "whole": "every sampling step, all of a denoising call in each",
    "published": "as Table 4: one sampling step, without the denoiser's self-attention",
    "run": "every sampling step, the condition's share of the first convolution once for each image, as it runs here",
}
_MOST, _SECONDS = 100, 5.0  # calls to time; no more are begun after so many seconds


class _Counted(TypedDict):
    model: str
    image_size: int
    params_M: Mapping[str, float | None]  # millions, by part; of DiffIML: total, condition_encoder, denoiser, codec
    GFLOPs: Mapping[str, float | None]  # 10^9 multiply-adds, by "N=..."; None: it runs, but cannot be traced
    settings: dict[str, Any]  # and how it was counted, and the command


class CostRow(_Counted, total=False):
    """A row of Table 4."""

    GFLOPs_by_count: Mapping[str, Mapping[str, float | None]]  # of DiffIML, for each of `COUNTS`
    fps: float | None  # one image at a time
    error: str  # why a model could not be built or run; then there is None for figures


def complexity(name: str, flags: Mapping[str, Any], image_size: int, count: str = "whole") -> CostRow:
    """The row of Table 4 for a registered model at image_size × image_size pixels.

    Args:
        flags: of the model's constructor; where initial weights come from does not matter, none are read.
        count: one of `COUNTS`, for "GFLOPs".

    Raises:
        DiffIMLError: no such model or flag, or it cannot be built or run at this size.
    """
    card = find_model(name)
    with untrained():
        model, settings = build_untrained(card, flags, image_size)
        counted = count_all(card, model, blank_batch(model, image_size), ENSEMBLE_SIZES)
        if card.samples:
            del settings["ensemble_size"]
    return cost_row(card, model, settings, image_size, counted, count)


def cost_row(
    card: RegisteredModel,
    model: nn.Module,
    settings: Mapping[str, Any],
    image_size: int,
    counted: Mapping[str, Mapping[str, float | None]],
    count: str = "whole",
) -> CostRow:
    """What `complexity` returns, of a model of which `count_all` gave `counted`."""
    parts = {"total": model}
    if card.samples:
        parts |= {part: getattr(model.diffiml, part) for part in ("condition_encoder", "denoiser", "codec")}
    simple = {key: value for key, value in settings.items() if isinstance(value, str | int | float | None)}
    how = f"{_ALWAYS}, {COUNTS[count]}" if card.samples else _ALWAYS
    row: CostRow = {
        "model": card.name,
        "image_size": image_size,
        "params_M": {part: sum(p.numel() for p in module.parameters()) / 1e6 for part, module in parts.items()},
        "GFLOPs": counted[count],
        "settings": {**simple, "counted": how, "command": shlex.join(sys.argv)},
    }
    if card.samples:
        row["GFLOPs_by_count"] = counted
    return row


class _MaskOf(nn.Module):
    """The model as a function of the image alone, which is what fvcore traces."""

    def __init__(self, model: nn.Module, batch: dict[str, Any]):
        super().__init__()
        self.model, self.batch = model, batch

    def forward(self, image: Tensor) -> Tensor:
        return self.model(**{**self.batch, "image": image})["pred_mask"]


@torch.no_grad()
def count_all(
    card: RegisteredModel, model: nn.Module, batch: dict[str, Any], sizes: Sequence[int]
) -> dict[str, dict[str, float | None]]:
    """Multiply-adds in 10^9 of a model on a `blank_batch`, by `COUNTS` and "N=...". Call it inside `untrained`.

    Args:
        sizes: N, ensemble sizes, of DiffIML; other models have N=1 alone.

    Returns:
        None in place of a number for a model that runs but cannot be traced.

    Raises:
        DiffIMLError: it does not run.
    """
    if not card.samples:
        trace = _trace(card.name, model, batch)
        return dict.fromkeys(COUNTS, {"N=1": trace and trace.total() / 1e9})
    method, traces = method_of(model), []
    config = method.config
    two_steps = min(2, config.num_train_timesteps)
    for members, steps in ((1, 1), (2, 1), (1, two_steps)):  # all others follow: what a member adds, and a step of one
        method.config = replace(config, ensemble_size=members, num_inference_steps=steps)
        traces.append(_trace(card.name, model, batch))
    method.config = config
    first, second, third = traces
    if first is None or second is None or third is None:
        return dict.fromkeys(COUNTS, dict.fromkeys(f"N={members}" for members in sizes))
    once, denoiser = first.total(), "model.diffiml.denoiser"
    member, step = second.total() - once, third.total() - once
    share = first.by_module()[f"{denoiser}.condition_in"]
    attention = first.by_module_and_operator()[denoiser]["scaled_dot_product_attention"]

    def total(count: str, members: int) -> float:
        if count == "published":
            return once - attention + (members - 1) * (member + share - attention)
        repeated = share if count == "whole" else 0
        later = members * (config.num_inference_steps - 1)  # steps, after the first
        return once + (members - 1) * (member + repeated) + later * (step + repeated)

    return {count: {f"N={members}": total(count, members) / 1e9 for members in sizes} for count in COUNTS}


def _trace(name: str, model: nn.Module, batch: dict[str, Any]) -> "FlopCountAnalysis | None":
    """One prediction, counted; None if the model runs but cannot be traced. Raises DiffIMLError if it does not run."""
    image, mask_of = batch["image"], _MaskOf(model, batch)
    trace = _counter(mask_of, image)
    try:
        trace.total()
    except Exception:  # is it the model that fails, or only its tracing?
        try:
            mask_of(image)
        except DiffIMLError:
            raise
        except Exception as error:
            size, place = "×".join(map(str, image.shape[2:])), "CPU" if image.device.type == "cpu" else "GPU"
            raise DiffIMLError(
                f"{name} does not run at {size} on the {place} ({error}); try the --image_size it was made for"
            ) from error
        return None
    return trace


def count_flops(module: nn.Module, *inputs: Tensor) -> float:
    """Of one call, by tracing it: 1 multiply-add = 1, fused attention as two matrix products."""
    return _counter(module, *inputs).total()


def _counter(module: nn.Module, *inputs: Tensor) -> "FlopCountAnalysis":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing it warns
        from fvcore.nn import FlopCountAnalysis

    counter = FlopCountAnalysis(module, inputs)
    counter.set_op_handle("aten::scaled_dot_product_attention", _attention_flops)
    return counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")


@torch.no_grad()
def seconds_per_call(call: Callable[[], Any], fewest: int = 3) -> float:
    """The median of at least `fewest` calls one after another, the first left out if there are several."""
    seconds = timed([call], fewest, _MOST, _SECONDS, time.perf_counter)
    return median(seconds[1:] or seconds)


def timed(
    calls: Sequence[Callable[[], Any]],
    fewest: int,
    most: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """The seconds of single calls in turn, each until the device has done it.

    Args:
        fewest, most: calls; no more than `fewest` are begun once they took `seconds`.
    """
    taken: list[float] = []
    while len(taken) < fewest or (sum(taken) < seconds and len(taken) < most):
        started = clock()
        calls[len(taken) % len(calls)]()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        taken.append(clock() - started)
    return taken


def _attention_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """q·k and its product with v, for shapes [..., L, E], [..., S, E], [..., S, V]."""
    query, key, value = (tensor.type().sizes() for tensor in inputs[:3])
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
