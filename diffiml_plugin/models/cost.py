"""What a model costs: parameters, multiply-adds as fvcore counts them (Table 4: 1 multiply-add = 1), and seconds."""

import shlex
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.models.registry import RegisteredModel, find_model
from diffiml_plugin.models.untrained import blank_batch, build_untrained, untrained

ENSEMBLE_SIZES = (1, 5)  # of Table 4
_COUNTED = "one image, random weights; 1 multiply-add = 1, fused attention as two matrix products, every sampling step"
_MOST, _SECONDS = 100, 5.0  # calls to time; no more are begun after so many seconds


def complexity(name: str, flags: Mapping[str, Any], image_size: int) -> dict[str, Any]:
    """The row of Table 4 for a registered model at image_size × image_size pixels.

    Args:
        flags: of the model's constructor; where initial weights come from does not matter, none are read.

    Returns:
        "model", "image_size", "settings" (the command among them), and in millions "params_M" and in 10^9 "GFLOPs":
        for DiffIML by part ("total", "condition_encoder", "denoiser", "codec") and for N=1 and N=5, else "total" and
        "N=1". The latter is None for a model that runs but cannot be traced (MantraNet, SPAN).

    Raises:
        DiffIMLError: no such model or flag, or it cannot be built or run at this size.
    """
    card = find_model(name)
    with untrained():
        model, settings = build_untrained(card, flags, image_size)
        batch = blank_batch(model, image_size)
        if card.samples:
            gflops = {}
            for members in ENSEMBLE_SIZES:
                model.diffiml.config = replace(model.diffiml.config, ensemble_size=members)
                gflops[f"N={members}"] = multiply_adds(card.name, model, batch)
            del settings["ensemble_size"]
        else:
            gflops = {"N=1": multiply_adds(card.name, model, batch)}
    return cost_row(card, model, settings, image_size, gflops)


def cost_row(
    card: RegisteredModel,
    model: nn.Module,
    settings: Mapping[str, Any],
    image_size: int,
    gflops: Mapping[str, float | None],
) -> dict[str, Any]:
    """What `complexity` returns, of a model whose multiply-adds were counted."""
    parts = {"total": model}
    if card.samples:
        parts |= {part: getattr(model.diffiml, part) for part in ("condition_encoder", "denoiser", "codec")}
    simple = {key: value for key, value in settings.items() if isinstance(value, str | int | float | None)}
    return {
        "model": card.name,
        "image_size": image_size,
        "params_M": {part: sum(p.numel() for p in module.parameters()) / 1e6 for part, module in parts.items()},
        "GFLOPs": gflops,
        "settings": {**simple, "counted": _COUNTED, "command": shlex.join(sys.argv)},
    }


class _MaskOf(nn.Module):
    """The model as a function of the image alone, which is what fvcore traces."""

    def __init__(self, model: nn.Module, batch: dict[str, Any]):
        super().__init__()
        self.model, self.batch = model, batch

    def forward(self, image: Tensor) -> Tensor:
        return self.model(**{**self.batch, "image": image})["pred_mask"]


@torch.no_grad()
def multiply_adds(name: str, model: nn.Module, batch: dict[str, Any]) -> float | None:
    """In 10^9, of the model on a `blank_batch`; None if it runs but cannot be traced. Call it inside `untrained`.

    Raises:
        DiffIMLError: it does not run.
    """
    image, mask_of = batch["image"], _MaskOf(model, batch)
    try:
        return count_flops(mask_of, image) / 1e9
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


def count_flops(module: nn.Module, *inputs: Tensor) -> float:
    """Of one call, by tracing it: 1 multiply-add = 1, fused attention as two matrix products."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing it warns
        from fvcore.nn import FlopCountAnalysis

    counter = FlopCountAnalysis(module, inputs)
    counter.set_op_handle("aten::scaled_dot_product_attention", _attention_flops)
    return counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none").total()


@torch.no_grad()
def seconds_per_call(call: Callable[[], Tensor], fewest: int = 3) -> float:
    """The median of at least `fewest` calls one after another, the first left out if there are several.

    Each is waited for until the device has its result.
    """
    seconds: list[float] = []
    while len(seconds) < fewest or sum(seconds) < _SECONDS and len(seconds) < _MOST:
        start = time.perf_counter()
        call().sum().item()  # .item() waits for the device
        seconds.append(time.perf_counter() - start)
    return median(seconds[1:] or seconds)


def _attention_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """q·k and its product with v, for shapes [..., L, E], [..., S, E], [..., S, V]."""
    query, key, value = (tensor.type().sizes() for tensor in inputs[:3])
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
