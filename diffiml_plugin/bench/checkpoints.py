"""What a training run leaves behind: weights that say how to rebuild their model, and the state to go on from."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffiml_plugin import weights
from diffiml_plugin.bench.models import build_model, constructor_flags, resolve_flags
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.method.config import ARCHITECTURE_FIELDS
from diffiml_plugin.weights.files import load_into, load_weights, replacing, save_weights

BEST, LAST, STATE = "best.safetensors", "last.safetensors", "training_state.pt"
RELEASED = {"small": Path(weights.__file__).with_name("small.safetensors")}  # the models that travel with the package
_INITIALISATION = {"encoder_weights": "none", "codec_weights": "none"}  # flags that name initial weights
_OF_THE_RUN = ("image_size", "if_padding", "padding_mode", "edge_mask_width", "device", "tta")
# What a continued run may change: where and how it runs, not what is trained.
_MAY_CHANGE = {"batch_size", "device", "find_unused_parameters", "gpus", "log_dir", "log_per_epoch_count",
               "num_workers", "output_dir", "resume", "save_period", "test_batch_size"}
_SIMPLE = (bool, int, float, str, list, tuple, type(None))


@dataclass(frozen=True)
class Restored:
    """A model rebuilt from a checkpoint. `input` holds the `InputSettings` it was trained with, if stored."""

    model: nn.Module
    name: str
    flags: dict[str, Any]
    input: dict[str, Any]
    path: Path


def save_checkpoint(path: Path, model: nn.Module, name: str, flags: Mapping[str, Any], **facts: Any) -> None:
    """Writes the weights with what rebuilds the model. `facts` (epoch, figures, input...) go into the metadata.

    Raises:
        DiffIMLError: the file cannot be written; an earlier one of that name is untouched.
    """
    save_weights(path, model.state_dict(), {"model": name, "config": storable(flags), **facts})


def release(sources: Sequence[str | Path], target: Path, statement: Mapping[str, Any]) -> None:
    """Writes the mean of the weights of checkpoints of ours, in half precision, to give away.

    Of checkpoints that one run led to, the mean often does better than each.

    Args:
        sources: one or more of one architecture; the last one's settings are kept.
        statement: what its users should know (data, figures, limits), added to the metadata.

    Raises:
        DiffIMLError: no such checkpoint, a foreign one, one of another architecture or latent codec; `target` exists
            (it may be meant as a source), or cannot be written.
    """
    if target.exists():
        raise DiffIMLError(f"{target} exists; the last path is the file to write: name a new one, or remove that")
    loaded = [load_weights(find_checkpoint(source)) for source in sources]
    state_dict, metadata = loaded[-1]
    for source, other in zip(sources, loaded, strict=True):
        if different := _difference(other, loaded[-1]):
            raise DiffIMLError(f"{source} and {sources[-1]} have no mean: they differ in {different}")
    mean = {name: torch.stack([weights[name] for weights, _ in loaded]).double().mean(0).half()
            if tensor.is_floating_point() else tensor for name, tensor in state_dict.items()}
    config = uninitialised(metadata.get("config", {}))  # the files that training started from stay at home
    kept = {key: metadata[key] for key in ("model", "input") if key in metadata}  # not the figures of one run's end
    save_weights(target, mean, {**kept, "config": config, **statement})


def _difference(mine: tuple[Mapping, Mapping], other: tuple[Mapping, Mapping]) -> str:
    """What forbids the mean of two checkpoints (weights, metadata), whatever their precision; empty if nothing does."""
    (weights, facts), (its_weights, its_facts) = mine, other
    if facts.get("model") != its_facts.get("model"):
        return "their model"
    config, its_config = facts.get("config", {}), its_facts.get("config", {})
    for flag in ARCHITECTURE_FIELDS:
        if flag in config and flag in its_config and config[flag] != its_config[flag]:
            return f"--{flag}: {config[flag]} and {its_config[flag]}"
    if {name: tensor.shape for name, tensor in weights.items()} != {
            name: tensor.shape for name, tensor in its_weights.items()}:
        return "the shapes of their weights"
    codec = [name for name in weights if "codec." in name]
    same = all(weights[name].half().equal(its_weights[name].half()) for name in codec)
    return "" if same else "the weights of their latent codec"


def storable(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that JSON can hold, without the device; the others are left at their default."""
    return {flag: value for flag, value in flags.items() if isinstance(value, _SIMPLE) and flag != "device"}


