"""What a training run leaves behind: weights that say how to rebuild their model, and the state to go on from."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from torch import Tensor, nn

from diffiml_plugin import weights
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.method.config import ARCHITECTURE_FIELDS
from diffiml_plugin.models.inputs import InputSettings
from diffiml_plugin.models.registry import REGISTRY, RegisteredModel, find_model, of_the_run
from diffiml_plugin.settings import FLAG, Setting, layer
from diffiml_plugin.stored import checked, require_file, shown
from diffiml_plugin.weights import hub
from diffiml_plugin.weights.files import load_into, load_weights, no_larger_than, read_metadata, save_weights
from diffiml_plugin.weights.foreign import read_foreign
from diffiml_plugin.weights.release import refuse_unconverted

BEST, LAST = "best.safetensors", "last.safetensors"
RELEASED = {"small": Path(weights.__file__).with_name("small.safetensors")}  # the models that travel with the package
_OF_THE_RUN = ("image_size", "if_padding", "padding_mode", "edge_mask_width", "device", "tta")
_FOREIGN = (".pth", ".pt", ".ckpt", ".bin")  # in upper case too
_PARTS, _SPARE = 8, 10_000_000  # constructors make some parts several times, and drop others
MEASURED = ("figures", "left_out", "calibration", "calibrated_on")  # of the metadata: of its own settings alone
_SIMPLE = (bool, int, float, str, list, tuple, type(None))


@dataclass(frozen=True)
class Checkpoint:
    """What a file of weights says of its model, which `load` rebuilds.

    Attributes:
        flags: those of the constructor that it was trained with, as far as they are stored and name no file.
        input: the fields of the `InputSettings` it was trained with, if stored.
        threshold: above which a pixel counts as tampered, where the checkpoint names its own.
        calibration: what `benco calibrate` found, as it is stored.
        files: flags of the constructor that it was trained with and that name files, which it cannot have opened.
    """

    path: Path
    card: RegisteredModel
    flags: dict[str, Any]
    input: dict[str, Any]
    threshold: float | None = None
    calibration: dict[str, Any] | None = None
    files: Mapping[str, Any] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """The checkpoint as the source of a setting."""
        return f"from {self.path.name}"

    def settle(self, flags: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Setting]:
        """Every flag of the constructor, and who says it.

        Args:
            flags: change how the model runs (ensemble_size...); what fixes its weights must agree.
            shared: settings of the run that the constructor may want. Of those only the input's and the device count
                before what is stored, and only where they are not None.

        Raises:
            DiffIMLError: an unknown flag, another architecture, or a file that was trained with and is not given.
        """
        for flag, file in self.files.items():
            if flag not in flags and flag not in self.card.untrained:
                raise DiffIMLError(
                    f"{self.path} was trained with --{flag} {shown(file)}; a checkpoint's word opens no file: pass "
                    f"--{flag} yourself, if you trust that one"
                )
        for flag in ARCHITECTURE_FIELDS:
            if flag in flags and flag in self.flags and flags[flag] != self.flags[flag]:
                raise DiffIMLError(
                    f"{self.path} was trained with --{flag} {self.flags[flag]}, which its weights depend on, not "
                    f"{flags[flag]}; leave the flag out"
                )
        return self.card.settle(
            flags,
            layer(self.card.untrained, self.source),  # no initial weights are fetched
            layer(flags, FLAG),
            layer({flag: shared.get(flag) for flag in _OF_THE_RUN}, FLAG),
            layer(self.flags, self.source),
            of_the_run({**shared, **self.input}),
        )

    def load(self, flags: Mapping[str, Any]) -> nn.Module:
        """The model, built with these values of its flags, with the file's weights, on the CPU.

        Raises:
            DiffIMLError: a damaged file, tensors that do not fit the model, or settings of which no model can be built
                or only one that is far larger than the file.
        """
        state_dict, _ = read_weights(self.path)
        with no_larger_than(_PARTS * sum(tensor.numel() for tensor in state_dict.values()) + _SPARE, self.path):
            try:
                model = self.card.build(flags, pretrained=False)
            except (DiffIMLError, MemoryError):
                raise
            except Exception as error:  # a constructor may answer odd settings in any way
                others = [
                    f"--{flag} {shown(value)}"
                    for flag, value in flags.items()
                    if flag in self.flags and flag not in self.card.untrained and value != self.flags[flag]
                ]
                but = f", but with {', '.join(others)}" if others else ""
                mend = "leave that out" if others else "write the file again"
                raise DiffIMLError(
                    f"{self.card.name} cannot be built as {self.path} says{but} ({type(error).__name__}); {mend}, or "
                    "choose another"
                ) from error
        load_into(model, state_dict, self.path)
        return model


def save_checkpoint(path: Path, model: nn.Module, name: str, flags: Mapping[str, Any], **facts: Any) -> None:
    """Writes the weights with what rebuilds the model. `facts` (epoch, figures, input...) go into the metadata.

    Raises:
        DiffIMLError: the file cannot be written; an earlier one of that name is untouched.
    """
    save_weights(path, model.state_dict(), described(name, flags, **facts))


def described(name: str, flags: Mapping[str, Any], **facts: Any) -> dict[str, Any]:
    """The metadata that rebuild a model of that name and flags, and whatever `facts` there are beside."""
    return {"model": name, "config": storable(flags), **facts}


def storable(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that JSON can hold, without the device; the others are left at their default."""
    return {flag: value for flag, value in flags.items() if isinstance(value, _SIMPLE) and flag != "device"}


