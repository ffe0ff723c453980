"""The tables of `benco report`: the published figures (published.json) with ours below them."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from diffiml_plugin.evaluation.published import FIGURE_4, PUBLISHED, figure4_curves, published_name, table4_name
from diffiml_plugin.evaluation.records import digest
from diffiml_plugin.evaluation.results import Record
from diffiml_plugin.evaluation.robust import CLEAN, PERTURBATIONS
from diffiml_plugin.evaluation.scores import MEANS, summarise
from diffiml_plugin.evaluation.statistics import Figure, mean_figure
from diffiml_plugin.evaluation.sweep import SWEPT
from diffiml_plugin.table import Table

_logger = logging.getLogger(__name__)
MISSING = "missing"
_COUNTED = {"published": "one step, no self-attention", "whole": "every step, attention too"}


@dataclass(frozen=True)
class Run:
    """A results file of `benco test`, `robust` or `sweep`, and the records of its images."""

    path: Path
    results: dict[str, Any]
    records: list[Record]

    @property
    def label(self) -> str:
        return str(self.path.parent)


@dataclass(frozen=True)
class Ours:
    figures: Mapping[str, Figure]  # by column
    configuration: str
    counted: str = ""  # how, in Table 4


def published_tables(tests: Iterable[Run], sweeps: Iterable[Run], costs: Iterable[Mapping[str, Any]]) -> list[Table]:
    """Every table of the paper: its figures, ours, the difference; what is not there is `MISSING`."""
    ours: dict[str, dict[str, Ours]] = {name: {} for name in PUBLISHED}
    for run in tests:
        for experiment in run.results["settings"].get("experiment", "").split():
            table, _, row = experiment.partition("/")
            if table in ours:
                figures = _with_mean(f1_by_dataset(run.records), PUBLISHED[table]["columns"])
                row = row or published_name(run.results["model"])
                if row in ours[table]:
                    _logger.warning(f"several tests fill {table}/{row}; shown is {run.path}")
                ours[table][row] = Ours(figures, run.results["configuration"])
    for run in sweeps:
        for name in run.results["settings"]["experiment"].split():
            if "sweep" in PUBLISHED.get(name, ()):
                ours[name] |= _swept(run, PUBLISHED[name]["sweep"])
    for cost in costs:
        ours["table4"] |= _cost(cost)
    return [_beside(table, ours[name]) for name, table in PUBLISHED.items()]


def f1_by_dataset(records: Iterable[Record]) -> dict[str, list[float]]:
    """Pixel-F1 of the tampered images."""
    return {dataset: values for (dataset,), values in _grouped(records, "dataset").items()}


def _grouped(records: Iterable[Mapping[str, Any]], *keys: str, value: str = "f1") -> dict[tuple, list[float]]:
    """The values of the records that have one."""
    found: dict[tuple, list[float]] = {}
    for record in records:
        if record.get(value) is not None:
            found.setdefault(tuple(record[key] for key in keys), []).append(record[value])
    return found


def test_table(run: Run) -> Table:
    """All figures of one test, of each dataset."""
    names = list(dict.fromkeys(record["dataset"] for record in run.records))
    summaries = {name: summarise(r for r in run.records if r["dataset"] == name) for name in names}
    figures = list(dict.fromkeys(figure for summary in summaries.values() for figure in summary))
    means = {figure: _grouped(run.records, "dataset", value=key) for key, figure in MEANS.items()}

    def cell(name: str, figure: str) -> str:
        if (name,) in means.get(figure, ()):
            return str(mean_figure([means[figure][name,]]))
        value = summaries[name].get(figure)
        return "–" if value is None else str(value) if isinstance(value, int) else f"{value:.4f}"

    rows = [[name, *(cell(name, figure) for figure in figures)] for name in names]
    if len(names) > 1:
        groups = (list(means.get(figure, {}).values()) for figure in figures)
        rows.append(["mean", *(str(mean_figure(group)) if group else "–" for group in groups)])
    title = f"{run.results['model']}, {run.label}, configuration {run.results['configuration']}"
    return Table(["dataset", *figures], rows, title)


def robust_tables(run: Run) -> list[Table]:
    """Pixel-F1 of one robustness run by dataset and strength, a table for each perturbation."""
    f1, tables = _grouped(run.records, "dataset", "variant"), []
    for name, (_, strengths, text) in PERTURBATIONS.items():
        variants = [CLEAN, *(f"{name} {strength}" for strength in strengths)]
        rows = [
            [dataset, *(str(mean_figure([f1[dataset, v]])) if (dataset, v) in f1 else MISSING for v in variants)]
            for dataset in run.results["datasets"]
        ]
        if FIGURE_4["dataset"] in run.results["datasets"]:
            paper = figure4_curves()["DiffIML"][name]
            rows.append([f"{FIGURE_4['dataset']}, paper", *(f"{paper[strength]:.4f}" for strength in (0, *strengths))])
        title = f"{text}: {run.label}, configuration {run.results['configuration']}"
        tables.append(Table(["dataset", CLEAN, *strengths], rows, title))
    return tables


def robust_curve(run: Run) -> dict[str, dict[int, float]]:
    """Pixel-F1 by perturbation and strength, 0 being the clean image: the mean over the datasets."""
    f1 = {variant: fmean(means) for variant, means in _means(_grouped(run.records, "variant", "dataset")).items()}
    curves = {}
    for name, (_, strengths, _) in PERTURBATIONS.items():
        points = {0: CLEAN, **{strength: f"{name} {strength}" for strength in strengths}}
        curves[name] = {strength: f1[variant] for strength, variant in points.items() if variant in f1}
    return curves


def sweep_table(run: Run) -> Table:
    """Pixel-F1 of one sweep by setting and dataset, mean ± standard deviation over the noise seeds."""
    names = list(dict.fromkeys(name for row in run.results["rows"] for name in row["datasets"]))
    found = [(row, _swept_figures(run, row)) for row in run.results["rows"]]
    rows = [
        [f"{row['setting']}={row['value']}", *(str(figures.get(name, MISSING)) for name in names)]
        for row, figures in found
    ]
    return Table(["setting", *names], rows, f"{run.label}, configuration {run.results['configuration']}")


def _with_mean(f1: Mapping[str, list[float]], columns: Sequence[str]) -> dict[str, Figure]:
    """The mean only where no dataset is missing."""
    figures = {name: mean_figure([f1[name]]) for name in columns if name in f1}
    if "mean" in columns and len(figures) == len(columns) - 1:
        figures["mean"] = mean_figure([f1[name] for name in figures])
    return figures


def _swept(run: Run, setting: str) -> dict[str, Ours]:
    """One entry for each value of the setting."""
    return {
        str(row["value"]): Ours(_swept_figures(run, row), run.results["configuration"])
        for row in run.results["rows"]
        if row["setting"] == setting
    }


def _swept_figures(run: Run, row: Mapping[str, Any]) -> dict[str, Figure]:
    """By dataset; an image's figure is its mean over the noise seeds."""
    own = {name: run.results["settings"].get(name) for name in SWEPT}
    wanted = {**own, row["setting"]: row["value"]}.items()
    records = [record for record in run.records if wanted <= record.items()]
    images, seeds = (_means(_grouped(records, "dataset", key)) for key in ("index", "noise_seed"))
    return {
        name: replace(mean_figure([values]), deviation=stdev(seeds[name]) if len(seeds[name]) > 1 else None)
        for name, values in images.items()
    }


