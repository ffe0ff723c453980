"""Styles of tampering, as data: where a picture came from, what was done to it, and what happened to it afterwards.

A stream draws a style for each image, tampered or authentic. Every share is a probability; every range is drawn from
uniformly unless it says otherwise. A YAML file can change any value: `read_styles`.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from diffiml_plugin.errors import DiffIMLError, nearest
from diffiml_plugin.stored import read_yaml, shown

_LARGEST = 1e6  # of a weight
_MOST = 20  # stages before or after, objects of a picture
_RESIZED = 16  # times, by which all stages of a style may shrink a picture, which begins as much larger, or enlarge it
_BOUNDS = {  # of numbers that are no shares in [0, 1]
    "factor": (0.1, 4),
    "blur": (0.1, 20),
    "noise": (0, 100),
    "tone": (0, 0.9),
    "sharpness": (0, 10),
    "quality": (1, 100),
    "weight": (0, _LARGEST),
    "small_area": (1e-5, 1),  # log-uniform
    "area": (1e-5, 1),
    "rotation": (0, 180),
    "scale": (0.1, 10),
    "feather": (0.1, 20),
    "halo": (-50, 50),
    "least_change": (0, 255),
}
WORLD = "world"  # the style file that travels with the package
KINDS = ("splice", "copy_move", "removal", "text")
Range = tuple[float, float]
_Settings = TypeVar("_Settings", "StageSettings", "Style")


@dataclass(frozen=True)
class StageSettings:
    """One stage of a whole picture's life: a camera, an editor that saves it, a network that passes it on."""

    share: float = 1.0  # of the pictures that pass through it
    off_grid: float = 0.0  # share that is cropped off the grid of its last compression
    resized: float = 0.0
    factor: Range = (0.7, 1.0)  # of the sides, where resized
    denoised: float = 0.0
    blurred: float = 0.0
    blur: Range = (0.4, 1.2)  # pixels, sigma
    noisy: float = 0.0
    noise: Range = (0.5, 4.0)  # grey levels, standard deviation at middle grey
    toned: float = 0.0
    tone: float = 0.15  # gamma, contrast and gains change by up to this share
    sharpened: float = 0.0
    sharpness: Range = (0.2, 1.0)
    compressed: float = 1.0
    quality: tuple[int, int] = (75, 98)
    camera_tables: float = 0.4  # share compressed with the tables of a photograph of the folder instead
    full_chroma: float = 0.3  # share whose colour is not subsampled
    webp: float = 0.0  # share compressed as WebP instead


@dataclass(frozen=True)
class Style:
    """One way to come by a picture and to tamper with it."""

    weight: float = 1.0  # how often, beside the other styles
    # The photograph. 0 shows all of it, 1 shows it at its own size.
    zoom: Range = (0.0, 1.0)
    native: float = 0.3  # share at exactly its own size, on its own grid
    enlarged: float = 0.1  # share that is enlarged by up to half
    before: tuple[StageSettings, ...] = ()
    after: tuple[StageSettings, ...] = ()
    # The tampering.
    kinds: dict[str, float] = field(
        default_factory=lambda: {"splice": 0.5, "copy_move": 0.28, "removal": 0.16, "text": 0.06}
    )
    objects: tuple[float, ...] = (0.7, 0.2, 0.1)  # weights of 1, 2, ... of them
    small: float = 0.25  # share of small ones,
    small_area: Range = (0.002, 0.02)  # share of the picture, log-uniform,
    area: Range = (0.02, 0.35)  # and of all others
    labelled: float = 0.55  # share cut along a label map, where there is one
    # Pasted objects.
    unwarped: float = 0.4  # share that is neither turned nor scaled
    mirrored: float = 0.3
    turned: float = 0.6  # of those that are warped
    rotation: float = 30.0  # degrees, either way
    scale: Range = (0.7, 1.4)
    recoloured: float = 0.3
    colour: float = 0.15  # contrast and gains change by up to this share
    harmonised: float = 0.3  # share that takes on the host's colours, in part
    seamless: float = 0.05  # share whose border is blended away altogether
    sharp: float = 0.5  # share with a hard or merely anti-aliased border
    feather: Range = (0.5, 2.5)  # pixels, sigma of the border of all others
    smeared: float = 0.1  # share whose border is painted over with a blur
    lasso: float = 0.2  # share cut out roughly, along a polygon
    halo: tuple[int, int] = (-1, 2)  # pixels of background around an object, or cut off it
    least_change: float = 4.0  # grey levels, mean over the region; less is tried again elsewhere