def read_checkpoint(path: str | os.PathLike[str], name: str = "") -> Checkpoint:
    """What a checkpoint says of its model; of a file of ours only the header is read.

    Args:
        path: a file of `benco train`, a `.pth` of the framework's scripts, a run's folder (its best weights) or one of
            `Detector.save_pretrained`, a name of `RELEASED`, or hub:ORGANISATION/NAME with or without @REVISION.
        name: the model, for a file that does not say; otherwise it must agree.

    Raises:
        DiffIMLError: no such file, a damaged or foreign one, or another model.
    """
    path = find_checkpoint(path)
    metadata = read_weights(path)[1] if path.suffix.lower() in _FOREIGN else read_metadata(path)
    stored_name = metadata.get("model", "")
    place = f"the header of {path}"
    if not (name or stored_name):
        raise DiffIMLError(f"{path} does not say which model it holds; pass --model")
    card = find_model(name or stored_name)
    if stored_name and stored_name not in (card.name, card.name.removeprefix(REGISTRY)):
        mend = "leave --model out or pass another file" if name else f"register a model {stored_name}"
        raise DiffIMLError(f"{path} holds a {stored_name}, not a {card.name}; {mend}")
    flags, files = card.stored(metadata.get("config", {}), f"{place}: config")
    stored_input = checked(metadata.get("input", {}), get_type_hints(InputSettings), f"{place}: input")
    InputSettings(**stored_input)  # in range
    threshold = metadata.get("threshold")
    if threshold is not None and not 0 <= threshold <= 1:
        raise DiffIMLError(f"{place}: threshold {threshold} is outside [0, 1]")
    return Checkpoint(path, card, flags, stored_input, threshold, metadata.get("calibration"), files)


def find_checkpoint(path: str | os.PathLike[str]) -> Path:
    """The file itself, a folder's best weights or a released model's. Raises DiffIMLError if there is none."""
    name, path = os.fspath(path), Path(path)
    if not name:  # as of a shell's variable that is not set; `Path` takes it for the current folder
        raise DiffIMLError("the checkpoint's path is empty; pass a weights file or the output_dir of a training")
    if name in RELEASED:
        if path.is_file() or any(path.glob("*.safetensors")):
            raise DiffIMLError(
                f"{name} is a model that travels with the package, and a file or a folder of weights here: say "
                f"./{name}, or call it from elsewhere"
            )
        return RELEASED[name]
    if name.startswith(hub.PREFIX):  # whatever is called so here
        return hub.fetch(name.removeprefix(hub.PREFIX))
    if path.is_file():
        return path
    if path.exists() and not path.is_dir():
        require_file(path)  # it is none: a pipe, say
    if not path.is_dir():
        raise DiffIMLError(
            f"checkpoint {path} does not exist; pass a weights file, the output_dir of a training, "
            f"{' or '.join(RELEASED)}, or hub:ORGANISATION/NAME"
        )
    best, last, saved = (path / file for file in (BEST, LAST, hub.WEIGHTS))
    if saved.is_file() and (best.is_file() or last.is_file()):
        raise DiffIMLError(
            f"{path} holds the weights of a training, and {hub.WEIGHTS} that was saved there; name the file"
        )
    for file in (best, saved):
        if file.is_file():
            return file
    others = ", ".join(sorted(file.name for file in path.glob("*.safetensors"))) or "no weights"
    raise DiffIMLError(
        f"{path} has no {BEST} (made when --test_data_path holds tampered images); it has {others}: name a file"
    )


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and metadata of a file of ours, or the framework's: {"model": weights, "args": Namespace}, or weights."""
    if path.suffix.lower() not in _FOREIGN:
        return load_weights(path)
    foreign = read_foreign(path)
    refuse_unconverted(foreign.tensors, path)
    name = foreign.arguments.get("model", "")
    return foreign.tensors, {"model": name} if name and isinstance(name, str) else {}
