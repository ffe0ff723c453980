"""Any model of the framework's registry, built by name."""

import inspect
import io
import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import timm
import torch
from torch import nn

from diffiml_plugin.errors import DiffIMLError, nearest
from diffiml_plugin.framework.adapters import register
from diffiml_plugin.framework.imdlbenco import MODELS, POSTFUNCS
from diffiml_plugin.launch import is_main_process

_logger = logging.getLogger(__name__)
_INPUT_MODES = {  # of the framework's own scripts, where that is not an image resized to 512x512
    "IML_ViT": {"image_size": 1024, "if_padding": True, "edge_mask_width": 7},
    "MSCDI_Net": {"edge_mask_width": 7},
    "MVSSNet": {"edge_mask_width": 7},
    "ObjectFormer": {"image_size": 224},
    "PSCC_Net": {"image_size": 256},
    "SPAN": {"image_size": 224},
}
_CONFIGS = Path(find_spec("IMDLBenCo").origin).parent / "statics" / "model_zoo" / "configs"
_SHIPPED = {  # what the framework ships for its models; a Path is not stored with a checkpoint, which may travel
    "Cat_Net": {"cfg_file": _CONFIGS / "CAT_full.yaml"},
    "Trufor": {"config_path": _CONFIGS / "trufor.yaml"},
}
SIZE_FLAGS = ("image_size", "input_size", "img_size")  # what constructors call the side of the model's input
_FILE_FLAG = re.compile("path|file|weights|ckpt")
_START_FLAG = re.compile("pretrain(ed)?(_path)?$|init_weight_path")  # of weights that a model starts without as well
_MAKES = {"edge_mask": "--edge_mask_width, in pixels (7)", "shape_mask": "--if_padding"}  # keys of a sample


def model_class(name: str) -> Callable[..., nn.Module]:
    """The registered class or function. Raises DiffIMLError, with the nearest name, if there is none."""
    register()
    if not MODELS.has(name):
        known = MODELS.module_dict
        hint = nearest(name, known) or f"; the registry has {', '.join(sorted(known))}"
        raise DiffIMLError(f"no model is called {name!r}{hint}")
    return MODELS.module_dict[name]


def post_function(name: str) -> Callable[[dict], None] | None:
    """What the framework calls on each sample in the loader worker for this model, if anything."""
    register()
    wanted = f"{name}_post_func".lower()
    return next((function for key, function in POSTFUNCS.module_dict.items() if key.lower() == wanted), None)


def input_mode(name: str) -> dict[str, Any]:
    """The fields of `data.InputSettings` in which what a model of the zoo was made for is not the default."""
    return _INPUT_MODES.get(name, {})


def constructor_flags(name: str) -> dict[str, inspect.Parameter]:
    """The model's constructor parameters, each of which is a flag."""
    parameters = inspect.signature(model_class(name)).parameters.values()
    return {p.name: p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}


