"""The models of the framework's registry: a card for each, found once by its name, answers all questions about it."""

import inspect
import logging
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any

import timm
import torch
import torch.utils.model_zoo
from torch import nn

from diffiml_plugin.errors import DiffIMLError, nearest
from diffiml_plugin.framework.adapters import DiffIMLModel, SegFormerIML, diffiml_post_func, register
from diffiml_plugin.launch import is_main_process, require_torchs_defaults
from diffiml_plugin.method.config import SIZE_MULTIPLE
from diffiml_plugin.settings import DEFAULT, FLAG, RUN_ITSELF, Setting, layer, resolve, values_of
from diffiml_plugin.stored import checked, shown
from diffiml_plugin.threads import quiet, replaced_here

_logger = logging.getLogger(__name__)
REGISTRY = "registry:"  # before a name of ours: what another package registered by it
SIZE_FLAGS = ("image_size", "input_size", "img_size")  # what constructors call the side of the model's input
_FILE_FLAG = re.compile("path|file|weights|ckpt|checkpoint|config|cfg|folder|dir$|root|url")
_WEIGHTS_FLAG = re.compile("pretrain|weight|ckpt|checkpoint")  # those of them that a checkpoint's own weights replace
_YAML = (".yaml", ".yml")
_WORD = re.compile(r"[\w.+-]*")  # no path
_LARGEST = 4096  # of the framework's models a number, and what a list adds up to: some count, or pad, by them
_START_FLAG = re.compile("pretrain(ed)?(_path)?$|init_weight_path")  # of weights that a model starts without as well
_MAKES = {"edge_mask": "--edge_mask_width, in pixels (7)", "shape_mask": "--if_padding"}  # keys of a sample


