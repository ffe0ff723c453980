"""Flags: a verb's own, those of the model it names, and where a config file comes in between."""

import argparse
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from types import ModuleType, NoneType
from typing import Any, get_args

from diffiml_plugin.cli.config_file import Setting, apply_settings, read_config
from diffiml_plugin.cli.parser import Parser, split_flags
from diffiml_plugin.method.config import DiffIMLConfig, true_or_false

DEFAULT_MODEL = "DiffIML"


@dataclass(frozen=True)
class CommandLine:
    """The flags that one command line may hold, and what the config files that it names say.

    `model` is the registered name that it or a file gives, "" if none does; `model_flags` are those of its constructor.
    """

    parser: Parser
    settings: dict[str, Setting]
    model: str
    model_flags: list[str]


def read_command_line(program: str, verb: ModuleType, argv: list[str]) -> CommandLine:
    """The flags of a verb, as `parse_arguments` takes it, and of the model that `argv` or a config file names.

    Raises:
        DiffIMLError: an unknown model, with the nearest name, or a config file that cannot be read.
    """
    parser = Parser(prog=program, description=verb.__doc__)
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
    settings, names_model = {}, {}
    for config in filter(None, (getattr(verb, "CONFIG", None), *first.config)):
        read = read_config(config)
        settings |= read
        names_model = read if "model" in read else names_model
    model, model_flags = "", []
    if getattr(verb, "USES_MODEL", False):
        wanted = first.model or ("model" in settings and settings["model"].value)
        model, model_flags = add_model_arguments(parser, str(wanted or DEFAULT_MODEL))
        model = model if wanted else ""
    if first.model or "model" in settings:  # what other files set of DiffIML is not meant for another model
        ours = {flag.name for flag in (*_field_flags(DiffIMLConfig), *_ADAPTER_FLAGS)} - parser.settings().keys()
        own = {} if first.model else names_model
        settings = {key: entry for key, entry in settings.items() if key not in ours or entry is own.get(key)}
    return CommandLine(parser, settings, model, model_flags)


def parse_arguments(program: str, verb: ModuleType, argv: list[str]) -> argparse.Namespace:
    """The settings of one command line: flags over config file over defaults.

    Args:
        program: the words before the flags, for messages.
        verb: a module as described in `cli.main`.
        argv: the words after the verb.

    Raises:
        DiffIMLError: an unknown flag, model or config key, with the nearest valid name, or a wrong value.
    """
    line = read_command_line(program, verb, argv)
    passes_on, others = getattr(verb, "PASSES_ON", False), []
    if passes_on:
        argv, others = split_flags(argv, line.parser.flags())
    given = line.parser.given(argv)
    given |= apply_settings(line.parser, line.settings, given)
    args = line.parser.parse_args(argv)
    if passes_on:
        args.passed_on = others
    if getattr(verb, "USES_MODEL", False):
        if line.model:
            args.model = line.model
        elif getattr(args, "checkpoint_path", ""):
            args.model = ""  # the checkpoint's
        args.model_flags = {name: vars(args).pop(name) for name in line.model_flags}
        args.model_flags_given = given & set(line.model_flags)
    return args


def add_model_arguments(parser: Parser, model: str) -> tuple[str, list[str]]:
    """Adds `--model`, and the flags of that model's constructor, as far as the parser lacks them.

    Returns:
        The model's registered name (upper and lower case do not matter) and the names of the constructor's flags added.

    Raises:
        DiffIMLError: no such model, with the nearest name.
    """
    if model.lower() == DEFAULT_MODEL.lower():
        model, flags = DEFAULT_MODEL, [*_field_flags(DiffIMLConfig), *_ADAPTER_FLAGS]
    else:
        from diffiml_plugin.framework.imdlbenco import MODELS
        from diffiml_plugin.models.registry import model_class

        model = {name.lower(): name for name in MODELS.module_dict}.get(model.lower(), model)
        flags = list(_constructor_flags(model_class(model)))
    if "model" not in parser.settings():
        parser.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME", help="name in the framework's registry")
    taken = parser.settings()
    flags = [flag for flag in flags if flag.name not in taken]
    group = parser.add_argument_group(f"settings of {model}")
    for flag in flags:
        flag.add_to(group)
    return model, [flag.name for flag in flags]


def add_fields(parser: argparse._ActionsContainer, settings: type, skip: Iterable[str] = ()) -> None:
    """A flag for each field of a dataclass: its type and default, and `help` and `choices` of its metadata."""
    for flag in _field_flags(settings):
        if flag.name not in skip:
            flag.add_to(parser)


@dataclass(frozen=True)
class _Flag:
    name: str
    converter: Callable
    default: Any
    help: str
    choices: Sequence | None = None
    alias: str = ""

    def add_to(self, parser: argparse._ActionsContainer) -> None:
        options = {"type": self.converter, "default": self.default, "help": self.help, "choices": self.choices}
        if self.converter is true_or_false:
            options |= {"nargs": "?", "const": True, "metavar": "true|false"}  # `--tta` is `--tta true`
        parser.add_argument(*(f"--{name}" for name in (self.name, self.alias) if name), **options)


_ADAPTER_FLAGS = (  # what DiffIML's constructor in the registry takes beside its config
    _Flag("encoder_weights", str, "none", "start of the condition encoder: none (random) | xavier | imagenet | a file"),
    _Flag("codec_weights", str, "default", "of the latent codec: default | none (random) | a local file or folder"),
)


def _field_flags(settings: type) -> Iterable[_Flag]:
    for field in fields(settings):
        converter = _converter(field.type, field.default)
        yield _Flag(
            field.name,
            converter,
            field.default,
            field.metadata["help"],
            field.metadata.get("choices"),
            field.metadata.get("alias", ""),
        )


def _constructor_flags(constructor: Callable) -> Iterable[_Flag]:
    """The parameters that a word on a command line can set, read as the framework's scripts read them."""
    for name, parameter in inspect.signature(constructor).parameters.items():
        default = None if parameter.default is parameter.empty else parameter.default
        annotation = str if parameter.annotation is parameter.empty else parameter.annotation
        if parameter.annotation is parameter.empty and isinstance(default, (int, float)):
            annotation = type(default)
        if converter := _converter(annotation, default):
            yield _Flag(name, converter, default, f"constructor argument of {constructor.__name__}")


def _converter(annotation: Any, default: Any) -> Callable | None:
    """From a word to a value of this annotation; None where no word makes one (lists, devices, layers)."""
    if not isinstance(default, (NoneType, int, float, str)):
        return None
    if NoneType in get_args(annotation):  # Optional[X], X | None
        (annotation,) = (kind for kind in get_args(annotation) if kind is not NoneType)
    if annotation is bool or isinstance(default, bool):
        return true_or_false
    return annotation if callable(annotation) and not get_args(annotation) else None
