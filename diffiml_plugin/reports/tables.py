"""The tables of one's own runs in `benco report`."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.evaluation.published import FIGURE_4, figure4_curves, table4_name
from diffiml_plugin.evaluation.records import images_of, same_images
from diffiml_plugin.evaluation.results import Record, noted, noted_by_run
from diffiml_plugin.evaluation.robust import CLEAN, PERTURBATIONS
from diffiml_plugin.evaluation.scores import MEANS, summarise
from diffiml_plugin.evaluation.statistics import Figure, mean_figure
from diffiml_plugin.evaluation.sweep import SWEPT
from diffiml_plugin.models import zoo
from diffiml_plugin.table import Table

_logger = logging.getLogger(__name__)
_COMPARED = {  # key of a record -> title of its table, and which value is best
    "f1": ("Pixel-F1 at 0.5, of tampered images: higher is better", max),
    "auc_sklearn": ("Pixel AUC, of tampered images: higher is better", max),
    "false_alarm_area": ("False alarms, the share of an authentic image that is called tampered: lower is better", min),
}
_Images = dict[tuple[str, int], Record]  # by path below the dataset's folder and label
_Set = tuple[str, int]  # a dataset's name, and the number of a set


@dataclass(frozen=True)
class Run:
    """A results file of `benco test`, `robust` or `sweep`, and the records of its images."""

    path: Path
    results: dict[str, Any]
    records: list[Record]
    name: str = ""  # for a reader


def comparisons(tests: Sequence[Run]) -> list[Table]:
    """All tests side by side: for each figure a table, with a row for each run and a column for each dataset.

    Datasets of one name that hold other images have a column each. A run has a mean where it has every dataset. The
    best of several runs stands out.
    """
    sets, heads = _sets(tests)
    tables = []
    for key, (title, best) in _COMPARED.items():
        of_runs = [
            {of_run[name]: values for (name,), values in grouped(run.records, "dataset", value=key).items()}
            for run, of_run in zip(tests, sets, strict=True)
        ]
        columns = list(dict.fromkeys(column for figures in of_runs for column in figures))
        rows = [
            [run.name, run.results["model"], *with_mean(figures, columns)]
            for run, figures in zip(tests, of_runs, strict=True)
        ]
        if columns:
            head = ["run", "model", *map(heads.get, columns), *(["mean"] if len(columns) > 1 else [])]
            note = noted_by_run((run.name, run.results) for run in tests)
            tables.append(Table(head, rows, title, best_cells(rows, best), note))
    return tables


def _sets(tests: Iterable[Run]) -> tuple[list[dict[str, _Set]], dict[_Set, str]]:
    """Of each test its sets, by name; and what the column of each set is called.

    A warning tells of images that are taken for the same though their files, or those of their masks, lie in different
    places, and results of earlier versions do not tell their content.
    """
    sets: list[dict[str, _Set]] = []
    tested: dict[_Set, list[tuple[Run, _Images]]] = {}
    for run in tests:
        sets.append({})
        for dataset, images in _images(run).items():
            known = (one for one, runs in tested.items() if one[0] == dataset and _are_of(images, runs))
            one = sets[-1][dataset] = next(known, (dataset, len(tested)))
            tested.setdefault(one, []).append((run, images))
            other, its_images = tested[one][0]
            if unsure := [image for image in images if not _is_known_again(images[image], its_images[image])]:
                mine, its = (" with ".join(_files(of_run[unsure[0]])) for of_run in (images, its_images))
                _logger.warning(
                    f"{dataset}: {its} ({other.name}) and {mine} ({run.name}) count as one image, for their names"
                )
    times = Counter(dataset for dataset, _ in tested)
    heads = {
        one: f"{one[0]}, images of {runs[0][0].name}" if times[one[0]] > 1 else one[0] for one, runs in tested.items()
    }
    return sets, heads


def _are_of(images: _Images, runs: Iterable[tuple[Run, _Images]]) -> bool:
    """Whether all of the runs were tested on these images."""
    return all(same_images(images, others) for _, others in runs)


def _is_known_again(record: Record, other: Record) -> bool:
    """Whether records of images of one name are of one image: by its place, or by its content."""
    return _files(record) == _files(other) or "content" in record.keys() & other.keys()


def _files(record: Record) -> tuple[str, str]:
    return record["path"], record["mask"]


def _images(run: Run) -> dict[str, _Images]:
    """What a run was tested on, by dataset."""
    by_set: dict[str, _Images] = {}
    for record, (dataset, image) in zip(run.records, images_of(run.records), strict=True):
        by_set.setdefault(dataset, {})[image, record["label"]] = record
    return by_set


def with_mean(values: Mapping[Any, list[float]], names: Sequence[Any]) -> list[Figure | None]:
    """The figure of each dataset, and if there are several their mean, which nothing has that lacks one."""
    figures = [mean_figure([values[name]]) if name in values else None for name in names]
    if len(names) > 1:
        figures.append(mean_figure([values[name] for name in names]) if None not in figures else None)
    return figures


def best_cells(rows: Sequence[Sequence[object]], best: Any = max) -> set[tuple[int, int]]:
    """(row, column) of the best figure of each column that holds several. `best`: `max` or `min`."""
    places = set()
    for column, cells in enumerate(zip(*rows, strict=True)):
        figures = {row: cell.value for row, cell in enumerate(cells) if isinstance(cell, Figure)}
        if len(set(figures.values())) > 1:
            places |= {(row, column) for row, value in figures.items() if value == best(figures.values())}
    return places


def grouped(records: Iterable[Mapping[str, Any]], *keys: str, value: str = "f1") -> dict[tuple, list[float]]:
    """The values of the records that have one, by `keys`. Raises DiffIMLError if a record lacks one of these."""
    groups: dict[tuple, list[float]] = {}
    for record in records:
        if lacking := [key for key in keys if key not in record]:
            raise DiffIMLError(
                f"the record of {record['name']} lacks {lacking[0]}; it is of another verb, or make it anew"
            )
        if record.get(value) is not None:
            groups.setdefault(tuple(record[key] for key in keys), []).append(record[value])
    return groups


def test_table(run: Run) -> Table:
    """All figures of one test, of each dataset."""
    names = list(dict.fromkeys(record["dataset"] for record in run.records))
    rows: dict[str, dict[str, Any]] = {name: {} for name in names}
    for name, row in rows.items():
        row |= summarise(record for record in run.records if record["dataset"] == name)
    means: dict[str, Any] = {}
    for key, figure in MEANS.items():
        by_dataset = grouped(run.records, "dataset", value=key)
        for (name,), values in by_dataset.items():
            rows[name][figure] = mean_figure([values])
        if by_dataset:
            means[figure] = mean_figure(list(by_dataset.values()))
    table = Table.of(
        "dataset", rows | ({"mean": means} if len(names) > 1 else {}), f"{run.name}: {run.results['model']}"
    )
    return replace(table, note=noted(run.results))


def robust_tables(run: Run) -> list[Table]:
    """Pixel-F1 of one robustness run by dataset and strength, a table for each perturbation."""
    f1, tables = grouped(run.records, "dataset", "variant"), []
    for name, (_, strengths, text) in PERTURBATIONS.items():
        variants = [CLEAN, *(f"{name} {strength}" for strength in strengths)]
        rows: list[list[object]] = [
            [dataset, *(mean_figure([f1[dataset, v]]) if (dataset, v) in f1 else None for v in variants)]
            for dataset in run.results["datasets"]
        ]
        if FIGURE_4["dataset"] in run.results["datasets"]:
            paper = figure4_curves()["DiffIML"][name]
            rows.append([f"{FIGURE_4['dataset']}, paper", *(paper[strength] for strength in (0, *strengths))])
        title = f"{run.name}: pixel-F1 by {text}"
        tables.append(Table(["dataset", CLEAN, *strengths], rows, title, note=noted(run.results)))
    return tables


def robust_curve(run: Run) -> dict[str, dict[int, float]]:
    """Pixel-F1 by perturbation and strength, 0 being the clean image: the mean over the datasets."""
    f1 = {variant: fmean(means) for variant, means in _means(grouped(run.records, "variant", "dataset")).items()}
    curves = {}
    for name, (_, strengths, _) in PERTURBATIONS.items():
        points = {0: CLEAN, **{strength: f"{name} {strength}" for strength in strengths}}
        curves[name] = {strength: f1[variant] for strength, variant in points.items() if variant in f1}
    return curves


def sweep_table(run: Run) -> Table:
    """Pixel-F1 of one sweep by setting and dataset, mean ± standard deviation over the noise seeds."""
    rows = {f"{row['setting']}={row['value']}": swept_figures(run, row) for row in run.results["rows"]}
    table = Table.of("setting", rows, f"{run.name}: pixel-F1 by setting")
    return replace(table, bold=best_cells(table.rows), note=noted(run.results))


def swept_figures(run: Run, row: Mapping[str, Any]) -> dict[str, Figure]:
    """Of one row of a sweep, by dataset; an image's figure is its mean over the noise seeds."""
    own = {name: run.results["settings"].get(name) for name in SWEPT}
    wanted = {**own, row["setting"]: row["value"]}.items()
    records = [record for record in run.records if wanted <= record.items()]
    images, seeds = (_means(grouped(records, "dataset", key)) for key in ("index", "noise_seed"))
    return {
        name: replace(mean_figure([values]), deviation=stdev(seeds[name]) if len(seeds[name]) > 1 else None)
        for name, values in images.items()
    }


