"""Weight files that other programs wrote: safetensors, or PyTorch's format, of which nothing is run."""

import argparse
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import safetensors.torch
import torch
from torch import Tensor

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.stored import require_file, require_unzipped
from diffiml_plugin.weights.files import identity, refusing

_WRAPPERS = ("model", "state_dict")  # keys under which training scripts keep the tensors
_FORBIDDEN = re.compile(r"Unsupported (?:global: GLOBAL|class) (\S+)|Trying to \w+ (\S+)")
_TEXTS = {b"version https://git-lfs": "a Git LFS pointer", b"<": "a web page"}  # first bytes -> what came instead


@dataclass(frozen=True)
class ForeignWeights:
    """`arguments` are those of the script that wrote the file, if it stored them."""

    tensors: dict[str, Tensor]
    arguments: Mapping[str, Any] = field(default_factory=dict)


def read_foreign(path: str | Path) -> ForeignWeights:
    """The tensors of anyone's file, on the CPU: .safetensors, else PyTorch's format.

    They may stand at its top or under "model" or "state_dict"; a `module.` before all names (DDP's) is cut.

    Raises:
        DiffIMLError: the file is missing, damaged, or holds anything but named tensors.
    """
    if Path(path).suffix.lower() == ".safetensors":
        require_file(path)
        with refusing(path):
            return ForeignWeights(_unwrapped(safetensors.torch.load_file(path)))
    content = unpickle(path)
    arguments: Mapping[str, Any] = {}
    if isinstance(content, dict):
        arguments = vars(content["args"]) if isinstance(content.get("args"), argparse.Namespace) else {}
        content = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), dict)), content)
    require_filled(content, path)
    if not (isinstance(content, dict) and content and all(_is_named_tensor(*item) for item in content.items())):
        raise DiffIMLError(
            f"{identity(path)} holds no named tensors, neither at its top nor under {' or '.join(_WRAPPERS)}; "
            "pass a file of weights"
        )
    return ForeignWeights(_unwrapped(content), arguments)


def unpickle(path: str | Path) -> Any:
    """The tensors and plain values of a file of `torch.save`, on the CPU; code in it is not run.

    Raises:
        DiffIMLError: the file is missing, damaged, none of PyTorch's, or holds more than that, which is named.
    """
    size = require_file(path)
    with refusing(path):
        with open(path, "rb") as file:
            start = file.read(32)
        for text, name in _TEXTS.items():
            if start.startswith(text):
                raise DiffIMLError(f"{identity(path)} is {name}, not the file of weights itself; fetch that")
        if start.startswith(b"PK"):
            require_unzipped(path, size)  # torch.save packs nothing, so what unpacks to more is a trap
        if _asks_for_memory(path, start.startswith(b"PK")):
            raise DiffIMLError(f"{identity(path)} asks for memory that it does not fill; fetch weights from elsewhere")
        try:
            with torch.serialization.safe_globals([argparse.Namespace]):  # training scripts store their arguments so
                return torch.load(path, map_location="cpu", weights_only=True)
        except OSError as error:  # it was opened above: torch looks for what is not there
            raise ValueError(str(error)) from error
        except Exception as error:
            if (named := _FORBIDDEN.search(str(error))) is None:
                raise
            raise DiffIMLError(
                f"{identity(path)} holds more than tensors and plain values ({named[1] or named[2]}), and nothing of "
                "it was run; ask for a file of the weights alone"
            ) from error


def require_filled(content: Any, path: str | Path) -> None:
    """Raises DiffIMLError if a tensor of what `unpickle` read has more numbers than the file, as a view that repeats
    one of its numbers has."""
    size = require_file(path)
    dense = (tensor for tensor in _tensors(content) if tensor.layout is torch.strided)
    if any(tensor.numel() * tensor.element_size() > size for tensor in dense):
        raise DiffIMLError(f"{identity(path)} holds a tensor of more numbers than the file; fetch it from elsewhere")


def _tensors(content: Any) -> Iterator[Tensor]:
    """All within dictionaries, lists and tuples, which may hold themselves."""
    rest, known = [content], set()
    while rest:
        if isinstance(one := rest.pop(), Tensor):
            yield one
        elif isinstance(one, dict | list | tuple) and id(one) not in known:
            known.add(id(one))
            rest += one.values() if isinstance(one, dict) else one


def _asks_for_memory(path: str | Path, zipped: bool) -> bool:
    """Whether a pickle calls `bytearray`, which PyTorch lets it do, of any size; no file of weights needs that."""
    if zipped:
        with ZipFile(path) as archive:
            pickles = (archive.read(entry) for entry in archive.infolist() if entry.filename.endswith(".pkl"))
            return any(b"bytearray" in content for content in pickles)
    with open(path, "rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        return content.find(b"bytearray") >= 0


def _is_named_tensor(name: object, value: object) -> bool:
    """Whether it is one as scripts store them: dense, and on the CPU."""
    return (
        isinstance(name, str)
        and isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    wrapped = all(key.startswith("module.") for key in tensors)
    return {key.removeprefix("module."): tensor for key, tensor in tensors.items()} if wrapped else tensors