@dataclass(frozen=True)
class RegisteredModel:
    """All that is known of one model of the registry.

    Attributes:
        name: by which `find_model` finds it, and which is stored with its weights.
        constructor: the registered class or function.
        post_function: what is called on each sample in the loader's worker, if anything.
        size_multiple: pixels; the model takes any image whose sides are multiples of it. None: it may take one size.
        backbone: of a model, the part that pretrained weights fill, which may learn at a rate of its own.
        samples: it draws its masks by sampling, with the settings and the parts of `model.diffiml`.
        input: the fields of `InputSettings` in which what it was made for is not the default.
        shipped: files that the framework has for its constructor, by flag. A Path is not stored with a checkpoint,
            which may travel.
        untrained: flags with which its constructor reads no weights.
        published_name: its name in the paper's tables, where that is another.
        table4_size: pixels, the side at which Table 4 counts it, where that is not the side of `input`.
        table4_rows: the flags of each of its rows in Table 4.
    """

    name: str
    constructor: Callable[..., nn.Module]
    post_function: Callable[[dict], None] | None = None
    size_multiple: int | None = None
    backbone: Callable[[Any], nn.Module] | None = None
    samples: bool = False
    input: Mapping[str, Any] = field(default_factory=dict)
    shipped: Mapping[str, Path] = field(default_factory=dict)
    untrained: Mapping[str, Any] = field(default_factory=dict)
    published_name: str = ""
    table4_size: int | None = None
    table4_rows: tuple[Mapping[str, Any], ...] = ({},)

    @property
    def flags(self) -> dict[str, inspect.Parameter]:
        """The constructor's parameters, each of which is a flag."""
        parameters = inspect.signature(self.constructor).parameters.values()
        return {p.name: p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}

    @property
    def mirrors_itself(self) -> bool:
        """Whether it has test-time augmentation of its own, by the flag --tta."""
        return "tta" in self.flags

    @property
    def reads_jpeg(self) -> bool:
        """Whether it wants the DCT coefficients of the image's JPEG file."""
        forward = getattr(self.constructor, "forward", None)
        return forward is not None and "DCT_coef" in inspect.signature(forward).parameters

    @property
    def is_the_frameworks(self) -> bool:
        """Whether it is of the framework's own models."""
        return self.constructor.__module__.startswith(f"{_FRAMEWORK}.")

    def resolve(self, flags: Mapping[str, Any], shared: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Every flag with its value: from `flags`, else from `shared`, else its default, or the shipped file.

        Args:
            flags: of the model; one it does not have is refused.
            shared: settings of the run; those that the constructor has too (image_size, if_predict_label...) count,
                as in the framework's scripts, and image_size by whichever name of `SIZE_FLAGS` the constructor has.

        Raises:
            DiffIMLError: an unknown flag, a value of another type or too large, or a required flag without one.
        """
        return values_of(self.settle(flags, layer(flags, FLAG), of_the_run(shared or {})))

    def settle(self, flags: Mapping[str, Any], *layers: Mapping[str, Setting]) -> dict[str, Setting]:
        """Every flag with its value and who says it: the first of the layers, its default, or the shipped file.

        Args:
            flags: what a caller says: flags of the model, each of its type. What else a layer says is passed over.

        Raises:
            DiffIMLError: as `resolve`.
        """
        known = self.flags
        for flag in flags:
            if flag not in known:
                raise DiffIMLError(f"{self.name} has no flag --{flag}{nearest(flag, known)}")
        checked(flags, {name: _kind(parameter) for name, parameter in known.items()}, self.name)
        defaults = {name: known[name].default for name in known if known[name].default is not inspect.Parameter.empty}
        said = resolve(*layers, layer(defaults, DEFAULT))
        settings = {name: said.get(name, Setting(None, DEFAULT)) for name in known}
        for name, file in self.shipped.items():
            if settings[name].value in (None, ""):
                settings[name] = Setting(file, f"from {self.name}")
            elif Path(settings[name].value).suffix not in _YAML:
                raise DiffIMLError(
                    f"{self.name}'s --{name} {settings[name].value} is no {' or '.join(_YAML)} file; of another, the "
                    "framework would run what stands there"
                )
        for name, setting in settings.items():
            if setting.value is None and name not in defaults:
                raise DiffIMLError(f"{self.name} needs --{name}")
        self._require_bounded(values_of(settings), self.name)
        return settings

    def stored(self, said: object, place: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """What a file of weights says of the constructor's flags: those that may pass, after their types, and those
        that name a file, which may not.

        Raises:
            DiffIMLError: an unknown flag, a value of another type or too large, or a path; messages begin with `place`.
        """
        flags = checked(said, {name: _stored_kind(parameter) for name, parameter in self.flags.items()}, place)
        self._require_bounded(flags, place)
        files = {
            name: value for name, value in flags.items() if isinstance(value, str) and value and _FILE_FLAG.search(name)
        }
        for name, value in flags.items():
            if isinstance(value, str) and name not in files and not _WORD.fullmatch(value):
                raise DiffIMLError(f"{place}: {name} is {shown(value)}; expected a plain word")
        kept = {name: value for name, value in flags.items() if value is not None and name not in files}
        return kept, {name: file for name, file in files.items() if not _WEIGHTS_FLAG.search(name)}

    def _require_bounded(self, flags: Mapping[str, Any], place: str) -> None:
        """Ours have ranges of their own, and what other packages' would do by their numbers is not known."""
        if not self.is_the_frameworks:
            return
        for name, value in flags.items():
            numbers = value if isinstance(value, (list, tuple)) else [value]
            if sum(abs(number) for number in numbers if isinstance(number, (int, float))) > _LARGEST:
                added = ", with its numbers added up" if numbers is value else ""
                raise DiffIMLError(f"{place}: {name} is {shown(value)}; expected {_LARGEST} at most{added}")

    def without_weights(self, flags: Mapping[str, Any]) -> dict[str, Any]:
        """The flags for a model whose weights are filled in afterwards: no initial ones are fetched."""
        return {flag: self.untrained.get(flag, value) for flag, value in flags.items()}

    def require_size(self, side: int, name: str = "image_size") -> None:
        """Raises DiffIMLError, which names the setting, if the model cannot take squares of that side."""
        multiple = self.size_multiple
        if multiple and side % multiple:
            near = max(multiple, round(side / multiple) * multiple)
            raise DiffIMLError(f"--{name} {side} is not a multiple of {multiple}, which {self.name} needs; try {near}")

    def build(self, flags: Mapping[str, Any], pretrained: bool = True) -> nn.Module:
        """The model with resolved flags; a warning names those that would have given it initial weights.

        Args:
            pretrained: let the constructor fetch and load weights; False leaves them random, which is for models that
                a checkpoint fills next, or whose weights do not matter.

        Raises:
            DiffIMLError: a file that the constructor wants is not there, or a model of the zoo cannot be built
                otherwise; `require_torchs_defaults`.
        """
        require_torchs_defaults()
        with nullcontext() if pretrained else nothing_loaded(), quiet():
            try:
                model = self.constructor(**flags)
            except OSError as error:  # a failed download is one too
                raise DiffIMLError(
                    f"{self.name} cannot be built: it wants a file that is not there ({error}); fetch it, or "
                    "choose flags that do without"
                ) from error
            except RuntimeError as error:
                if torch.cuda.is_available() or not re.search("CUDA|NVIDIA", str(error)):
                    raise
                raise DiffIMLError(  # Cat_Net
                    f"{self.name} cannot be built without a CUDA device, and there is none"
                ) from error
            except (AssertionError, AttributeError, TypeError) as error:  # how the zoo says that a flag is not given
                files = [f"--{flag}" for flag, value in flags.items() if not value and _FILE_FLAG.search(flag)]
                if not (files and self.is_the_frameworks):
                    raise
                raise DiffIMLError(
                    f"{self.name} cannot be built without files of its own ({error}); give {', '.join(files)}, "
                    "as far as its authors ask for them"
                ) from error
        if pretrained and is_main_process():
            self._warn_of_random_weights(flags)
        return model

    def _warn_of_random_weights(self, flags: Mapping[str, Any]) -> None:
        wanting = [
            f"--{flag}"
            for flag, value in flags.items()
            if _START_FLAG.search(flag) and (not value or isinstance(value, str) and not Path(value).is_file())
        ]  # PSCC_Net ignores a wrong path
        if flags.get("encoder_weights") == "none":  # ours
            _logger.info(
                f"{self.name}'s encoder starts from random weights; the paper's starts from --encoder_weights imagenet"
            )
        if wanting:
            _logger.warning(f"{self.name} starts from random weights, for want of {', '.join(wanting)}")


def _kind(parameter: inspect.Parameter) -> Any:
    """The type of a flag's value, None among them, which says nothing; Any where the constructor does not tell."""
    default, annotation = parameter.default, parameter.annotation
    if isinstance(default, bool):
        return bool | None
    if annotation in (int, float, str):
        return annotation | None
    if isinstance(default, (float, str)):
        return type(default) | None
    return Any


def _stored_kind(parameter: inspect.Parameter) -> Any:
    """The type of a flag's value in a file; None alone of what no file holds."""
    kind, default = _kind(parameter), parameter.default
    if isinstance(default, (list, tuple)):
        return list[bool | int | float] | None
    if kind is Any:
        plain = default in (None, parameter.empty) or isinstance(default, int)
        return bool | int | float | str | None if plain else NoneType
    return kind


def of_the_run(settings: Mapping[str, Any]) -> dict[str, Setting]:
    """What the settings of a run say of a constructor's flags; its image size by any of their names for it."""
    size = settings.get("image_size")
    return layer({**settings, **dict.fromkeys(SIZE_FLAGS, size)} if size else settings, RUN_ITSELF)


DIFFIML = RegisteredModel(
    "DiffIML",
    DiffIMLModel,
    diffiml_post_func,
    size_multiple=SIZE_MULTIPLE,
    backbone=lambda model: model.diffiml.condition_encoder.backbone,
    samples=True,
    untrained={"encoder_weights": "none", "codec_weights": "none"},
    table4_rows=tuple(
        {"denoiser": denoiser, "latent_codec": codec, "ensemble_size": members}
        for denoiser, codec, sizes in (
            ("light", "lightvae", (1, 5)),  # ours
            ("release", "lightvae-release", (1, 5)),
            ("release", "sd-vae", (1,)),
        )
        for members in sizes
    ),
)
SEGFORMER = RegisteredModel(
    "SegFormerIML",
    SegFormerIML,
    size_multiple=SIZE_MULTIPLE,
    backbone=lambda model: model.segmenter.condition_encoder.backbone,
    untrained={"encoder_weights": "none"},
)
_OURS = {card.name: card for card in (DIFFIML, SEGFORMER)}
_FRAMEWORK = "IMDLBenCo"
_CONFIGS = "statics/model_zoo/configs"  # in the framework's folder
_ZOO: dict[str, dict[str, Any]] = {  # what the framework's own models do not say of themselves
    "Cat_Net": {"shipped": {"cfg_file": "CAT_full.yaml"}, "published_name": "CAT-Net"},
    "IML_ViT": {
        "input": {"image_size": 1024, "if_padding": True, "edge_mask_width": 7},
        "published_name": "IML-ViT",
    },
    "MSCDI_Net": {"input": {"edge_mask_width": 7}, "untrained": {"backbone_weights_path": "none"}},
    "MVSSNet": {"input": {"edge_mask_width": 7}, "published_name": "MVSS-Net"},
    "MantraNet": {"published_name": "ManTraNet", "table4_size": 256},
    "Mesorch": {"published_name": "Mesoscopic"},
    "ObjectFormer": {"input": {"image_size": 224}},
    "PSCC_Net": {"input": {"image_size": 256}, "untrained": {"pretrain_path": ""}, "published_name": "PSCC-Net"},
    "SPAN": {"input": {"image_size": 224}, "untrained": {"weight_path": ""}},
    "Trufor": {"shipped": {"config_path": "trufor.yaml"}, "published_name": "TruFor"},
}


def find_model(name: str) -> RegisteredModel:
    """The card of the model of that name; upper and lower case do not matter.

    A name of ours is always our class. If another package registered it, a warning says so, once; theirs is
    `registry:NAME`.

    Raises:
        DiffIMLError: there is none, with the nearest name; several, none of which is written so.
    """
    if name in _OURS and _FRAMEWORK not in sys.modules:  # which takes seconds to import
        return _OURS[name]
    cards = registered_models()
    if not (matches := _named(cards, name)):
        hint = nearest(name, cards) or f"; the registry has {', '.join(sorted(cards))}"
        raise DiffIMLError(f"no model is called {name!r}{hint}")
    if len(matches) > 1:
        raise DiffIMLError(f"{name!r} may be {' or '.join(card.name for card in matches)}; write it as one of these")
    (card,) = matches
    theirs = cards.get(REGISTRY + card.name)
    if theirs and is_main_process():
        _say_who_else_registered(card.name, theirs.constructor)
    return card


def look_up(name: str) -> RegisteredModel | None:
    """As `find_model`, in silence; None if there is no such model here, such as one that a results file names."""
    matches = _named(registered_models(), name)
    return matches[0] if len(matches) == 1 else None


def registered_models() -> dict[str, RegisteredModel]:
    """Every card by its name: what others registered, then ours."""
    register()
    from diffiml_plugin.framework.imdlbenco import MODELS

    others = {}
    for registered, constructor in MODELS.module_dict.items():
        if registered not in _OURS:
            others[registered] = _card(registered, registered, constructor)
        elif constructor is not _OURS[registered].constructor:
            others[REGISTRY + registered] = _card(REGISTRY + registered, registered, constructor)
    return {**others, **_OURS}


def require_inputs(model: nn.Module, sample: Iterable[str]) -> None:
    """Raises DiffIMLError, with the flag that helps, if `model.forward` needs what a sample with these keys lacks."""
    parameters = inspect.signature(model.forward).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    for name in needed:
        if name not in sample:
            mend = f"pass {_MAKES[name]}" if name in _MAKES else "it has no post function that makes it"
            raise DiffIMLError(f"{type(model).__name__} needs {name}, which the data do not give; {mend}")


@contextmanager
def nothing_loaded() -> Iterator[None]:
    """Inside, whatever a model's constructor downloads or loads in this thread is empty; several of the zoo's do so
    unasked.

    One whose very code comes from the internet is refused.
    """

    def refuse_code(*args: Any, **options: Any) -> None:
        raise RuntimeError("its code is on the internet, and is not fetched from there")

    def nothing(*args: Any, **options: Any) -> dict[str, Any]:
        return defaultdict(dict)

    create_model = timm.create_model
    with replaced_here(
        (torch, "load", nothing),
        (torch.hub, "load_state_dict_from_url", nothing),
        (torch.utils.model_zoo, "load_url", nothing),
        (torch.hub, "load", refuse_code),
        (nn.Module, "load_state_dict", lambda *args, **options: ([], [])),
        (timm, "create_model", lambda *args, **options: create_model(*args, **{**options, "pretrained": False})),
    ):
        yield


def _card(name: str, registered: str, constructor: Callable[..., nn.Module]) -> RegisteredModel:
    """Of a class that another package registered; what is known of a class of ours holds for those derived from it."""
    from diffiml_plugin.framework.imdlbenco import MODELS, POSTFUNCS

    wanted = f"{registered}_post_func"
    others = {key: f for key, f in POSTFUNCS.module_dict.items() if f is not diffiml_post_func}
    post = (f for key, f in sorted(others.items(), key=lambda it: it[0] != wanted) if key.lower() == wanted.lower())
    bases = constructor.__mro__ if isinstance(constructor, type) else ()
    for ours in _OURS.values():
        if ours.constructor in bases:
            post_function = next(post, ours.post_function)
            return replace(ours, name=name, constructor=constructor, post_function=post_function, table4_rows=({},))
    multiple, facts = getattr(constructor, "size_multiple", None), dict(_ZOO.get(registered, {}))
    folder = Path(inspect.getfile(type(MODELS))).parent / _CONFIGS
    facts["shipped"] = {flag: folder / file for flag, file in facts.get("shipped", {}).items()}
    return RegisteredModel(name, constructor, next(post, None), multiple, **facts)


def _named(cards: Mapping[str, RegisteredModel], name: str) -> list[RegisteredModel]:
    """The card of that very name, else those whose names differ from it in case alone."""
    if name in cards:
        return [cards[name]]
    lower = name.lower()
    return next(
        (
            matches
            for wanted in (lower, lower.removeprefix(REGISTRY))
            if (matches := [card for known, card in cards.items() if known.lower() == wanted])
        ),
        [],
    )


@cache
def _say_who_else_registered(name: str, constructor: Callable[..., nn.Module]) -> None:
    module = sys.modules.get(constructor.__module__)
    origin = f"{constructor.__module__} ({getattr(module, '__file__', None) or 'no file'})"
    _logger.warning(
        f"another package registered a {name}, from {origin}; here {name} is this package's, and theirs is "
        f"--model {REGISTRY}{name}"
    )