def read_styles(source: str | Path) -> dict[str, Style]:
    """The styles of a YAML file, `{name: {key of Style: value}}`, or of the package's own, "world".

    Raises:
        DiffIMLError: no such file, no YAML, an unknown key (with the nearest), or a value that is none for its key.
    """
    path = files("diffiml_plugin.tampering") / f"{WORLD}.yaml" if source == WORLD else Path(source)
    content = read_yaml(str(path))
    if not isinstance(content, dict) or not content:
        raise DiffIMLError(f"{path} holds no style; expected NAME: {{key: value, ...}}")
    styles = {}
    for name, values in content.items():
        values = dict(values) if isinstance(values, Mapping) else values
        for stages in ("before", "after"):
            if isinstance(values, dict) and isinstance(values.get(stages), list):
                values[stages] = tuple(
                    _settings(StageSettings, stage, f"{path}: {name}: {stages}") for stage in values[stages]
                )
        styles[str(name)] = style = _settings(Style, values, f"{path}: {name}")
        factors = [stage.factor for stage in (*style.before, *style.after) if stage.resized]
        least, most = math.prod(min(1, low) for low, _ in factors), math.prod(max(1, high) for _, high in factors)
        if least < 1 / _RESIZED or most > _RESIZED:
            raise DiffIMLError(
                f"{path}: {name}: its stages resize a picture to {least:.2g} to {most:.2g} times its sides, expected "
                f"{1 / _RESIZED:g} to {_RESIZED}; change a factor"
            )
    if not any(style.weight for style in styles.values()):
        raise DiffIMLError(f"{path}: every style has a weight of 0, so none is drawn; raise one")
    return styles


def require_kinds(kinds: Iterable[str], known: Sequence[str]) -> None:
    """Raises DiffIMLError unless all of `kinds` are known."""
    for kind in kinds:
        if kind not in known:
            raise DiffIMLError(f"kind={kind!r} is not one of {', '.join(known)}{nearest(kind, known)}")


def restricted(style: Style, kinds: Sequence[str]) -> Style:
    """`style` with the manipulations of `kinds` alone, in its own proportions; equally often if it has none of them.

    Raises:
        DiffIMLError: an unknown kind.
    """
    require_kinds(kinds, KINDS)
    shared = {kind: style.kinds[kind] for kind in kinds if style.kinds.get(kind)}
    return replace(style, kinds=shared or dict.fromkeys(kinds, 1.0))


def _settings(kind: type[_Settings], values: Any, where: str) -> _Settings:
    """The dataclass `kind` from a mapping of a file."""
    if not isinstance(values, Mapping):
        raise DiffIMLError(f"{where}: expected {{key: value, ...}}, got {shown(values)}")
    defaults = kind()
    known = {entry.name: getattr(defaults, entry.name) for entry in fields(kind)}
    for key, value in values.items():
        if key not in known:
            raise DiffIMLError(f"{where}: unknown key {key!r}{nearest(str(key), known)}")
        if problem := _problem(key, value, known[key]):
            raise DiffIMLError(f"{where}: {key}: {problem}, got {shown(value)}")
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return kind(**given)


def _problem(key: str, value: Any, default: Any) -> str:
    """What is expected in place of a value; empty if it can stand."""
    if key in ("before", "after"):
        return "" if isinstance(value, tuple) and len(value) <= _MOST else f"expected a list of at most {_MOST} stages"
    if key == "kinds":
        held = isinstance(value, Mapping) and value and set(value) <= set(KINDS) and _weights(value.values())
        return "" if held else f"expected weights of {', '.join(KINDS)}"
    if key == "objects":
        held = isinstance(value, list) and 0 < len(value) <= _MOST and _weights(value)
        return "" if held else f"expected a list of at most {_MOST} weights"
    low, high = _BOUNDS.get(key, (0, 1))
    within = f"{'whole ' * _whole(default)}number{{}} from {low:g} to {high:g}"
    if isinstance(default, tuple):
        pair = isinstance(value, list) and len(value) == 2 and all(_number(one, low, high) for one in value)
        held = pair and value[0] <= value[1] and (not _whole(default) or _whole(value))
        return "" if held else f"expected two {within.format('s')}, the lower one first"
    return "" if _number(value, low, high) else f"expected a {within.format('')}"


def _weights(values: Collection[Any]) -> bool:
    return all(_number(value, 0, _LARGEST) for value in values) and sum(values) > 0


def _whole(values: object) -> bool:
    """Whether these are two whole numbers."""
    return isinstance(values, (list, tuple)) and all(isinstance(value, int) for value in values)


def _number(value: Any, low: float, high: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high  # not of NaN
