"""The settings of training and testing. Each field is a flag; where IMDLBenCo has one it keeps its name."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffiml_plugin.errors import DiffIMLError, nearest

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
COMPILE_MODES = ("auto", "off", "on")
PADDING_MODES = ("constant", "reflect")
DEVICES = ("auto", "cuda", "cpu")
_MOST = 10_000_000  # of whatever is counted
_WORKERS = 1024


# Titles in --help.
MODEL = "the model"
IMAGES = "how images reach the model"
DATA = "data"
STREAM = "photographs that are tampered while it trains, --data_path synth:FOLDER"
OPTIMIZATION = "optimization"
RUN = "where and how it runs"
WRITTEN = "what is written"
TITLES = ("", MODEL, DATA, STREAM, IMAGES, OPTIMIZATION, RUN, WRITTEN)


FLAG, RUN_ITSELF, DEFAULT = "flag", "the run", "default"


@dataclass(frozen=True)
class Setting:
    """A value, and who says it: `FLAG`, "from NAME" of a config, a checkpoint or a model, or `DEFAULT`."""

    value: Any
    source: str

    @property
    def is_said(self) -> bool:
        """Whether it is more than a default."""
        return self.source != DEFAULT


def layer(values: Mapping[str, Any], source: str) -> dict[str, Setting]:
    """What one source says of settings; None says nothing."""
    return {name: Setting(value, source) for name, value in values.items() if value is not None}


def resolve(*layers: Mapping[str, Setting]) -> dict[str, Setting]:
    """Each setting as the first layer that says it has it. The one place that decides who wins."""
    return {name: setting for said in reversed(layers) for name, setting in said.items()}


def values_of(settings: Mapping[str, Setting]) -> dict[str, Any]:
    """The settings without their sources."""
    return {name: setting.value for name, setting in settings.items()}


def escaped(value: Any) -> Any:
    """A setting, or a list of such, as a config file says it: there `${` begins a variable, and `$${` stands for it."""
    if isinstance(value, (list, tuple)):
        return [escaped(item) for item in value]
    return value.replace("${", "$${") if isinstance(value, str) else value


def flag(default: Any, text: str, choices: tuple[str, ...] | None = None, alias: str = "", group: str = "") -> Any:
    """A dataclass field that says how its flag looks: help, allowed values, another name and a title in --help."""
    return field(default=default, metadata={"help": text, "choices": choices, "alias": alias, "group": group})


@dataclass(frozen=True)
class CommonSettings:
    """The flags that training and testing share."""

    image_size: int | None = flag(
        None, "side in pixels that images are brought to (512; for a checkpoint, its own)", group=IMAGES
    )
    if_resizing: bool = flag(False, "resize images to the size (the default)", group=IMAGES)
    if_padding: bool | None = flag(
        None,
        "pad images to the size instead; only real pixels are scored (false; for a checkpoint, its own)",
        group=IMAGES,
    )
    padding_mode: str | None = flag(
        None,
        "of padded test images: constant: black, to a square; reflect: mirrored, to "
        "a frame of their own, which suits training with --crop_size",
        PADDING_MODES,
        group=IMAGES,
    )
    edge_mask_width: int | None = flag(
        None, "give models the framework's edge band, so many pixels wide (MVSSNet: 7)", group=IMAGES
    )
    keep_going: bool = flag(
        False, "leave out pairs whose image or mask is faulty, and say how many (else they stop the run)", group=DATA
    )
    if_predict_label: bool = flag(False, "train the model's image-level head too, where it has one", group=OPTIMIZATION)
    no_model_eval: bool = flag(False, "test in training mode, as the framework's MVSSNet scripts do", group=RUN)
    test_batch_size: int = flag(8, "images per process and forward pass when testing", group=RUN)
    num_workers: int | None = flag(None, "loader processes per process (the cores at hand)", group=RUN)
    device: str = flag("auto", "where to compute", DEVICES, group=RUN)
    gpus: int | None = flag(None, "start this many processes, one on each GPU (one)", group=RUN)
    output_dir: str = flag("./output_dir", "folder for everything that is written", group=WRITTEN)
    seed: int = flag(42, "of data order, augmentation, initial weights and training noise", group=OPTIMIZATION)

    def __post_init__(self) -> None:
        require_counts(self, "image_size", "edge_mask_width", "test_batch_size", "gpus")
        require(self, "num_workers", lambda value: value is None or 0 <= value <= _WORKERS, f"0 to {_WORKERS}")
        require(self, "seed", lambda value: value >= 0, "0 or more")
        for entry in type(self).__dataclass_fields__.values():
            choices, value = entry.metadata["choices"], getattr(self, entry.name)
            if choices and value is not None:
                require_choice(entry.name, value, choices)
        if self.if_padding and self.if_resizing:
            raise DiffIMLError("--if_padding and --if_resizing exclude each other; give one of them")


def require_counts(settings: CommonSettings, *names: str) -> None:
    """Raises DiffIMLError if one of these settings has a value, and that is none from 1 to 10 million."""
    for name in names:
        require(settings, name, lambda value: value is None or value >= 1, "a positive number")
        require(settings, name, lambda value: value is None or value <= _MOST, f"at most {_MOST}")


def require(settings: CommonSettings, name: str, holds: Callable[[Any], bool], expected: str) -> None:
    """Raises DiffIMLError if a setting has a value that does not hold, or is infinite."""
    value = getattr(settings, name)
    if value == math.inf or not holds(value):
        raise DiffIMLError(f"--{name} {value} must be {expected}{', and finite' if value == math.inf else ''}")


def require_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise DiffIMLError(f"--{name} {value} is not one of {', '.join(choices)}{nearest(value, choices)}")