def resolve_flags(name: str, flags: Mapping[str, Any], shared: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Every constructor flag with its value: from `flags`, else from `shared`, else its default, or the shipped file.

    Args:
        flags: of the model; one it does not have is refused.
        shared: settings of the run; those that the constructor has too (image_size, if_predict_label...) count,
            as in the framework's scripts, and image_size by whichever name of `SIZE_FLAGS` the constructor has.

    Raises:
        DiffIMLError: an unknown flag, or a required one without a value.
    """
    known = constructor_flags(name)
    for flag in flags:
        if flag not in known:
            raise DiffIMLError(f"{name} has no flag --{flag}{nearest(flag, known)}")
    shared, values = dict(shared or {}), {}
    if shared.get("image_size"):
        shared |= {flag: shared["image_size"] for flag in SIZE_FLAGS}
    for flag, parameter in known.items():
        value = flags.get(flag, shared.get(flag, parameter.default))
        if value in (None, "", parameter.empty):
            value = _SHIPPED.get(name, {}).get(flag, value)
        if value is parameter.empty:
            raise DiffIMLError(f"{name} needs --{flag}")
        values[flag] = value
    return values


def require_inputs(model: nn.Module, sample: Iterable[str]) -> None:
    """Raises DiffIMLError, with the flag that helps, if `model.forward` needs what a sample with these keys lacks."""
    parameters = inspect.signature(model.forward).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    for name in needed:
        if name not in sample:
            mend = f"pass {_MAKES[name]}" if name in _MAKES else "it has no post function that makes it"
            raise DiffIMLError(f"{type(model).__name__} needs {name}, which the data do not give; {mend}")


def size_multiple(name: str) -> int | None:
    """Pixels; the model takes any image whose sides are multiples of it. None: one of the zoo, which may not."""
    return getattr(model_class(name), "size_multiple", None)


def require_size(name: str, image_size: int) -> None:
    """Raises DiffIMLError if the model cannot take squares of that side."""
    multiple = size_multiple(name)
    if multiple and image_size % multiple:
        near = max(multiple, round(image_size / multiple) * multiple)
        raise DiffIMLError(f"--image_size {image_size} is not a multiple of {multiple}, which {name} needs; try {near}")


@contextmanager
def nothing_loaded() -> Iterator[None]:
    """Inside, whatever a model's constructor downloads or loads is empty; several of the zoo's do so unasked."""
    create_model = timm.create_model
    with ExitStack() as stack:
        for name in ("torch.load", "torch.hub.load_state_dict_from_url", "torch.utils.model_zoo.load_url"):
            stack.enter_context(patch(name, lambda *args, **options: defaultdict(dict)))
        stack.enter_context(patch.object(nn.Module, "load_state_dict", lambda *args, **options: ([], [])))
        stack.enter_context(
            patch("timm.create_model", lambda *args, **options: create_model(*args, **{**options, "pretrained": False}))
        )
        yield


def build_model(name: str, flags: Mapping[str, Any], pretrained: bool = True) -> nn.Module:
    """Builds the model with resolved flags; a warning names those that would have given it initial weights.

    Args:
        pretrained: let the constructor fetch and load weights; False leaves them random, which is for models that
            a checkpoint fills next, or whose weights do not matter.

    Raises:
        DiffIMLError: a file that the constructor wants is not there, or a model of the zoo cannot be built otherwise.
    """
    constructor = model_class(name)
    with nullcontext() if pretrained else nothing_loaded(), redirect_stdout(io.StringIO()):
        try:
            model = constructor(**flags)
        except OSError as error:  # a failed download is one too
            raise DiffIMLError(
                f"{name} cannot be built: it wants a file that is not there ({error}); fetch it, or "
                "choose flags that do without"
            ) from error
        except RuntimeError as error:
            if torch.cuda.is_available() or not re.search("CUDA|NVIDIA", str(error)):
                raise
            raise DiffIMLError(f"{name} cannot be built without a CUDA device, and there is none") from error  # Cat_Net
        except (AssertionError, AttributeError, TypeError) as error:  # how the zoo says that a flag is not given
            files = [f"--{flag}" for flag, value in flags.items() if not value and _FILE_FLAG.search(flag)]
            if not (files and constructor.__module__.startswith("IMDLBenCo.")):
                raise
            raise DiffIMLError(
                f"{name} cannot be built without files of its own ({error}); give {', '.join(files)}, "
                "as far as its authors ask for them"
            ) from error
    if pretrained and is_main_process():
        _warn_of_random_weights(name, flags)
    return model


def _warn_of_random_weights(name: str, flags: Mapping[str, Any]) -> None:
    wanting = [
        f"--{flag}"
        for flag, value in flags.items()
        if _START_FLAG.search(flag) and (not value or isinstance(value, str) and not Path(value).is_file())
    ]  # PSCC_Net ignores a wrong path
    if flags.get("encoder_weights") == "none":  # ours
        _logger.info(f"{name}'s encoder starts from random weights; the paper's starts from --encoder_weights imagenet")
    if wanting:
        _logger.warning(f"{name} starts from random weights, for want of {', '.join(wanting)}")
