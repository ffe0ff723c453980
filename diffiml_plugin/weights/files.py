"""Weight files: safetensors whose header says, as JSON under the key "diffiml", what they hold."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor, nn

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.files import file_digest, replacing
from diffiml_plugin.method.config import ARCHITECTURE_FIELDS, DiffIMLConfig
from diffiml_plugin.stored import checked, parse_json, require_file, shown
from diffiml_plugin.threads import replaced_here

_METADATA_KEY = "diffiml"
_METADATA_LIMIT = 2**20  # characters
_FIELDS: dict[str, Any] = {
    "model": str,
    "config": dict,
    "input": dict,
    "threshold": float | None,
    "calibration": dict | None,
    "calibrated_on": list[str],
    "provenance": dict,
    "data": str,
    "licence": str,
    "limits": str,
    "left_out": dict[str, int],
    "figures": dict[str, dict[str, list[float]]] | dict[str, float | None],
}
_SHOWN = 3  # keys of each kind that an error quotes
_LONGEST = 200  # characters of each


def save_weights(path: str | Path, state_dict: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Writes weights so that `path` is at any moment the old file or the whole new one.

    Args:
        metadata: what JSON can hold; errors of `load_into` quote "model" (a name) and "config" (settings).

    Raises:
        DiffIMLError: the file cannot be written (full disk, missing folder), or a number of its metadata is not finite,
            which no reader takes; an earlier file is untouched.
    """
    path = Path(path)
    try:
        header = json.dumps(metadata, allow_nan=False)
    except ValueError as error:
        raise DiffIMLError(
            f"{path} is not written, because a figure that belongs to it is not finite, which no reader takes; have "
            "the weights diverged?"
        ) from error
    tensors = {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in state_dict.items()}
    content = safetensors.torch.save(tensors, metadata={_METADATA_KEY: header})
    try:
        with replacing(path) as file:
            file.write(content)
    except OSError as error:
        raise DiffIMLError(
            f"cannot write weights to {path}: {error.strerror or error}; free some space or "
            "choose another folder (an earlier file of that name is untouched)"
        ) from error


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata that `save_weights` wrote; reads the header only.

    Raises:
        DiffIMLError: the file is missing, truncated, or not written by `save_weights`, or a field is of another type.
    """
    with _opened(path) as file:
        return _metadata(file, path)


def load_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on the CPU, and the metadata that `save_weights` wrote; raises as `read_metadata`.

    Both are of one file, whatever takes its place meanwhile.
    """
    with _opened(path) as file:
        metadata = _metadata(file, path)
        return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    require_file(path)
    with refusing(path), safetensors.safe_open(path, framework="pt") as file:
        yield file


def _metadata(file: Any, path: str | Path) -> dict[str, Any]:
    header = file.metadata() or {}
    if _METADATA_KEY not in header:
        raise DiffIMLError(
            f"{identity(path)} holds weights, but not of this package (its header lacks "
            f"{_METADATA_KEY!r}); pass a file written by `benco train`, or make one of the authors' by "
            "`benco convert`"
        )
    place = f"the header of {path}"
    if len(header[_METADATA_KEY]) > _METADATA_LIMIT:
        raise DiffIMLError(f"{place} has more than {_METADATA_LIMIT} characters; write the file again")
    return checked(parse_json(header[_METADATA_KEY], place), _FIELDS, place, others=True)


def tensors_digest(tensors: dict[str, Tensor]) -> str:
    """The SHA-256 of names and values alone, whatever the metadata beside them say."""
    return hashlib.sha256(safetensors.torch.save(tensors)).hexdigest()


