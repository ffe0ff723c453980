"""The paper's tables in `benco report`, each with what runs of one's own found beside it."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from diffiml_plugin.evaluation.published import PUBLISHED, published_name, table4_name
from diffiml_plugin.evaluation.results import noted
from diffiml_plugin.evaluation.statistics import Figure
from diffiml_plugin.reports.tables import Run, grouped, swept_figures, with_mean
from diffiml_plugin.table import Table

_logger = logging.getLogger(__name__)
_COUNTED = {"published": "one step, no self-attention", "whole": "every step, attention too"}


@dataclass(frozen=True)
class Ours:
    """What a run found of one row of a published table."""

    figures: Mapping[str, Figure]  # by column
    run: str
    counted: str = ""  # how, in Table 4
    note: str = ""  # as `noted` gives it


def published_tables(
    tests: Iterable[Run], sweeps: Iterable[Run], costs: Iterable[tuple[str, Mapping[str, Any]]]
) -> list[Table]:
    """Every table of the paper. Where a run fills a row, it and the difference stand below the paper's.

    Args:
        costs: rows of `benco complexity --json`, each after its name.
    """
    ours: dict[str, dict[str, Ours]] = {name: {} for name in PUBLISHED}
    for run in tests:
        for experiment in run.results["settings"].get("experiment", "").split():
            table, _, row = experiment.partition("/")
            if table in ours:
                row = row or published_name(run.results["model"])
                figures = _by_column(run, PUBLISHED[table]["columns"])
                _fill(table, ours, {row: Ours(figures, run.name, note=noted(run.results))})
    for run in sweeps:
        for name in run.results["settings"].get("experiment", "").split():
            if "sweep" in PUBLISHED.get(name, ()):
                _fill(name, ours, _swept(run, PUBLISHED[name]["sweep"]))
    for name, cost in costs:
        _fill("table4", ours, _cost(name, cost))
    return [_beside(table, ours[name]) for name, table in PUBLISHED.items()]


def _fill(table: str, ours: Mapping[str, dict[str, Ours]], rows: Mapping[str, Ours]) -> None:
    """Of several runs that fill a row the last one stays, and a warning tells."""
    for row in ours[table].keys() & rows.keys():
        _logger.warning(f"several runs fill {table}/{row}; shown is {rows[row].run}, not {ours[table][row].run}")
    ours[table].update(rows)


def _by_column(run: Run, columns: list[str]) -> dict[str, Figure]:
    values = {name: f1 for (name,), f1 in grouped(run.records, "dataset").items()}
    figures = with_mean(values, [column for column in columns if column != "mean"])
    return {column: figure for column, figure in zip(columns, figures, strict=False) if figure is not None}


def _swept(run: Run, setting: str) -> dict[str, Ours]:
    """One entry for each value of the setting."""
    return {
        str(row["value"]): Ours(swept_figures(run, row), run.name, note=noted(run.results))
        for row in run.results["rows"]
        if row["setting"] == setting
    }


def _cost(name: str, cost: Mapping[str, Any]) -> dict[str, Ours]:
    """Rows of Table 4 from a row of `benco complexity --json`; "fps" is of its first ensemble size.

    DiffIML's are counted as the paper counts its own, and once more whole. A model that failed has no row.
    """
    rows: dict[str, Ours] = {}
    by_count = cost.get("GFLOPs_by_count", {"": cost["GFLOPs"]})
    for count, suffix in {"": "", "published": "", "whole": ", counted whole"}.items():
        for members, gflops in by_count.get(count, {}).items():
            figures = {"params M": cost["params_M"]["total"], "GFLOPs": gflops}
            if not rows:
                figures["FPS"] = cost.get("fps")
            known = {column: Figure(value) for column, value in figures.items() if value is not None}
            if known:
                rows[table4_name(cost, members) + suffix] = Ours(known, name, _COUNTED.get(count, ""))
    return rows


def _beside(table: Mapping[str, Any], ours: Mapping[str, Ours]) -> Table:
    columns, deviations, counted = table["columns"], table.get("deviations", {}), table.get("counted")
    digits = max(len(str(value).partition(".")[2]) for row in table["rows"].values() for value in row)
    lines: list[dict[str, Any]] = []
    for name in dict.fromkeys((*table["rows"], *ours)):
        paper = dict(zip(columns, table["rows"].get(name, ()), strict=False))
        if paper:
            spread = f" ± {deviations[name]:.{digits}f}" if name in deviations else ""
            cells = {column: f"{value:.{digits}f}{spread}" for column, value in paper.items()}
            lines.append(
                {"method": name, "figures": "paper", **cells, "counted": (counted or {}).get(name, "not said")}
            )
        if name in ours:
            row = ours[name]
            line = {"method": name, "figures": "ours", "counted": row.counted or "all", "run": row.run}
            lines.append(line | dict(row.figures))
            changes = {c: f"{figure.value - paper[c]:+.4f}" for c, figure in row.figures.items() if c in paper}
            lines += [{"method": name, "figures": "difference", **changes}] if changes else []
    texts = [*(["counted"] if counted else []), *(["run"] if ours else [])]
    rows = [
        [*map(line.get, ("method", "figures", *columns)), *(line.get(text, "") for text in texts)] for line in lines
    ]
    notes = dict.fromkeys(f"{row.run}: {row.note}" for row in ours.values() if row.note)
    return Table(["method", "figures", *columns, *texts], rows, table["title"], note=" ".join(notes))
