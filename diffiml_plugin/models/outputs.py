"""What a model gives is looked at before anything is made of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from diffiml_plugin.errors import DiffIMLError

_ROUNDING = 1e-3  # of probabilities in half precision


def read_output(output: Any, shape: Sequence[int], names: Sequence[str]) -> tuple[Tensor, list[float | None]]:
    """A model's probabilities, and the score of each image, None of a model that has none.

    Args:
        output: of the model in test mode: `pred_mask` of `shape` in [0, 1]; `pred_label` [B] or absent.
        shape: [B, 1, H, W].
        names: of the images, for messages.

    Raises:
        DiffIMLError: no mask, one of another shape, a value that is not finite, which names the image, or one outside
            [0, 1].
    """
    found = output if isinstance(output, Mapping) else {}
    probability, scores = found.get("pred_mask"), found.get("pred_label")
    if not isinstance(probability, Tensor) or probability.shape != tuple(shape) or probability.is_complex():
        given = "none" if probability is None else list(getattr(probability, "shape", ()))
        raise DiffIMLError(f"the model's pred_mask must have the mask's shape {list(shape)}; it gave {given}")
    if scores is not None and (not isinstance(scores, Tensor) or scores.numel() != len(names) or scores.is_complex()):
        given = list(getattr(scores, "shape", ()))
        raise DiffIMLError(f"the model's pred_label must have shape [{len(names)}]; it gave {given}")
    probability = probability.detach().float()
    of_images = None if scores is None else scores.detach().to(probability.device).float().flatten()
    finite = probability.flatten(1).sum(1).isfinite()  # one value that is not makes the sum so
    if of_images is not None:
        finite &= of_images.isfinite()
    if broken := [name for name, is_finite in zip(names, finite.tolist(), strict=True) if not is_finite]:
        raise DiffIMLError(
            f"the prediction for {', '.join(broken)} is not finite; the weights have diverged, or want --precision fp32"
        )
    bounds = torch.cat([torch.stack(values.aminmax()) for values in (probability, of_images) if values is not None])
    low, high = torch.stack(bounds.aminmax()).tolist()
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise DiffIMLError(
            f"the model's pred_mask and pred_label go from {low:.3g} to {high:.3g}; expected probabilities in [0, 1], "
            "as the sigmoid of a logit is"
        )
    return probability, [None] * len(names) if of_images is None else of_images.tolist()
