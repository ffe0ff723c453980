"""The shapes of what tests leave behind: records, one for each image, and the results files."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict, get_type_hints

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.ledger import warn_if_changed
from diffiml_plugin.stored import checked, read_json

Summary = dict[str, float]  # figures of one dataset, or their means, by name


class Record(TypedDict, total=False):
    """What a test found about one image; a figure is None where the image has none, and missing where not asked for."""

    dataset: str
    path: str  # of the image
    mask: str  # path of its mask, or NEGATIVE
    content: str  # a hash of the files of image and mask, which earlier versions did not write
    kind: str  # of manipulation, if it is known
    name: str
    index: int  # in its dataset
    label: int  # 1: tampered
    score: float | None  # of the whole image, in [0, 1]
    mask_area: float  # share of the pixels that are tampered
    f1: float | None  # this and the next five: of tampered images
    iou: float | None
    auc: float | None
    auc_sklearn: float | None
    accuracy: float | None
    accuracy_sklearn: float | None
    false_alarm_area: float | None  # share of the pixels called tampered, of authentic images
    f1_by_threshold: list[float] | None  # at each of `scores.THRESHOLDS`, as the next
    false_alarm_area_by_threshold: list[float] | None
    f1_at_own_threshold: float | None  # at the model's own, as the next
    false_alarm_area_at_own_threshold: float | None
    features: list[float]  # of `benco calibrate`: those of `calibration.FEATURES`
    key: str  # of `benco calibrate`: what the record depends on
    variant: str  # of robust: the perturbation and its strength; a sweep's records hold its settings instead


class Header(TypedDict):
    """What made the figures of a results file."""

    command: str
    configuration: str  # a hash of model, weights and settings
    model: str
    checkpoint: str
    weights: str  # SHA-256 of the checkpoint's file
    left_out: dict[str, int]  # by dataset: faulty pairs, of which no figure tells
    threshold: float | None  # the model's own
    settings: dict[str, Any]


class Figures(TypedDict):
    """Of each dataset, and their mean."""

    datasets: dict[str, Summary]
    mean: Summary


class Tested(Header, Figures):
    """results.json of `benco test`."""


class Point(Figures):
    """The figures at one strength of a perturbation."""

    strength: int


class Perturbed(Header, Figures):
    """robust.json of `benco robust`; `datasets` and `mean` are of the clean images."""

    curves: dict[str, list[Point]]  # by perturbation


class SweepCell(TypedDict):
    """Pixel-F1 of one dataset: of each run, their mean and standard deviation (None of a single run)."""

    f1: float
    std: float | None
    runs: list[float]


class SweepRow(TypedDict):
    """One value of a setting."""

    setting: str
    value: Any
    datasets: dict[str, SweepCell]


class Swept(Header):
    """sweep.json of `benco sweep`."""

    rows: list[SweepRow]


# Where and how it runs, not what is computed; but of --no_model_eval the batch, whose images share statistics.
_HOW_IT_RAN = (
    "checkpoint_path",
    "compile",
    "device",
    "experiment",
    "gpus",
    "keep_going",
    "num_workers",
    "output_dir",
    "strict",
    "test_batch_size",
    "test_data_path",
)
_SETTINGS = {"experiment": str, "image_size": int, "ensemble_size": int, "num_inference_steps": int}  # that pages use
_LATER = {"weights", "left_out", "threshold"}  # which earlier versions did not write


def deciding_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a test that decide its figures, beside weights and data; in training mode the batch's size does too."""
    without = set(_HOW_IT_RAN) - ({"test_batch_size"} if settings.get("no_model_eval") else set())
    return {name: value for name, value in settings.items() if name not in without}


def read_results(path: Path, kind: Any) -> dict[str, Any]:
    """A results file of that kind: Tested, Perturbed or Swept.

    Raises:
        DiffIMLError: it cannot be read, or is not of that kind.
    """
    warn_if_changed(path)
    content = checked(read_json(path), get_type_hints(kind), str(path), others=True)
    checked(content.get("settings", {}), _SETTINGS, f"{path}: settings", others=True)
    if missing := vars(kind)["__required_keys__"] - content.keys() - _LATER:
        raise DiffIMLError(f"{path} lacks {', '.join(sorted(missing))}; make it again")
    return content


def noted(results: Mapping[str, Any]) -> str:
    """What the figures of a results file do not tell by themselves, for below their table; empty if there is nothing.

    Args:
        results: of any verb and version, or a part of one.
    """
    vanished = {name: s["vanished"] for name, s in results.get("datasets", {}).items() if "vanished" in s}
    notes = (
        _counted("Faulty pairs that --keep_going left out, of which no figure tells", results.get("left_out", {})),
        _counted("Tampered images without a tampered pixel at the size that is scored, of F1 0 in any case", vanished),
    )
    return " ".join(filter(None, notes))


def noted_by_run(runs: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
    """As `noted`, of runs by name."""
    return " ".join(f"{name}: {note}" for name, results in runs if (note := noted(results)))


def _counted(what: str, by_set: Mapping[str, float]) -> str:
    return f"{what}: {', '.join(f'{name} {count}' for name, count in by_set.items())}." if by_set else ""
