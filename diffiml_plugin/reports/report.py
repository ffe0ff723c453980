"""`benco report`: what runs found beside what the paper says, as Markdown, LaTeX and one HTML page."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffiml_plugin.data.images import read_image
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.evaluation import robust, sweep
from diffiml_plugin.evaluation.published import FIGURE_4, figure4_curves
from diffiml_plugin.evaluation.records import RESULTS, read_records, records_file
from diffiml_plugin.evaluation.results import Record
from diffiml_plugin.files import write_text
from diffiml_plugin.models import zoo
from diffiml_plugin.models.inputs import InputSettings
from diffiml_plugin.models.registry import look_up
from diffiml_plugin.prediction.detector import Detector
from diffiml_plugin.prediction.result import Result
from diffiml_plugin.reports import page
from diffiml_plugin.reports.tables import (
    Run,
    cost_configuration,
    published_tables,
    robust_curve,
    robust_tables,
    sweep_table,
    test_table,
)
from diffiml_plugin.settings import CommonSettings
from diffiml_plugin.table import Table

_logger = logging.getLogger(__name__)
_BRACKETS = "Brackets: bootstrap 95 % intervals over images."
_SHOWN = 2  # best and worst images of each dataset
_SIDE = 320  # pixels, of pictures in the page


def report(paths: Sequence[str], output_dir: Path) -> None:
    """Reads runs, and writes report.md, report.tex, report.html and, where there are curves, robustness.png.

    Every figure of ours is recomputed from the records of the images.

    Args:
        paths: folders with results of `benco test`, `robust` and `sweep`, or a complexity.json, in them or below; and
            files of `benco complexity --json` by any name.

    Raises:
        DiffIMLError: a path without any result, or one that cannot be read.
    """
    runs: dict[str, list[Run]] = {RESULTS: [], robust.RESULTS: [], sweep.RESULTS: []}
    costs: list[tuple[Path, Mapping[str, Any]]] = []  # the file and a row of it
    for path in map(Path, paths):
        names = (*runs, zoo.RESULTS)
        files = [path] if path.is_file() else sorted(file for name in names for file in path.rglob(name))
        if not files:
            raise DiffIMLError(f"{path} holds no {', '.join(names)}; pass the --output_dir of one of those verbs")
        for file in files:
            if file.name in runs:
                runs[file.name].append(Run(file, _read(file), read_records(records_file(file))))
            else:
                costs += ((file, row) for row in _read_costs(file))

    tables = {
        "Published tables": published_tables(runs[RESULTS], runs[sweep.RESULTS], [row for _, row in costs]),
        "Robustness": [table for run in runs[robust.RESULTS] for table in robust_tables(run)],
        "Sweeps": [sweep_table(run) for run in runs[sweep.RESULTS]],
        "All tests": [test_table(run) for run in runs[RESULTS]],
        "Where the figures come from": [_provenance((run for kind in runs.values() for run in kind), costs)],
    }
    write_text(output_dir / "report.md", _markdown(tables))
    write_text(
        output_dir / "report.tex", "\n\n".join(table.latex() for found in tables.values() for table in found) + "\n"
    )
    plot = output_dir / robust.PLOT
    if runs[robust.RESULTS]:
        robust.plot(
            plot,
            {f"{run.label}: {', '.join(run.results['datasets'])}": robust_curve(run) for run in runs[robust.RESULTS]},
            {f"{method}, paper ({FIGURE_4['dataset']})": curve for method, curve in figure4_curves().items()},
        )
    _write_page(output_dir / "report.html", tables, plot if runs[robust.RESULTS] else None, runs[RESULTS])


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DiffIMLError(f"{path} is no JSON ({error}); make it again") from error


def _read_costs(path: Path) -> list[Mapping[str, Any]]:
    """The rows of a file of `benco complexity --json`, which is one row or a list of them."""
    content = _read(path)
    rows = content if isinstance(content, list) else [content]
    if not all(isinstance(row, dict) and "GFLOPs" in row for row in rows):
        raise DiffIMLError(f"{path} is not of benco complexity --json; of other verbs pass the --output_dir")
    return rows


def _provenance(runs: Iterable[Run], costs: Iterable[tuple[Path, Mapping[str, Any]]]) -> Table:
    rows = [[run.results["configuration"], run.results["model"], str(run.path), run.results["command"]] for run in runs]
    rows += [
        [cost_configuration(cost), cost["model"], str(file), cost["settings"].get("command", "–")]
        for file, cost in costs
    ]
    return Table(["configuration", "model", "results", "command"], rows, "Configurations")


def _markdown(tables: Mapping[str, Sequence[Table]]) -> str:
    parts = ["# DiffIML: ours beside the paper's", _BRACKETS]
    for section, found in tables.items():
        parts += [f"## {section}"] if found else []
        for table in found:
            parts += [f"### {table.title}", table.markdown()]
    return "\n\n".join(parts) + "\n"


def _write_page(path: Path, tables: Mapping[str, Sequence[Table]], plot: Path | None, tests: Sequence[Run]) -> None:
    curves = (
        [page.Strip({"": np.array(Image.open(plot).convert("RGB"))}, "Mean pixel-F1 over the datasets")] if plot else ()
    )
    sections = [
        page.Section(title, strips=curves if title == "Robustness" else (), tables=found)
        for title, found in tables.items()
        if found
    ]
    if examples := [strip for run in tests for strip in _examples(run)]:
        sections.append(page.Section("Best and worst images", strips=examples))
    page.write_page(path, "DiffIML: ours beside the paper's", _BRACKETS, sections)


def _examples(run: Run) -> list[page.Strip]:
    """The images of each dataset with the highest and lowest pixel-F1, their truth, and if the weights are there still
    what the model says."""
    shown = []
    for dataset in run.results["datasets"]:
        ranked = sorted(
            (r for r in run.records if r["dataset"] == dataset and r["f1"] is not None),
            key=lambda record: -(record["f1"] or 0),
        )
        extremes = {record["index"]: record for record in (*ranked[:_SHOWN], *ranked[-_SHOWN:])}
        shown += [
            record for record in extremes.values() if Path(record["path"]).is_file() and Path(record["mask"]).is_file()
        ]
    strips = []
    for record, prediction in zip(shown, _predictions(run, shown), strict=True):
        pictures = {"input": read_image(Path(record["path"])), "truth": read_image(Path(record["mask"]))}
        if prediction is not None:
            pictures["prediction"] = prediction.probability
        strips.append(
            page.Strip(
                {name: _small(picture) for name, picture in pictures.items()},
                f"{record['dataset']}, {record['name']}: pixel-F1 {record['f1']:.3f} ({run.label})",
            )
        )
    return strips


def _predictions(run: Run, records: Sequence[Record]) -> list[Result | None]:
    checkpoint, settings = run.results["checkpoint"], run.results["settings"]
    if not Path(checkpoint).is_file():
        return [None] * len(records)
    card = look_up(run.results["model"])
    sampling = (*sweep.SWEPT, "noise_seed") if card and card.samples else ()
    flags = {name: settings[name] for name in sampling}
    given = {field.name: settings[field.name] for field in fields(InputSettings) if field.name in settings}
    try:
        detector = Detector(checkpoint, CommonSettings(**given), run.results["model"], flags)
        found = list(detector.predict(Path(record["path"]) for record in records))
    except Exception as error:  # the zoo's models fail in ways of their own, and the figures stand without pictures
        _logger.warning(f"no predictions shown of {run.label}: {' '.join(str(error).split())}")
        return [None] * len(records)
    return [result if isinstance(result, Result) else None for result in found]


def _small(picture: np.ndarray) -> np.ndarray:
    step = max(1, round(max(picture.shape[:2]) / _SIDE))
    return np.ascontiguousarray(picture[::step, ::step])
