"""What files say: read within stated bounds, and taken as data alone, each value after its type.

Only regular files are opened. What stands in one is never run, and never names another file to open.
"""

import inspect
import json
import math
import os
import re
import reprlib
import stat
import sys
import types
from collections import Counter
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints, is_typeddict
from zipfile import ZipFile

import yaml

from diffiml_plugin.errors import DiffIMLError, nearest

JSON_LIMIT = 256 * 2**20  # bytes: two million pairs; tamperedCOCO has 0.8
_JSON_VALUES = 10_000_000
YAML_LIMIT = 256 * 2**10  # bytes: seconds of reading
_YAML_NODES = 100_000  # with every alias written out
_ODD_NUMBERS = {  # to YAML 0100 is 64, and 1:30 is 90
    "tag:yaml.org,2002:int": re.compile(r"[-+]?0[0-7_]|.*:"),
    "tag:yaml.org,2002:float": re.compile(".*:"),
}
_LARGEST = 2**63 - 1  # of whole numbers
_DIGITS = 1000  # of a whole number
_LONGEST = 10_000  # characters of a word, entries of a list
_QUOTED = 200  # characters of a value in a message
_Function = TypeVar("_Function", bound=Callable[..., Any])


def require_file(path: str | Path, limit: int | None = None) -> int:
    """The size in bytes of a regular file. Nothing is opened.

    Raises:
        DiffIMLError: there is none, it has more than `limit` bytes, or it is a folder, or a pipe or a device, which may
            block for ever or never end.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise DiffIMLError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
        raise DiffIMLError(f"{path} is {kind}; expected a regular file")
    if limit is not None and status.st_size > limit:
        raise DiffIMLError(f"{path} has {status.st_size} bytes, more than the {limit} that are read of such a file")
    return status.st_size


def read_text(path: str | Path, limit: int = JSON_LIMIT) -> str:
    """The UTF-8 text of a regular file of at most `limit` bytes, without a byte-order mark.

    Raises:
        DiffIMLError: as `require_file`; it cannot be read, or is no UTF-8.
    """
    require_file(path, limit)
    try:
        with open(path, "rb") as file:
            return file.read(limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DiffIMLError(f"{path} is no UTF-8 text (byte {error.start}); store it as UTF-8") from error
    except OSError as error:
        raise DiffIMLError(f"cannot read {path}: {error.strerror}") from error


def parse_json(text: str, place: str) -> Any:
    """What a JSON text says. Raises DiffIMLError, which begins with `place`, for NaN, a key twice, or no JSON, and for
    too many values.
    """
    if sum(map(text.count, "[{,")) > _JSON_VALUES:  # each is an object of Python's, many times as large
        raise DiffIMLError(f"{place} holds more than {_JSON_VALUES} values; split it")
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_number, parse_int=_whole)
    except RecursionError as error:
        raise DiffIMLError(f"{place} is no JSON that is read here (it is nested too deeply)") from error
    except ValueError as error:
        raise DiffIMLError(f"{place} is no JSON ({error})") from error


def read_json(path: str | Path) -> Any:
    """What a JSON file says. Raises DiffIMLError as `read_text` and `parse_json`."""
    return parse_json(read_text(path), str(path))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        raise ValueError(f"the key {shown(twice)} stands there twice")
    return content


def _whole(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no number")


class Spelled(int):
    """A whole number that YAML spells as 1_000 or 0x10. Where a word is wanted, as of a folder, `spelled` is that."""

    spelled: str


class _Loader(yaml.SafeLoader):
    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        value: int = super().construct_yaml_int(node)
        if str(value) == node.value:
            return value
        written = Spelled(value)
        written.spelled = node.value
        return written


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def read_yaml(path: str | Path) -> Any:
    """What a YAML file says, in plain values. Raises DiffIMLError as `read_text` and `parse_yaml`."""
    return parse_yaml(read_text(path, YAML_LIMIT), str(path))


def parse_yaml(text: str, place: str) -> Any:
    """What a YAML text says, in plain values.

    Raises:
        DiffIMLError: no YAML, aliases that stand for more than 100,000 values, or for themselves, or a number that
            YAML takes for another; begins with `place`.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is not None and _written_out(loader, node, {}) > _YAML_NODES:
            raise DiffIMLError(f"{place} has aliases that stand for more than {_YAML_NODES} values, or for themselves")
        return None if node is None else loader.construct_document(node)
    except RecursionError as error:
        raise DiffIMLError(f"{place} is not YAML that is read here (it is nested too deeply)") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise DiffIMLError(f"{place} is not YAML{where}: {getattr(error, 'problem', error)}") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, DiffIMLError):
            raise
        raise DiffIMLError(f"{place} is not YAML: a value does not fit its tag") from error