def _means(groups: Mapping[tuple, list[float]]) -> dict[str, list[float]]:
    """By the first key, the mean of each group."""
    means: dict[str, list[float]] = {}
    for (name, _), values in groups.items():
        means.setdefault(name, []).append(fmean(values))
    return means


def cost_table(costs: Iterable[Mapping[str, Any]]) -> Table:
    """Rows of `benco complexity --json`, one for each ensemble size; "fps" is of the first.

    Those of one name are told apart by the settings in which they differ.
    """
    costs = list(costs)
    sharing: dict[str, list[Mapping[str, Any]]] = {}  # by name, the settings of the rows
    for cost in costs:
        for members in cost["GFLOPs"]:
            sharing.setdefault(table4_name(cost, members), []).append(cost["settings"])
    rows: list[dict[str, Any]] = []
    for cost in costs:
        for number, (members, gflops) in enumerate(cost["GFLOPs"].items()):
            figures = {"M parameters": cost["params_M"]["total"], "G multiply-adds": gflops}
            if number == 0:
                figures |= {"images/s": cost.get("fps"), "× DiffIML": cost.get(zoo.RATIO)}
            name = table4_name(cost, members)
            row: dict[str, Any] = {"model": name + _differing(cost["settings"], sharing[name])}
            row |= {column: f"{value:.2f}" for column, value in figures.items() if value is not None}
            rows.append(row | ({"it failed": cost["error"]} if "error" in cost else {}))
    return Table.listed(rows, "One image, random weights")


def _differing(settings: Mapping[str, Any], others: Iterable[Mapping[str, Any]]) -> str:
    told = {
        key: value
        for key, value in settings.items()
        if key != "command" and any(other.get(key, value) != value for other in others)
    }
    return f" ({', '.join(f'{key} {value}' for key, value in told.items())})" if told else ""
