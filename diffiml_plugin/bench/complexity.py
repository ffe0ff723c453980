"""What a model costs: parameters, and multiply-adds as fvcore counts them (Table 4: 1 multiply-add = 1)."""

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from diffiml_plugin.bench.plugin import DiffIMLModel
from diffiml_plugin.bench.untrained import blank_batch, build_untrained, untrained
from diffiml_plugin.errors import DiffIMLError

ENSEMBLE_SIZES = (1, 5)  # of Table 4
_COUNTED = "one image, random weights; 1 multiply-add = 1, fused attention as two matrix products, every sampling step"


def complexity(name: str, flags: Mapping[str, Any], image_size: int) -> dict[str, Any]:
    """The row of Table 4 for a registered model at image_size × image_size pixels.

    Args:
        flags: of the model's constructor; where initial weights come from does not matter, none are read.

    Returns:
        "model", "image_size", "settings", and in millions "params_M" and in 10^9 "GFLOPs": for DiffIML by part
        ("total", "condition_encoder", "denoiser", "codec") and for N=1 and N=5, else "total" and "N=1". The
        latter is None for a model that runs but cannot be traced (MantraNet, SPAN).

    Raises:
        DiffIMLError: no such model or flag, or it cannot be built or run at this size.
    """
    with untrained():
        model, settings = build_untrained(name, flags, image_size)
        parts = {"total": model}
        if isinstance(model, DiffIMLModel):
            method = model.diffiml
            parts |= {part: getattr(method, part) for part in ("condition_encoder", "denoiser", "codec")}
            gflops = {}
            for members in ENSEMBLE_SIZES:
                method.config = replace(method.config, ensemble_size=members)
                gflops[f"N={members}"] = _gflops(name, model, image_size)
            del settings["ensemble_size"]
        else:
            gflops = {"N=1": _gflops(name, model, image_size)}
    simple = {key: value for key, value in settings.items() if isinstance(value, str | int | float | None)}
    return {
        "model": name,
        "image_size": image_size,
        "params_M": {part: sum(p.numel() for p in module.parameters()) / 1e6 for part, module in parts.items()},
        "GFLOPs": gflops,
        "settings": {**simple, "counted": _COUNTED},
    }


class _MaskOf(nn.Module):
    """The model as a function of the image alone, which is what fvcore traces."""

    def __init__(self, model: nn.Module, batch: dict[str, Any]):
        super().__init__()
        self.model, self.batch = model, batch

    def forward(self, image: Tensor) -> Tensor:
        return self.model(**{**self.batch, "image": image})["pred_mask"]


@torch.no_grad()
def _gflops(name: str, model: nn.Module, image_size: int) -> float | None:
    from fvcore.nn import FlopCountAnalysis  # importing it warns, which `untrained` hides

    batch = blank_batch(model, image_size)
    mask_of = _MaskOf(model, batch)
    counter = FlopCountAnalysis(mask_of, batch["image"])
    counter.set_op_handle("aten::scaled_dot_product_attention", _attention_flops)
    counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    try:
        return counter.total() / 1e9
    except Exception:  # is it the model that fails, or only its tracing?
        try:
            mask_of(batch["image"])
        except DiffIMLError:
            raise
        except Exception as error:
            raise DiffIMLError(f"{name} does not run at {image_size}×{image_size} on the CPU ({error}); try the "
                               "--image_size it was made for") from error
        return None


def _attention_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """q·k and its product with v, for shapes [..., L, E], [..., S, E], [..., S, V]."""
    query, key, value = (tensor.type().sizes() for tensor in inputs[:3])
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
