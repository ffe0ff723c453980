"""Any model of the framework's registry, built by name."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from diffiml_plugin.bench.framework import MODELS, POSTFUNCS
from diffiml_plugin.bench.plugin import register
from diffiml_plugin.errors import DiffIMLError, nearest


def model_class(name: str) -> Callable[..., nn.Module]:
    """The registered class or function. Raises DiffIMLError, with the nearest name, if there is none."""
    register()
    if not MODELS.has(name):
        known = MODELS.module_dict
        raise DiffIMLError(f"no model is called {name!r}{nearest(name, known)}; known are {', '.join(sorted(known))}")
    return MODELS.module_dict[name]


def post_function(name: str) -> Callable[[dict], None] | None:
    """What the framework calls on each sample in the loader worker for this model, if anything."""
    register()
    wanted = f"{name}_post_func".lower()
    return next((function for key, function in POSTFUNCS.module_dict.items() if key.lower() == wanted), None)


def constructor_flags(name: str) -> dict[str, inspect.Parameter]:
    """The model's constructor parameters, each of which is a flag."""
    made = model_class(name)
    parameters = inspect.signature(made).parameters
    return {key: value for key, value in parameters.items() if value.kind not in (value.VAR_KEYWORD, value.VAR_POSITIONAL)}


def resolve_flags(name: str, flags: Mapping[str, Any], shared: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Every constructor flag with its value: from `flags`, else from `shared`, else its default.

    Args:
        flags: of the model; one it does not have is refused.
        shared: settings of the run; those that the constructor has too (image_size, if_predict_label...) count,
            as in the framework's scripts.

    Raises:
        DiffIMLError: an unknown flag, or a required one without a value.
    """
    known = constructor_flags(name)
    for flag in flags:
        if flag not in known:
            raise DiffIMLError(f"{name} has no flag --{flag}{nearest(flag, known)}")
    values = {}
    for flag, parameter in known.items():
        value = flags.get(flag, (shared or {}).get(flag, parameter.default))
        if value is inspect.Parameter.empty:
            raise DiffIMLError(f"{name} needs --{flag}")
        values[flag] = value
    return values


def build_model(name: str, flags: Mapping[str, Any]) -> nn.Module:
    """Builds the model with resolved flags. Raises DiffIMLError if files that its constructor wants are missing."""
    try:
        return model_class(name)(**flags)
    except OSError as error:  # downloads fail with a subclass too
        raise DiffIMLError(f"{name} cannot be built: it wants a file that is not there ({error}); fetch it, or choose "
                           "flags that do without") from error
