"""Flags that are made of something else: a dataclass of settings, the constructor of a model."""

import argparse
import inspect
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from types import NoneType
from typing import Any, get_args

from diffiml_plugin.cli.parser import Parser
from diffiml_plugin.method.config import ARCHITECTURE_FIELDS, TRAINING_FIELDS, DiffIMLConfig, true_or_false
from diffiml_plugin.settings import MODEL, TITLES

DEFAULT_MODEL = "DiffIML"


def add_model_arguments(parser: Parser, model: str, restores: bool = False) -> tuple[str, list[str]]:
    """Adds `--model`, and the flags of that model's constructor, as far as the parser lacks them.

    Args:
        restores: the model is a checkpoint's, which has a value for each flag. Those that it fixes, and those of
            training, are taken for files that do not say them, but not shown.

    Returns:
        The model's registered name (upper and lower case do not matter) and the names of the constructor's flags added.

    Raises:
        DiffIMLError: no such model, with the nearest name.
    """
    if model.lower() == DEFAULT_MODEL.lower():
        model, flags = DEFAULT_MODEL, list(_diffiml_flags())
    else:
        from diffiml_plugin.models.registry import find_model

        card = find_model(model)
        model, flags = card.name, list(_constructor_flags(card.constructor))
    if "model" not in parser.settings():
        parser.titled(MODEL).add_argument(
            "--model", default=DEFAULT_MODEL, metavar="NAME", help="name in the framework's registry"
        )
    taken = parser.settings()
    flags = [flag for flag in flags if flag.name not in taken]
    hidden = {*parser.hidden, *(_FIXED if restores else ())}
    for flag in flags:
        title = f"settings of {model}{flag.group}{', else as the checkpoint says' if restores else ''}"
        flag = replace(flag, default=None) if restores else flag
        flag.add_to(parser.titled(title), hidden)
    return model, [flag.name for flag in flags]


def add_trained_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which trained model answers: `--checkpoint_path`, `small` unless told otherwise, and `--model`."""
    parser.add_argument(
        "--checkpoint_path",
        default="small",
        help="weights: a file, a training's folder, or small, the model that travels with the package",
    )
    parser.add_argument("--model", default="", help="name in the framework's registry (the checkpoint's)")


def add_fields(parser: Parser, settings: type, skip: Container[str] = (), title: str = "") -> None:
    """A flag for each field of a dataclass: its type and default, and help, choices and title of its metadata."""
    for flag in sorted(_field_flags(settings), key=lambda flag: TITLES.index(flag.group)):
        if flag.name not in skip:
            flag.add_to(parser.titled(flag.group or title), parser.hidden)


@dataclass(frozen=True)
class _Flag:
    name: str
    converter: Callable | None
    default: Any
    help: str
    choices: Sequence | None = None
    alias: str = ""
    group: str = ""

    def add_to(self, parser: argparse._ActionsContainer, hidden: Container[str]) -> None:
        shown = argparse.SUPPRESS if self.name in hidden else self.help
        options = {"type": self.converter, "default": self.default, "help": shown, "choices": self.choices}
        if self.converter is true_or_false:
            options |= {"nargs": "?", "const": True, "metavar": "true|false"}  # `--tta` is `--tta true`
        parser.add_argument(*(f"--{name}" for name in (self.name, self.alias) if name), **options)


_TRAINING, _ARCHITECTURE, _SAMPLING = ": training", ": architecture", ": sampling"
_ADAPTER_FLAGS = (  # what DiffIML's constructor in the registry takes beside its config
    _Flag("encoder_weights", str, "none", "start of the condition encoder: none (random) | xavier | imagenet | a file"),
    _Flag("codec_weights", str, "default", "of the latent codec: default | none (random) | a local file or folder"),
)
_FIXED = {*ARCHITECTURE_FIELDS, *TRAINING_FIELDS, *(flag.name for flag in _ADAPTER_FLAGS)}  # once a model is trained


def _diffiml_flags() -> Iterator[_Flag]:
    for flag in (*_field_flags(DiffIMLConfig), *_ADAPTER_FLAGS):
        group = _ARCHITECTURE if flag.name in ARCHITECTURE_FIELDS else _TRAINING if flag.name in _FIXED else _SAMPLING
        yield replace(flag, group=group)


def names_of_diffiml() -> set[str]:
    """The flags of DiffIML's constructor."""
    return {flag.name for flag in _diffiml_flags()}


def _field_flags(settings: type) -> Iterator[_Flag]:
    for field in fields(settings):
        converter, facts = _converter(field.type, field.default), field.metadata
        told = (facts["help"], facts.get("choices"), facts.get("alias", ""), facts.get("group", ""))
        yield _Flag(field.name, converter, field.default, *told)


def _constructor_flags(constructor: Callable) -> Iterator[_Flag]:
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