def load_into(module: nn.Module, state_dict: dict[str, Tensor], path: str | Path) -> None:
    """Loads `state_dict`, read from `path`, into a module whose parameters and buffers it fits one to one.

    Raises:
        DiffIMLError: keys, shapes or kinds of number differ, or a parameter is not finite; names both models and the
            first keys. The module is unchanged.
    """
    expected = module.state_dict()
    faults = {
        "missing": [key for key in expected if key not in state_dict],
        "unexpected": [key for key in state_dict if key not in expected],
        "of another shape": [
            f"{key} {list(state_dict[key].shape)} for {list(tensor.shape)}"
            for key, tensor in expected.items()
            if key in state_dict and state_dict[key].shape != tensor.shape
        ],
        "of another kind": [
            f"{key} {state_dict[key].dtype} for {tensor.dtype}"
            for key, tensor in expected.items()
            if key in state_dict and state_dict[key].is_floating_point() != tensor.is_floating_point()
        ],
        "not finite": [
            key for key, _ in module.named_parameters() if key in state_dict and not _is_finite(state_dict[key])
        ],
    }
    if any(faults.values()):
        held, built = _architectures(path, module)
        first = {fault: ", ".join(key[:_LONGEST] for key in keys[:_SHOWN]) for fault, keys in faults.items()}
        quoted = "; ".join(
            f"{len(keys)} {fault} ({first[fault]}{', ...' * (len(keys) > _SHOWN)})"
            for fault, keys in faults.items()
            if keys
        )
        raise DiffIMLError(
            f"{path} holds {held}, but the model is {built}. Its tensors: {quoted}. "
            "Build the model with the settings of the file, or choose another file"
        )
    module.load_state_dict(state_dict)


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.float().isfinite().all())  # some types have no isfinite


def _architectures(path: str | Path, module: nn.Module) -> tuple[str, str]:
    """The file's model and the module's, each with the settings in which they differ."""
    try:
        metadata = read_metadata(path)
    except DiffIMLError:  # the tensors may come from a file of another format
        metadata = {}
    configs = (getattr(part, "config", None) for part in module.modules())
    held = metadata.get("config", {})
    built = next((asdict(config) for config in configs if isinstance(config, DiffIMLConfig)), {})
    differing = [name for name in ARCHITECTURE_FIELDS if name in held and name in built and held[name] != built[name]]

    def described(model: str, settings: dict[str, Any]) -> str:
        listed = ", ".join(f"{name}={shown(settings[name])}" for name in differing)
        return f"{model} ({listed})" if listed else model

    return (described(metadata.get("model", "an unnamed model"), held), described(type(module).__name__, built))


@contextmanager
def no_larger_than(most: int, path: str | Path) -> Iterator[None]:
    """Inside, this thread builds no model that has more than so many parameters, which `path` cannot fill.

    Raises:
        DiffIMLError: it has. The memory of its further ones was not touched.
    """
    left, register = most, nn.Module.register_parameter

    def count(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        nonlocal left
        left -= 0 if param is None else param.numel()
        if left < 0:
            raise DiffIMLError(
                f"{path} holds far fewer numbers than the model that it describes has; fetch or write it again"
            )
        register(module, name, param)

    with replaced_here((nn.Module, "register_parameter", count)):
        yield


@contextmanager
def refusing(path: str | Path) -> Iterator[None]:
    """Inside, whatever goes wrong in reading `path` is a DiffIMLError that names the file."""
    try:
        yield
    except DiffIMLError:
        raise
    except OSError as error:
        raise DiffIMLError(f"cannot read weights from {path}: {error.strerror or error}") from error
    except Exception as error:  # a damaged pickle can raise anything
        with open(path, "rb") as file:
            named_wrongly = file.read(2) in (b"PK", b"\x80\x02") and Path(path).suffix.lower() == ".safetensors"
        if named_wrongly:
            raise DiffIMLError(f"{identity(path)} is a file of PyTorch, whatever its name; call it .pth") from error
        kind = type(error).__name__  # its text would be torch's, whose advice is to run what is in the file
        raise DiffIMLError(
            f"{identity(path)} is truncated or no file of weights ({kind}); fetch or write it again"
        ) from error


def identity(path: str | Path) -> str:
    """The path with the file's size and hash, which tell one copy from another."""
    return f"{path} ({Path(path).stat().st_size} bytes, sha256 {file_digest(path)})"
