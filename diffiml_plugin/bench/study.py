"""`benco study`: means and spread over seeds of runs that differ in one thing each, and their curves."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from matplotlib.figure import Figure

from diffiml_plugin.bench import robust, scoring, sweep
from diffiml_plugin.bench.outputs import make_folder, write_text
from diffiml_plugin.bench.scores import PIXEL_FIGURES, Record, summarise
from diffiml_plugin.bench.tracking import LOG, RUN
from diffiml_plugin.errors import DiffIMLError

TABLES, PLOT = "study.md", "study.png"
_KIND = re.compile("splice|copy_?move|removal")  # in the names of images
_Runs = list[Path]  # folders of one row, one for each seed


def study(folder: Path, output_dir: Path) -> dict[str, Any]:
    """Reads FOLDER/ROW/SEED/{test,sweep,robust}, as `shell/80_study.sh` leaves them; writes study.md and study.png.

    Returns:
        by row, by figure ("all", each kind of manipulation: pixel-F1; "false alarm": share of the area of authentic
        images), the values of the seeds. An image's name says of which kind it is.

    Raises:
        DiffIMLError: no finished test in `folder`.
    """
    rows: dict[str, _Runs] = {}
    for results in sorted(folder.glob(f"*/*/test/{scoring.RESULTS}")):
        rows.setdefault(results.parents[2].name, []).append(results.parents[1])
    if not rows:
        raise DiffIMLError(f"{folder} holds no ROW/SEED/test/{scoring.RESULTS}; run shell/80_study.sh first")
    figures = {row: _figures(runs) for row, runs in rows.items()}
    columns = list(dict.fromkeys(name for values in figures.values() for name in values))
    parts = [_table(["row", "seeds", *columns], (
        [row, len(rows[row]), *(_spread(figures[row].get(name)) for name in columns)] for row in rows))]
    parts += [part for part in (_sampling(rows), _robustness(rows)) if part]
    parts.append("\n".join(f"- {row}: `{_command(runs[0])}`" for row, runs in rows.items()))
    make_folder(output_dir)
    write_text(output_dir / TABLES, "\n\n".join(parts) + "\n")
    _plot(output_dir / PLOT, rows)
    return figures


def _figures(runs: _Runs) -> dict[str, list[float]]:
    figures: dict[str, list[float]] = {}
    for run in runs:
        records = scoring.read_records(run / "test" / "per_image.jsonl")
        kinds = sorted({_kind(record) for record in records if record["mask"] != scoring.NEGATIVE} - {""})
        groups = {"all": records, **{kind: [r for r in records if _kind(r) == kind] for kind in kinds}}
        for name, group in groups.items():
            figures.setdefault(name, []).append(summarise(group)[PIXEL_FIGURES["f1"]])
        figures.setdefault("false alarm", []).append(summarise(records).get("false_alarm_area", 0.0))
    return figures


def _kind(record: Record) -> str:
    found = _KIND.search(Path(record["path"]).name)
    return found[0] if found else ""


def _sampling(rows: Mapping[str, _Runs]) -> str:
    """Pixel-F1 by sampling setting, of the rows that were swept."""
    found: dict[str, dict[str, list[float]]] = {}
    for row, runs in rows.items():
        for file in (run / "sweep" / sweep.RESULTS for run in runs):
            for entry in json.loads(file.read_text())["rows"] if file.exists() else ():
                setting = f"{entry['setting']}={entry['value']}"
                mean = fmean(cell["f1"] for cell in entry["datasets"].values())
                found.setdefault(row, {}).setdefault(setting, []).append(mean)
    return _by_column(found)


def _robustness(rows: Mapping[str, _Runs]) -> str:
    """Pixel-F1 by perturbation and strength, of the rows that were perturbed."""
    found: dict[str, dict[str, list[float]]] = {}
    for row, runs in rows.items():
        for file in (run / "robust" / robust.RESULTS for run in runs):
            curves = robust.curve_of(json.loads(file.read_text())) if file.exists() else {}
            for perturbation, curve in curves.items():
                for strength, value in curve.items():
                    if strength:  # the clean image is in the first table
                        setting = f"{perturbation} {strength}"
                        found.setdefault(row, {}).setdefault(setting, []).append(value)
    return _by_column(found)


def _by_column(found: Mapping[str, Mapping[str, list[float]]]) -> str:
    """One line for each setting, one column for each row of the study; empty of nothing."""
    settings = list(dict.fromkeys(setting for values in found.values() for setting in values))
    lines = ([setting, *(_spread(values.get(setting)) for values in found.values())] for setting in settings)
    return _table(["setting", *found], lines) if settings else ""


def _table(head: list[str], lines: Iterable[list[Any]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def _spread(values: list[float] | None) -> str:
    if not values:
        return ""
    return f"{fmean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def _command(run: Path) -> str:
    return json.loads((run / RUN).read_text())[0]["command"]


def _plot(path: Path, rows: Mapping[str, _Runs]) -> None:
    """Training loss and validation pixel-F1 against optimizer steps, the mean of each row's seeds."""
    figure = Figure(figsize=(11, 4))
    panels = figure.subplots(1, 2)
    readers: list[tuple[str, Callable[[dict], float | None]]] = [
        ("training loss", lambda entry: entry["loss"]["loss"]), ("pixel-F1", lambda entry: entry.get("f1"))]
    for panel, (label, read) in zip(panels, readers, strict=True):
        for row, runs in rows.items():
            points: dict[int, list[float]] = {}
            for run in runs:
                for entry in map(json.loads, (run / LOG).read_text().splitlines()):
                    if read(entry) is not None:
                        points.setdefault(entry["update"], []).append(read(entry))
            panel.plot(list(points), [fmean(values) for values in points.values()], label=row)
        panel.set_xlabel("optimizer steps")
        panel.set_ylabel(label)
        panel.grid(alpha=0.3)
    panels[0].set_yscale("log")
    panels[1].legend(fontsize="small")
    figure.savefig(path, dpi=120, bbox_inches="tight")