def uninitialised(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags for a model whose weights are filled in afterwards: no initial weights are fetched."""
    return {flag: _INITIALISATION.get(flag, value) for flag, value in flags.items()}


def restore(
    path: str | Path, name: str = "", flags: Mapping[str, Any] | None = None, shared: Mapping[str, Any] | None = None
) -> Restored:
    """Rebuilds the model of a checkpoint and loads its weights, strictly.

    Args:
        path: a file of `benco train`, a `.pth` of the framework's scripts, a run's folder (its best weights), or a
            name of `RELEASED`.
        name: the model, for a file that does not say; otherwise it must agree.
        flags: change how the model runs (ensemble_size...); what fixes its weights must agree.
        shared: settings of the run that the constructor may want, as `models.resolve_flags` takes them. Of
            those only the input's and the device count before what is stored, and only where they are not None.

    Raises:
        DiffIMLError: no such file, a damaged or foreign one, or another model or architecture.
    """
    path, flags = find_checkpoint(path), dict(flags or {})
    state_dict, metadata = _load_pth(path) if path.suffix in (".pth", ".pt") else load_weights(path)
    stored_name, stored = metadata.get("model", ""), metadata.get("config", {})
    if not (name or stored_name):
        raise DiffIMLError(f"{path} does not say which model it holds; pass --model")
    if name and stored_name and name != stored_name:
        raise DiffIMLError(f"{path} holds a {stored_name}, not a {name}; leave --model out or pass another file")
    name = name or stored_name

    for flag in ARCHITECTURE_FIELDS:
        if flag in flags and flag in stored and flags[flag] != stored[flag]:
            raise DiffIMLError(f"{path} was trained with --{flag} {stored[flag]}, which its weights depend on, not "
                               f"{flags[flag]}; leave the flag out")
    known, trained_input, shared = constructor_flags(name), metadata.get("input", {}), shared or {}
    now = {flag: shared[flag] for flag in _OF_THE_RUN if flag in known and shared.get(flag) is not None}
    resolved = uninitialised(resolve_flags(name, {**stored, **now, **flags}, {**shared, **trained_input}))
    model = build_model(name, resolved, pretrained=False)
    load_into(model, state_dict, path)
    return Restored(model, name, resolved, trained_input, path)


def load_model(path: str | Path) -> nn.Module:
    """The model of a checkpoint, ready to predict: `model(image=..., name=...)["pred_mask"]`.

    DiffIML's `image` is [B, 3, H, W], ImageNet-normalised, with sides that are multiples of 32; `name`, a list of B
    names, keys the noise; the mask is [B, 1, H, W] in [0, 1]. Arguments and errors as `restore`.
    """
    return restore(path).model.eval()


def find_checkpoint(path: str | Path) -> Path:
    """The file itself, a folder's best weights or a released model's. Raises DiffIMLError if there is none."""
    name, path = str(path), Path(path)
    if path.is_file():
        return path
    if name in RELEASED:
        if (path / BEST).is_file():
            raise DiffIMLError(f"{name} is a model that travels with the package, and a folder here: say ./{name}, or "
                               "call it from elsewhere")
        return RELEASED[name]
    if not path.is_dir():
        raise DiffIMLError(f"checkpoint {path} does not exist; pass a weights file, the output_dir of a training, or "
                           f"{' or '.join(RELEASED)}")
    if (path / BEST).is_file():
        return path / BEST
    others = ", ".join(sorted(file.name for file in path.glob("*.safetensors"))) or "no weights"
    raise DiffIMLError(f"{path} has no {BEST} (made when --test_data_path holds tampered images); it has {others}: "
                       "name a file")


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Writes the training state so that `path` is at any moment the old state or the whole new one.

    Raises:
        DiffIMLError: it cannot be written.
    """
    try:
        with replacing(path) as file:
            torch.save(dict(state), file)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
        raise DiffIMLError(f"cannot write {path}: {error}; free some space and go on with --resume auto (the earlier "
                           "state is untouched)") from error


def state_to_resume(
    folder: Path, resume: str, settings: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The training state that `resume` asks for: "auto" that of `folder`, if any; "" none; else the file's.

    Args:
        settings: of the run that is to go on; the state's must agree.
        defaults: for settings that the version which stored the state did not have.

    Raises:
        DiffIMLError: `folder` holds a run that would be overwritten; a file that is missing, damaged or none of ours;
            a run with other settings, which are named.
    """
    path = folder / STATE if resume in ("", "auto") else Path(resume)
    if resume in ("", "auto") and not path.exists():
        return None
    if not resume:
        raise DiffIMLError(f"{folder} holds a training run already; go on with --resume auto, or choose another "
                           "--output_dir")
    state = _load_pickle(path)
    if not isinstance(state, dict) or not {"settings", "model", "optimizer", "epoch"} <= state.keys():
        raise DiffIMLError(f"{path} is no training state; pass --resume auto, or a {STATE}")
    stored = {**defaults, **state["settings"]}
    compared = (stored.keys() & settings.keys()) - _MAY_CHANGE
    changed = sorted(name for name in compared if stored[name] != settings[name])
    if changed:
        listed = ", ".join(f"--{name} {stored[name]} (now {settings[name]})" for name in changed)
        raise DiffIMLError(f"{path} was trained with other settings: {listed}; give those, or start anew in another "
                           "--output_dir")
    return state


def _load_pth(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A checkpoint of the framework's scripts, {"model": state dict, "args": Namespace...}, or a bare state dict."""
    content = _load_pickle(path)
    state_dict = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state_dict, dict) or not all(isinstance(value, Tensor) for value in state_dict.values()):
        raise DiffIMLError(f"{path} holds no state dict, neither at its top nor under 'model'")
    name = getattr(content.get("args"), "model", "")
    return state_dict, {"model": name} if name else {}


def _load_pickle(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # the framework stores its arguments as one
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DiffIMLError(f"{path} does not exist") from error
    except Exception as error:  # the unpickler raises whatever it trips over
        raise DiffIMLError(f"{path} is damaged, or holds more than tensors and plain values ({error!r})") from error
