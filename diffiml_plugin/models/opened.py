"""A model with its inputs, from a checkpoint or by its name: what training, scoring and predicting begin with."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffiml_plugin.errors import DiffIMLError, device_failed, out_of_memory
from diffiml_plugin.models.checkpoints import MEASURED, Checkpoint, described, read_checkpoint, read_weights
from diffiml_plugin.models.inputs import InputSettings
from diffiml_plugin.models.registry import RegisteredModel, find_model, of_the_run
from diffiml_plugin.settings import FLAG, CommonSettings, Setting, layer, values_of
from diffiml_plugin.weights.files import save_weights


@dataclass(frozen=True)
class OpenedModel:
    """A model that `build` makes, and how images reach it.

    Attributes:
        settings: every constructor flag, and who says it.
        input_settings: the fields of `inputs` that have a value, and who says it.
        checkpoint: which has the weights; None of a new model.
    """

    card: RegisteredModel
    settings: dict[str, Setting]
    input_settings: dict[str, Setting]
    checkpoint: Checkpoint | None = None

    @property
    def flags(self) -> dict[str, Any]:
        """Every constructor flag with its value."""
        return values_of(self.settings)

    @property
    def inputs(self) -> InputSettings:
        """How images reach the model."""
        return InputSettings(**values_of(self.input_settings))

    @property
    def path(self) -> Path:
        """The checkpoint's file; empty of a new model."""
        return self.checkpoint.path if self.checkpoint else Path()

    @property
    def threshold(self) -> float | None:
        """Above which a pixel counts as tampered, where the checkpoint names its own."""
        return self.checkpoint.threshold if self.checkpoint else None

    @property
    def changed(self) -> list[str]:
        """The settings of model and input that someone gave another value than the checkpoint has; not the seed."""
        of_checkpoint = {**self.checkpoint.flags, **self.checkpoint.input} if self.checkpoint else {}
        return [
            name
            for name, setting in {**self.settings, **self.input_settings}.items()
            if setting.source == FLAG
            and name not in ("device", "noise_seed")
            and setting.value != of_checkpoint.get(name)
        ]

    def save(self, target: Path, **facts: Any) -> None:
        """Writes what `content` gives.

        Raises:
            DiffIMLError: as `content`; a file that cannot be written.
        """
        save_weights(target, *self.content(**facts))

    def content(self, **facts: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The checkpoint's tensors, and its metadata with the settings that were opened, and `facts` in place of the
        same stored.

        What was measured with other settings is left behind.

        Raises:
            DiffIMLError: a new model, which has no weights yet; a file that cannot be read.
        """
        if self.checkpoint is None:
            raise DiffIMLError(f"{self.card.name} is a new model without trained weights; open a checkpoint to save it")
        state_dict, metadata = read_weights(self.checkpoint.path)
        stale = MEASURED if self.changed else ()
        kept = {name: value for name, value in metadata.items() if name not in stale}
        ran_with = described(metadata.get("model") or self.card.name, self.flags, input=asdict(self.inputs))
        return state_dict, {**kept, **ran_with, **facts}

    def build(self, pretrained: bool = True) -> nn.Module:
        """The checkpoint's model, on the CPU, or a new one. Without `pretrained` a new one's initial weights, which are
        filled in next, are not fetched.

        Raises:
            DiffIMLError: as `Checkpoint.load` and `RegisteredModel.build`; values that others' constructor refuses.
        """
        if self.checkpoint is not None:
            return self.checkpoint.load(self.flags)
        try:
            return self.card.build(self.flags if pretrained else self.card.without_weights(self.flags), pretrained)
        except (RuntimeError, ValueError) as error:
            ours = self.card.constructor.__module__.startswith("diffiml_plugin.")
            if ours or isinstance(error, DiffIMLError) or device_failed(error) or out_of_memory(error):
                raise
            raise DiffIMLError(
                f"{self.card.name} cannot be built with these values of its flags ({type(error).__name__}: "
                f"{' '.join(str(error).split()):.200}); --help lists them"
            ) from error


def statements(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says beside the settings of its model and input: who made it, of what, and what it reached."""
    return {field: said for field, said in metadata.items() if field not in ("config", "input")}


def open_model(
    checkpoint_path: str | os.PathLike[str] | None,
    settings: CommonSettings,
    device: torch.device,
    model: str = "",
    model_flags: Mapping[str, Any] | None = None,
) -> OpenedModel:
    """Reads what a checkpoint says, or finds the card of a new model, decides its inputs, and checks their size.

    Args:
        checkpoint_path: as `read_checkpoint` takes it; None: a new model.
        settings: of the run. What they leave open of the input is as the weights were trained, else as the model
            wants it. Those that the constructor has too count, as `Checkpoint.settle` and `RegisteredModel.resolve`
            say.
        model: its name; of a checkpoint that says it, it must agree.
        model_flags: of the constructor; a checkpoint's own serve for the rest.

    Raises:
        DiffIMLError: as `read_checkpoint` and `find_model`; an unknown flag; a size that the model cannot take.
    """
    checkpoint = None if checkpoint_path is None else read_checkpoint(checkpoint_path, model)
    card = find_model(model) if checkpoint is None else checkpoint.card
    of_checkpoint = layer(checkpoint.input, checkpoint.source) if checkpoint else {}
    inputs = InputSettings.settle(settings, of_checkpoint or layer(card.input, f"from {card.name}"))
    card.require_size(inputs["image_size"].value)
    flags, shared = model_flags or {}, {**asdict(settings), "device": str(device)}
    if checkpoint is None:
        settled = card.settle(flags, layer(flags, FLAG), of_the_run({**shared, **values_of(inputs)}))
    else:
        settled = checkpoint.settle(flags, shared)
    return OpenedModel(card, settled, inputs, checkpoint)
