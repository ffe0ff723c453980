"""Models of the registry with random weights, built and run without any file of weights."""

import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.launch import to_device
from diffiml_plugin.models.inputs import Inputs, InputSettings
from diffiml_plugin.models.registry import RegisteredModel
from diffiml_plugin.threads import quiet, replaced_here


@contextmanager
def untrained(device: str = "cpu") -> Iterator[None]:
    """Inside, the zoo's models are quiet, and stay on a "cpu"."""

    def stays(self: Any, *args: Any, **options: Any) -> Any:
        return self

    moved = (nn.Module, Tensor) if device == "cpu" else ()
    with replaced_here(*((kind, "cuda", stays) for kind in moved)), quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def build_untrained(
    card: RegisteredModel, flags: Mapping[str, Any], image_size: int
) -> tuple[nn.Module, dict[str, Any]]:
    """The model in evaluation mode, and all its constructor flags; to be called inside `untrained`.

    Raises:
        DiffIMLError: no such flag, or a model that wants more than weights.
    """
    required = {flag: "" for flag, parameter in card.flags.items() if parameter.default is parameter.empty}
    resolved = card.resolve({**required, **flags, **card.untrained}, {"image_size": image_size})
    try:
        return card.build(resolved, pretrained=False).eval(), resolved
    except RuntimeError as error:  # `unet` fetches its very code from the internet
        raise DiffIMLError(f"{card.name} cannot be built with random weights ({error})") from error


def blank_batch(model: nn.Module, image_size: int) -> dict[str, Any]:
    """One black image with all that the framework's datasets give `model.forward` beside it, on the model's device."""
    inputs = Inputs(InputSettings(image_size, edge_mask_width=7))
    sample, _ = inputs.sample(np.zeros((image_size, image_size, 3), np.uint8), "blank")
    batch = {**default_collate([sample]), "DCT_coef": sample["mask"].float(), "qtables": torch.ones(1, 8, 8)}
    accepted = inspect.signature(model.forward).parameters
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    return to_device({key: value for key, value in batch.items() if key in accepted}, device)
