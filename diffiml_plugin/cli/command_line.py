"""One command line: which flags it may hold, and who says what: a flag, a config file, or the default."""

import argparse
from dataclasses import dataclass, fields, replace
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from diffiml_plugin.cli.arguments import DEFAULT_MODEL, add_model_arguments, names_of_diffiml
from diffiml_plugin.cli.config_file import Entry, expand, packaged_folder, read_config
from diffiml_plugin.cli.parser import Parser, split_flags
from diffiml_plugin.errors import DiffIMLError, nearest
from diffiml_plugin.settings import DEFAULT, FLAG, CommonSettings, Setting, escaped, layer, resolve
from diffiml_plugin.stored import Spelled, shown

_NO_SETTINGS = ("config", "dry_run")


@dataclass(frozen=True)
class CommandLine:
    """The flags that one command line may hold, and what the config files that it names say.

    `model` is the registered name that it or a file gives, "" if none does; `model_flags` are those of its constructor.
    """

    parser: Parser
    entries: dict[str, Entry]
    model: str
    model_flags: list[str]


def read_command_line(program: str, verb: ModuleType, argv: list[str]) -> CommandLine:
    """The flags of a verb, as `parse_arguments` takes it, and of the model that `argv` or a config file names.

    Raises:
        DiffIMLError: an unknown model, with the nearest name, or a config file that cannot be read.
    """
    parser = Parser(prog=program, description=verb.__doc__, hidden=getattr(verb, "IRRELEVANT", ()))
    verb.add_arguments(parser)
    parser.add_argument(
        "--config",
        "--preset",
        metavar="FILE",
        action="append",
        help="YAML settings, such as `paper` or `study/squares#DiffIML` (`benco configs` lists them); keys are flag "
        "names, flags win over them, and of several files the later one",
    )
    parser.add_argument("--dry_run", action="store_true", help="print what would run, and stop")
    early = Parser(prog=program, add_help=False)  # these two decide which other flags there are
    early.add_argument("--config", "--preset", action="append", default=[])
    early.add_argument("--model")
    first, _ = early.parse_known_args(argv)
    entries: dict[str, Entry] = {}
    names_model: dict[str, Entry] = {}
    own_defaults = [str(packaged_folder().parent / verb.CONFIG)] if hasattr(verb, "CONFIG") else []
    for config in (*own_defaults, *filter(None, first.config)):
        read = read_config(config, program.rpartition(" ")[2])
        entries |= read
        names_model = read if "model" in read else names_model
    model = ""
    model_flags: list[str] = []
    if getattr(verb, "USES_MODEL", False):
        wanted = first.model or ("model" in entries and entries["model"].value)
        restores = getattr(verb, "RESTORES", False)
        model, model_flags = add_model_arguments(parser, str(wanted or DEFAULT_MODEL), restores)
        model = model if wanted else ""
    if first.model or "model" in entries:  # what other files set of DiffIML is not meant for another model
        strange = names_of_diffiml() - parser.settings().keys()
        own = {} if first.model else names_model
        entries = {key: entry for key, entry in entries.items() if key not in strange or entry is own.get(key)}
    return CommandLine(parser, entries, model, model_flags)


def parse_arguments(program: str, verb: ModuleType, argv: list[str]) -> argparse.Namespace:
    """The settings of one command line: flags over config files over defaults.

    Args:
        program: the words before the flags, for messages.
        verb: a module as described in `cli.main`.
        argv: the words after the verb.

    Raises:
        DiffIMLError: an unknown flag, model or config key, with the nearest valid name, or a wrong value.
    """
    line = read_command_line(program, verb, argv)
    passed_on: list[list[str]] = []
    passes_on = getattr(verb, "PASSES_ON", False)
    if passes_on:
        argv, passed_on = split_flags(argv, line.parser.flags())
    settings = _settle(line, argv)
    if line.model:
        settings["model"] = replace(settings["model"], value=line.model)
    elif getattr(verb, "USES_MODEL", False) and "checkpoint_path" in settings and settings["checkpoint_path"].value:
        settings["model"] = Setting("", DEFAULT)  # the checkpoint's

    names, shown = line.parser.defaults(), line.parser.shown()
    args = argparse.Namespace(**{name: settings[name].value if name in settings else None for name in names})
    args.settings = {name: settings[name] for name in names if name in settings and name not in _NO_SETTINGS}
    args.names = [name for name in names if name in shown or name in args.settings and args.settings[name].is_said]
    if passes_on:
        args.passed_on = passed_on
    if getattr(verb, "USES_MODEL", False):
        flags = {name: vars(args).pop(name) for name in line.model_flags}
        args.model_flags = {name: flags[name] for name in flags if name in settings and settings[name].is_said}
    return args


