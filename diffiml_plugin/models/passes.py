"""A pass of a model: none depends on those before, and what it gives is looked at before anything is made of it."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from diffiml_plugin.errors import DiffIMLError, device_failed, out_of_memory
from diffiml_plugin.launch import require_torchs_defaults

_logger = logging.getLogger(__name__)
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
    fields = output if isinstance(output, Mapping) else {}
    probability, scores = fields.get("pred_mask"), fields.get("pred_label")
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


@contextmanager
def forward_explained(model: nn.Module, image: Tensor) -> Iterator[None]:
    """Inside, what others' model says of a batch `image` [B, 3, H, W] that it cannot take is a DiffIMLError."""
    try:
        yield
    except DiffIMLError:
        raise
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        model = _innermost(model)
        if type(model).__module__.startswith("diffiml_plugin.") or device_failed(error) or out_of_memory(error):
            raise  # a mistake of ours is not to be hidden, nor what another size would not mend
        count, _, height, width = image.shape
        raise DiffIMLError(
            f"{type(model).__name__} cannot take {count} images of {width}x{height} pixels ({type(error).__name__}: "
            f"{' '.join(str(error).split()):.200}); models of the zoo may take one --image_size alone, often 512 or "
            "1024, and in training no batch of one: choose the size, or a --batch_size that leaves no image over"
        ) from error


class Passes:
    """Passes of a model in test mode, none of which depends on those before.

    Parameters and buffers that its first pass changes, as MantraNet's and MVSSNet's normalise their filters, are put
    back after each. If it draws of torch's random numbers, as SPAN draws weights, a warning says so once.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        # Of each its module's parameters or buffers, its name there, itself and its values. Until the first pass, all.
        self._changing: list[tuple[dict[str, Any], str, Tensor, Tensor]] = [
            (tensors, name, tensor, values)
            for module in model.modules()
            for tensors in (module._parameters, module._buffers)
            for name, tensor in tensors.items()
            if tensor is not None and (values := _values(tensor)) is not None
        ]
        self._first = True

    @contextmanager
    def one(self, image: Tensor) -> Iterator[None]:
        """Inside, the model predicts from `image` [B, 3, H, W]. Raises DiffIMLError as `forward_explained` and
        `require_torchs_defaults`."""
        require_torchs_defaults()
        before = _random_state(image.device)
        try:
            with forward_explained(self.model, image):
                yield
        except BaseException:
            with suppress(RuntimeError):  # of a device that is lost, or a memory that is full: of that the first tells
                self._put_back()
            raise
        if self._first:
            self._changing = [one for one in self._changing if one[0].get(one[1]) is not one[2] or _differs(*one[2:])]
            self._first = False
        self._put_back()
        if not before.equal(_random_state(image.device)):
            _warn_of_draws(type(_innermost(self.model)).__name__)

    def _put_back(self) -> None:
        for tensors, name, tensor, values in self._changing:
            tensors[name] = tensor
            with torch.inference_mode(tensor.is_inference()), torch.no_grad():
                if _differs(tensor, values):
                    tensor.copy_(values)


def _values(tensor: Tensor) -> Tensor | None:
    """A copy on the CPU, where it takes nothing of a GPU's memory; None of a tensor that is sparse or has no values."""
    dense = tensor.layout is torch.strided and not tensor.is_meta
    return tensor.detach().to("cpu", copy=True) if dense else None


def _differs(tensor: Tensor, values: Tensor) -> bool:
    """Not so of values that differ from themselves, as NaN does."""
    return not tensor.cpu().equal(values) and not bool(values.isnan().any())


def _innermost(model: nn.Module) -> nn.Module:
    while isinstance(inner := getattr(model, "model", None), nn.Module):
        model = inner
    return model


def _random_state(device: torch.device) -> Tensor:
    states = [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]
    return torch.cat(states)


@cache
def _warn_of_draws(name: str) -> None:
    _logger.warning(f"{name} draws random numbers when it predicts: its figures may differ from run to run")