def _written_out(loader: yaml.SafeLoader, node: Any, sizes: dict[int, float]) -> float:
    """Values of a YAML node with every alias replaced by what it stands for; infinite if it stands in itself."""
    if id(node) not in sizes:
        sizes[id(node)] = math.inf  # until all of it is counted
        _require_keys_once(loader, node)
        if (odd := _ODD_NUMBERS.get(node.tag)) and odd.match(node.value):
            raise yaml.MarkedYAMLError(
                problem=f"{shown(node.value)} is another number in YAML; write it without leading zeros and colons",
                problem_mark=node.start_mark,
            )
        children = node.value if isinstance(node.value, list) else ()
        flat = (part for child in children for part in (child if isinstance(child, tuple) else (child,)))
        sizes[id(node)] = 1 + sum(_written_out(loader, child, sizes) for child in flat)
    return sizes[id(node)]


def _require_keys_once(loader: yaml.SafeLoader, node: Any) -> None:
    """Raises YAMLError if a mapping says a key twice, of which the last would win in silence.

    Two keys are one where they are the same text, the same value (1, 0x1, 1.0 and true) or, as names, the same word.
    """
    if isinstance(node, yaml.MappingNode):
        known: set[Any] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"):
            value = loader.construct_object(key)
            if not known.isdisjoint(same := {key.value, value, str(value)}):
                raise yaml.MarkedYAMLError(problem=f"the key {shown(key.value)} again", problem_mark=key.start_mark)
            known |= same


def require_unzipped(path: str | Path, limit: int) -> None:
    """Raises DiffIMLError if the files in a zip archive are more than `limit` bytes. Nothing is unpacked.

    A damaged archive raises as `ZipFile` does.
    """
    require_file(path)
    with ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > limit:
        raise DiffIMLError(f"{path} would unpack to {unpacked} bytes, more than the {limit} that are expected of it")


def checked(said: object, known: Mapping[str, Any], place: str, others: bool = False) -> dict[str, Any]:
    """The fields that a file or a call says, if each is known and of its type. The one way from a file to an argument.

    Args:
        known: the type of each field: bool, int, float (finite), str, dict, another class, a TypedDict, Any, a union
            of those, or a list, tuple or dict of one.
        place: how messages begin.
        others: let fields that are not known stand, of any type; nothing may be made of them.

    Raises:
        DiffIMLError: no fields at all, an unknown one, or a value of another type.
    """
    if not isinstance(said, dict):
        raise DiffIMLError(f"{place} is {shown(said)}; expected fields by their names")
    for name, value in said.items():
        if name not in known:
            if others:
                continue
            hint = nearest(name, known) if isinstance(name, str) else ""
            raise DiffIMLError(
                f"{place} has a field {shown(name)} that this version does not know{hint}; a newer version may have "
                "written it: update the package"
            )
        if not _fits(value, known[name]):
            bound = ", within ±2^63" if isinstance(value, (int, float)) and not abs(value) <= _LARGEST else ""
            raise DiffIMLError(f"{place}: {name} is {shown(value)}; expected {_called(known[name])}{bound}")
    return dict(said)


def typed(function: _Function) -> _Function:
    """The function, which raises DiffIMLError for an argument of another type than it is annotated with, and gets
    numpy's numbers as Python's."""
    signature, kinds = inspect.signature(function), get_type_hints(function)
    place = function.__qualname__.removesuffix(".__init__")

    @wraps(function)
    def checking(*args: Any, **kwargs: Any) -> Any:
        try:
            given = signature.bind(*args, **kwargs)
        except TypeError:  # of which Python's own words name the function
            return function(*args, **kwargs)
        given.arguments = {name: _as_pythons(value) for name, value in given.arguments.items()}
        checked({name: value for name, value in given.arguments.items() if name in kinds}, kinds, place)
        return function(*given.args, **given.kwargs)

    return cast(_Function, checking)


def _as_pythons(value: Any) -> Any:
    """A number of numpy's, or each of a dictionary, as Python has it; all else as it is."""
    if isinstance(value, dict):
        return {name: _as_pythons(one) for name, one in value.items()}
    numpy = sys.modules.get("numpy")  # else it is none of its
    return value.item() if numpy and isinstance(value, numpy.generic) else value


def shown(value: object) -> str:
    """A value as messages quote it: one line, with an end."""
    said = reprlib.repr(value)
    return said if len(said) <= _QUOTED else f"{said[:_QUOTED]}..."


def _called(kind: Any) -> str:
    """A type as messages name it, alike in all versions of Python."""
    if get_origin(kind) in (Union, types.UnionType):
        return " | ".join(map(_called, get_args(kind)))
    if kind is types.NoneType:
        return "None"
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)


def _fits(value: object, kind: Any) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if kind is Any:
        return True
    if is_typeddict(kind):
        fields = get_type_hints(kind)
        return (
            isinstance(value, dict)
            and kind.__required_keys__ <= value.keys()
            and all(_fits(value[name], fields[name]) for name in fields.keys() & value.keys())
        )
    if origin is dict:
        return isinstance(value, dict) and all(_fits(key, inner[0]) and _fits(v, inner[1]) for key, v in value.items())
    if origin in (list, tuple):
        return isinstance(value, (list, tuple)) and len(value) <= _LONGEST and all(_fits(v, inner[0]) for v in value)
    if kind in (int, float):
        number = isinstance(value, (int, kind)) and not isinstance(value, bool) and abs(value) <= _LARGEST
        return number  # not of NaN
    return isinstance(value, origin or kind) and not (kind is str and len(str(value)) > _LONGEST)
