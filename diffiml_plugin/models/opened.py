"""A model with its inputs, from a checkpoint or by its name: what training, scoring and predicting begin with."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffiml_plugin.models.checkpoints import restore
from diffiml_plugin.models.inputs import InputSettings
from diffiml_plugin.models.registry import RegisteredModel, find_model
from diffiml_plugin.settings import CommonSettings


@dataclass(frozen=True)
class OpenedModel:
    """A model, and how images reach it.

    Attributes:
        flags: every constructor flag with its value.
        restored: a checkpoint's model, on the CPU; None of a new one, which `build` makes.
        path: the checkpoint's file; empty of a new model.
        threshold: above which a pixel counts as tampered, where the checkpoint names its own.
    """

    card: RegisteredModel
    flags: dict[str, Any]
    inputs: InputSettings
    restored: nn.Module | None = None
    path: Path = Path()
    threshold: float | None = None

    def build(self, pretrained: bool = True) -> nn.Module:
        """The checkpoint's model, or a new one; without `pretrained` its initial weights, which are filled in next, are
        not fetched. Raises DiffIMLError as `RegisteredModel.build`."""
        if self.restored is not None:
            return self.restored
        return self.card.build(self.flags if pretrained else self.card.without_weights(self.flags), pretrained)


def open_model(
    checkpoint_path: str | Path | None,
    settings: CommonSettings,
    device: torch.device,
    model: str = "",
    model_flags: Mapping[str, Any] | None = None,
) -> OpenedModel:
    """Restores a checkpoint, or finds the card of a new model, decides its inputs, and checks their size.

    Args:
        checkpoint_path: as `restore` takes it; None: a new model.
        settings: of the run. What they leave open of the input is as the weights were trained, else as the model
            wants it. Those that the constructor has too count, as `restore` and `RegisteredModel.resolve` say.
        model: its name; of a checkpoint that says it, it must agree.
        model_flags: of the constructor; a checkpoint's own serve for the rest.

    Raises:
        DiffIMLError: as `restore` and `find_model`; an unknown flag; a size that the model cannot take.
    """
    shared = {name: value for name, value in asdict(settings).items() if value is not None}
    shared |= {"device": str(device)}
    restored = None if checkpoint_path is None else restore(checkpoint_path, model, model_flags, shared)
    card = find_model(model) if restored is None else restored.card
    inputs = InputSettings.of(settings, restored.input if restored and restored.input else card.input)
    card.require_size(inputs.image_size)
    if restored is None:
        return OpenedModel(card, card.resolve(model_flags or {}, {**shared, **asdict(inputs)}), inputs)
    return OpenedModel(card, restored.flags, inputs, restored.model, restored.path, restored.threshold)