def _settle(line: CommandLine, argv: list[str]) -> dict[str, Setting]:
    """By attribute each setting that has a value; `--help` ends here. Raises DiffIMLError as `parse_arguments`."""
    parser, actions = line.parser, line.parser.settings()
    for key, entry in line.entries.items():
        if key not in actions:
            raise DiffIMLError(f"{entry.place}: unknown key {shown(key)}{nearest(str(key), actions)}")
    keys = {actions[key].dest: key for key, entry in line.entries.items() if entry.value is not None}
    wants_help = bool({"-h", "--help"} & set(argv))
    said = {} if wants_help else parser.read(argv)
    files = {dest: _setting(key, actions[key], line.entries[key]) for dest, key in keys.items() if dest not in said}
    if wants_help:
        parser.explain({name: setting.value for name, setting in files.items()})
    parser.require({*said, *files})
    return resolve(layer(said, FLAG), files, layer(parser.defaults(), DEFAULT))


def resolved_settings(args: argparse.Namespace) -> str:
    """The settings as YAML that `--config` reads back, each with its source as a comment.

    Where flags and files leave a setting open, it is the checkpoint's or the model's; a comment says if a checkpoint is
    not there yet.

    Raises:
        DiffIMLError: a checkpoint that cannot be read, or that disagrees.
    """
    settings, remark = args.settings, ""
    if hasattr(args, "model_flags") and hasattr(args, "checkpoint_path"):
        from diffiml_plugin.models.checkpoints import find_checkpoint

        path = None
        if args.checkpoint_path:
            try:
                path = find_checkpoint(args.checkpoint_path)
            except DiffIMLError as error:
                remark = f"# {error}\n"
        if path or args.model:
            settings = _with_those_of_the_model(args, path)
    return remark + "".join(_line(name, settings[name]) for name in args.names if name in settings)


def _with_those_of_the_model(args: argparse.Namespace, checkpoint: Path | None) -> dict[str, Setting]:
    import torch

    from diffiml_plugin.models.opened import open_model

    common = {field.name: getattr(args, field.name) for field in fields(CommonSettings) if hasattr(args, field.name)}
    opened = open_model(checkpoint, CommonSettings(**common), torch.device("cpu"), args.model, args.model_flags)
    said = {name: setting for name, setting in args.settings.items() if setting.is_said}
    # What the run has a value of its own for, such as the device, is not the constructor's to say.
    its = {name: setting for name, setting in opened.settings.items() if getattr(args, name, None) is None}
    its["model"] = Setting(opened.card.name, opened.checkpoint.source if opened.checkpoint else DEFAULT)
    return resolve(said, opened.input_settings, its, args.settings)


def _line(name: str, setting: Setting) -> str:
    several = isinstance(setting.value, list)
    content = escaped(setting.value) if several else {name: escaped(setting.value)}
    text = yaml.safe_dump(content, default_flow_style=several, allow_unicode=True, width=float("inf")).rstrip()
    return f"{name}: {text}  # {setting.source}\n" if several else f"{text}  # {setting.source}\n"


def _setting(key: str, action: argparse.Action, entry: Entry) -> Setting:
    """What a file says, in the flag's declared type: YAML reads 1e-4 as a string, and 5 where a name was meant.

    Raises:
        DiffIMLError: a value of the wrong kind, an unset variable.
    """
    try:
        return Setting(_value(action, expand(entry.value, entry.place)), f"from {entry.place.name}")
    except ValueError as error:
        raise DiffIMLError(f"{entry.place}: {key}: {error}") from error


def _value(action: argparse.Action, value: Any) -> Any:
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError(f"expected true or false, got {shown(value)}")
        return value
    if action.nargs in ("*", "+") or isinstance(action.nargs, int):
        return [_convert(action, item) for item in (value if isinstance(value, list) else [value])]
    return _convert(action, value)


def _convert(action: argparse.Action, value: Any) -> Any:
    if isinstance(value, (list, dict)):
        raise ValueError(f"expected one value, got {shown(value)}")
    kind: Any = action.type or str
    if value is None or kind is str and type(value) not in (str, int, Spelled, date):
        raise ValueError(f"{shown(value)} is no word to YAML; put it in quotes")
    word = value.spelled if kind is str and isinstance(value, Spelled) else str(value)
    if "\0" in word or any("\ud800" <= character < "\udc80" for character in word):
        raise ValueError(f"{shown(value)} has characters that no file's name has")
    try:
        converted = kind(word)
    except DiffIMLError:
        raise
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise ValueError(f"{value!r} is no {getattr(kind, '__name__', 'valid value')}") from error
    if action.choices is not None and converted not in action.choices:
        known = [str(choice) for choice in action.choices]
        raise ValueError(f"{value!r} is not one of {', '.join(known)}{nearest(str(value), known)}")
    return converted
