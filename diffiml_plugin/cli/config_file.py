"""Config files: YAML whose keys are flag names, with `extends:`, `${VARIABLE}` and `${HERE}`, the file's own folder."""

import argparse
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

import yaml

import diffiml_plugin
from diffiml_plugin.errors import DiffIMLError, nearest

if TYPE_CHECKING:
    from diffiml_plugin.cli.parser import Parser

FOLDER = "benco_configs"
_PACKAGE = Path(diffiml_plugin.__file__).parent
_NOT_SETTINGS = ("config", "dry_run", "model_flags", "model_flags_given")


@dataclass(frozen=True)
class Setting:
    value: Any
    file: Path  # that set it, for messages


def read_config(name: str) -> dict[str, Setting]:
    """The settings of a file and of the files it extends; the extending file wins.

    Args:
        name: a path, with or without `.yaml`; what is not there is looked for among the package's own files.

    Raises:
        DiffIMLError: a missing or malformed file, or files that extend each other in a circle.
    """
    settings: dict[str, Setting] = {}
    chain: list[Path] = []
    while name:
        path = find_config(name, chain[-1].parent if chain else Path())
        if path in chain:
            raise DiffIMLError(f"config files extend each other in a circle: {' -> '.join(map(str, [*chain, path]))}")
        chain.append(path)
        content = _load(path)
        name = content.pop("extends", None)
        if not isinstance(name, (str, NoneType)):
            raise DiffIMLError(f"{path}: extends: expected the name of one file, got {name!r}")
        settings = {**{key: Setting(value, path) for key, value in content.items()}, **settings}
    return settings


def find_config(name: str, folder: Path) -> Path:
    """The file called `name` seen from `folder`, else the package's own of that name."""
    own = packaged_folder()
    places = [folder / name, own / name.removeprefix(f"{FOLDER}/")]
    for path in (Path(f"{place}{suffix}") for place in places for suffix in ("", ".yaml")):
        if path.is_file():
            return path.resolve()
    close = nearest(Path(name).name.removesuffix(".yaml"), [path.stem for path in own.glob("*.yaml")])
    raise DiffIMLError(f"no config file {places[0]}{close} (the package's own are in {own})")


def packaged_folder() -> Path:
    """Where the package keeps its config files: inside it once installed, beside it in a checkout."""
    installed = _PACKAGE / FOLDER
    return installed if installed.is_dir() else _PACKAGE.parent / FOLDER


def apply_settings(parser: "Parser", settings: dict[str, Setting], given: set[str]) -> set[str]:
    """Makes the settings the parser's defaults, except where a flag was given.

    Returns:
        The attributes that were set.

    Raises:
        DiffIMLError: a key that is no flag, with the nearest one; a value of the wrong kind; an unset variable.
    """
    actions = parser.settings()
    applied = set()
    for key, setting in settings.items():
        if key not in actions:
            raise DiffIMLError(f"{setting.file}: unknown key {key!r}{nearest(str(key), actions)}")
        action = actions[key]
        if action.dest in given or setting.value is None:
            continue
        try:
            action.default = _value(action, _expand(setting.value, {**os.environ, "HERE": str(setting.file.parent)}))
        except ValueError as error:
            raise DiffIMLError(f"{setting.file}: {key}: {error}") from error
        action.required = False
        applied.add(action.dest)
    return applied


def resolved_settings(args: argparse.Namespace) -> str:
    """The settings as YAML that `--config` reads back."""
    settings = {key: value for key, value in vars(args).items() if key not in _NOT_SETTINGS}
    for name, value in getattr(args, "model_flags", {}).items():
        if name in args.model_flags_given or not settings.get("checkpoint_path"):  # else it is the checkpoint's own
            settings[name] = value
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def _load(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DiffIMLError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise DiffIMLError(f"{path}: expected lines of `flag: value`, got {type(content).__name__}")
    return content


def _expand(value: Any, variables: Mapping[str, str]) -> Any:
    """Fills in `${VARIABLE}`."""
    if isinstance(value, list):
        return [_expand(item, variables) for item in value]
    if not isinstance(value, str):
        return value

    def variable(match: re.Match) -> str:
        if match[1] not in variables:
            raise ValueError(f"the variable {match[1]} of {value!r} is not set; export {match[1]}=...")
        return variables[match[1]]

    return re.sub(r"\$\{(\w+)\}", variable, value)


def _value(action: argparse.Action, value: Any) -> Any:
    """The value as the flag's declared type: YAML reads 1e-4 as a string, and 5 where a name was meant."""
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError(f"expected true or false, got {value!r}")
        return action.const if value else action.default
    if action.nargs in ("*", "+") or isinstance(action.nargs, int):
        return [_convert(action, item) for item in (value if isinstance(value, list) else [value])]
    return _convert(action, value)


def _convert(action: argparse.Action, value: Any) -> Any:
    if isinstance(value, (list, dict)):
        raise ValueError(f"expected one value, got {value!r}")
    kind: Callable = action.type or str
    try:
        converted = kind(str(value))
    except DiffIMLError:
        raise
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise ValueError(f"{value!r} is no {getattr(kind, '__name__', 'valid value')}") from error
    if action.choices is not None and converted not in action.choices:
        known = [str(choice) for choice in action.choices]
        raise ValueError(f"{value!r} is not one of {', '.join(known)}{nearest(str(value), known)}")
    return converted