def _means(groups: Mapping[tuple, list[float]]) -> dict[str, list[float]]:
    """By the first key, the mean of each group."""
    found: dict[str, list[float]] = {}
    for (name, _), values in groups.items():
        found.setdefault(name, []).append(fmean(values))
    return found


def cost_configuration(cost: Mapping[str, Any]) -> str:
    """A hash of what a row of `benco complexity --json` is about, and the device it was timed on."""
    settings = {name: value for name, value in cost["settings"].items() if name != "command"}
    timed = settings.get("timed")
    return digest([cost["model"], cost["image_size"], settings]) + (f" ({timed})" if timed else "")


def _cost(cost: Mapping[str, Any]) -> dict[str, Ours]:
    """Rows of Table 4 from a row of `benco complexity --json`; "fps" is of its first ensemble size.

    DiffIML's are counted as the paper counts its own, and once more whole.
    """
    found: dict[str, Ours] = {}
    by_count = cost.get("GFLOPs_by_count", {"": cost["GFLOPs"]})
    for count, suffix in {"": "", "published": "", "whole": ", counted whole"}.items():
        for members, gflops in by_count.get(count, {}).items():
            figures = {"params M": cost["params_M"]["total"], "GFLOPs": gflops}
            if not found:
                figures["FPS"] = cost.get("fps")
            found[table4_name(cost, members) + suffix] = Ours(
                {c: Figure(v) for c, v in figures.items() if v is not None},
                cost.get("error") or cost_configuration(cost),
                _COUNTED.get(count, ""),
            )
    return found


def _beside(table: Mapping[str, Any], ours: Mapping[str, Ours]) -> Table:
    columns, deviations, rows = table["columns"], table.get("deviations", {}), []
    counted = table.get("counted")  # of costs: how the paper counted its own rows
    digits = max(len(str(value).partition(".")[2]) for row in table["rows"].values() for value in row)

    def add(name: str, figures: str, cells: Iterable[str], how: str, configuration: str) -> None:
        rows.append([name, figures, *cells, *([] if counted is None else [how]), configuration])

    for name in dict.fromkeys((*table["rows"], *ours)):
        paper = dict(zip(columns, table["rows"].get(name, ()), strict=False))
        if paper:
            spread = f" ± {deviations[name]:.{digits}f}" if name in deviations else ""
            cells = [f"{paper[column]:.{digits}f}{spread}" for column in columns]
            add(name, "paper", cells, (counted or {}).get(name, "not said"), "")
        if name in ours or name in table["reproduced"]:
            found = ours.get(name, Ours({}, ""))
            cells = [str(found.figures.get(c, MISSING)) for c in columns]
            add(name, "ours", cells, found.counted or "all", found.configuration)
            if paper and found.figures:
                cells = [
                    f"{found.figures[c].value - paper[c]:+.4f}" if c in found.figures else MISSING for c in columns
                ]
                add(name, "difference", cells, "", "")
    heads = ["method", "figures", *columns, *([] if counted is None else ["counted"]), "configuration"]
    return Table(heads, rows, table["title"])
