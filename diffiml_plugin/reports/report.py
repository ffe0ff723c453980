"""`benco report`: what one's own runs found, then what the paper says, as Markdown, LaTeX and one HTML page."""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from itertools import chain
from pathlib import Path
from typing import Any, TypedDict

from diffiml_plugin.data.images import read_image
from diffiml_plugin.data.pairs import pair_digest
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.evaluation import robust, sweep
from diffiml_plugin.evaluation.published import FIGURE_4, figure4_curves
from diffiml_plugin.evaluation.records import RESULTS, read_records, records_file
from diffiml_plugin.evaluation.results import Perturbed, Record, Swept, Tested, read_results
from diffiml_plugin.files import file_digest, write_text
from diffiml_plugin.ledger import begin
from diffiml_plugin.models import zoo
from diffiml_plugin.models.inputs import InputSettings
from diffiml_plugin.models.registry import look_up
from diffiml_plugin.prediction.detector import Detector
from diffiml_plugin.prediction.pictures import shrunk
from diffiml_plugin.prediction.result import Result
from diffiml_plugin.reports import page
from diffiml_plugin.reports.beside import published_tables
from diffiml_plugin.reports.tables import (
    Run,
    comparisons,
    cost_table,
    robust_curve,
    robust_tables,
    sweep_table,
    test_table,
)
from diffiml_plugin.settings import CommonSettings
from diffiml_plugin.stored import checked, read_json
from diffiml_plugin.table import Table, for_markdown

_logger = logging.getLogger(__name__)


class _Parameters(TypedDict):
    total: float | None  # in millions


_COST = {
    "model": str,
    "image_size": int,
    "settings": dict,
    "GFLOPs": dict[str, float | None],
    "GFLOPs_by_count": dict[str, dict[str, float | None]],
    "params_M": _Parameters,
    "fps": float | None,
    zoo.RATIO: float | None,
}
_Cost = tuple[Path, Mapping[str, Any]]  # a file, and one row of it
_NOT_ALWAYS = {"GFLOPs_by_count", "fps", zoo.RATIO}
_KINDS = {RESULTS: Tested, robust.RESULTS: Perturbed, sweep.RESULTS: Swept}
_TITLE = "What your runs found"
_READ_AS = (
    "Bold: the best value of several. Brackets: bootstrap 95 % intervals over images; where two of them overlap, the "
    "order may be chance."
)
_CURVES = "Mean pixel-F1 over the datasets"
_SHOWN = 2  # best and worst images of each dataset
_SIDE = 320  # pixels, of pictures in the page


def report(paths: Sequence[str], output_dir: Path) -> None:
    """Reads runs, and writes report.md, report.tex, report.html and, where there are curves, robustness.png.

    One's own runs come first, the paper's tables behind. Every figure of ours is recomputed from the records of the
    images.

    Args:
        paths: folders with results of `benco test`, `robust` and `sweep`, or a complexity.json, in them or below; and
            files of `benco complexity --json` by any name.

    Raises:
        DiffIMLError: a path without any result, or one that cannot be read; files of others, or the report of
            other runs, where the report goes.
    """
    files = [output_dir / name for name in ("report.md", "report.tex", "report.html")]
    plot = output_dir / robust.PLOT
    begin(output_dir, "report", {"runs": sorted(map(os.path.abspath, paths))}, [*files, plot])
    runs, costs = _read_all(paths)
    tests, perturbed, swept = (runs[name] for name in (RESULTS, robust.RESULTS, sweep.RESULTS))
    if perturbed:
        robust.plot(
            plot,
            {f"{run.name}: {', '.join(run.results['datasets'])}": robust_curve(run) for run in perturbed},
            {f"{method}, paper ({FIGURE_4['dataset']})": curve for method, curve in figure4_curves().items()},
        )
    curves = [page.Strip({"": read_image(plot)}, _CURVES)] if perturbed else []
    named = [(name, cost) for name, (_, cost) in zip(_cost_names(costs), costs, strict=True)]
    sections = [
        page.Section("Your tests", tables=comparisons(tests)),
        page.Section("Best and worst images", strips=[strip for run in tests for strip in _examples(run)]),
        page.Section("Robustness", strips=curves, tables=[table for run in perturbed for table in robust_tables(run)]),
        page.Section("Sweeps", tables=[sweep_table(run) for run in swept]),
        page.Section("Cost", tables=[cost_table(cost for _, cost in costs)] if costs else []),
        page.Section("All figures of each test", tables=[test_table(run) for run in tests]),
        page.Section("The paper's tables", tables=published_tables(tests, swept, named), folded=True),
        page.Section("Where the figures come from", tables=[_provenance([*tests, *perturbed, *swept], costs)]),
    ]
    sections = [section for section in sections if section.tables or section.strips]
    tables = [table for section in sections for table in section.tables]
    write_text(files[0], _markdown(sections))
    write_text(files[1], "\n\n".join(table.latex() for table in tables) + "\n")
    page.write_page(files[2], _TITLE, _READ_AS, sections)


def _read_all(paths: Sequence[str]) -> tuple[dict[str, list[Run]], list[_Cost]]:
    """The runs by the name of their results file; and of each row of a cost, its file and itself; each file once."""
    runs: dict[str, list[Run]] = {RESULTS: [], robust.RESULTS: [], sweep.RESULTS: []}
    costs: list[_Cost] = []
    seen: set[str] = set()
    for path in map(Path, paths):
        names = (*runs, zoo.RESULTS)
        files = [path] if path.is_file() else sorted(file for name in names for file in path.rglob(name))
        if not files:
            raise DiffIMLError(f"{path} holds no {', '.join(names)}; pass the --output_dir of one of those verbs")
        for file in files:
            if (place := os.path.realpath(file)) in seen:
                continue
            seen.add(place)
            if file.name in runs:
                name = str(file.parent.relative_to(path)) if path.is_dir() else "."
                name = file.parent.resolve().name if name == "." else name
                runs[file.name].append(
                    Run(file, read_results(file, _KINDS[file.name]), read_records(records_file(file)), name)
                )
            else:
                costs += ((file, row) for row in _read_costs(file))
    return {kind: _told_apart(of_kind) for kind, of_kind in runs.items()}, costs


def _told_apart(runs: Sequence[Run]) -> list[Run]:
    """Those that share a name are called by their path; all by the whole of it, where one's is another's name."""
    times = Counter(run.name for run in runs)
    told = [replace(run, name=str(run.path.parent)) if times[run.name] > 1 else run for run in runs]
    if len({run.name for run in told}) == len(told):
        return told
    return [replace(run, name=os.path.realpath(run.path.parent)) for run in runs]


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except DiffIMLError as error:
        raise DiffIMLError(f"{error}; make it again") from error


def _read_costs(path: Path) -> list[Mapping[str, Any]]:
    """The rows of a file of `benco complexity --json`, which is one row or a list of them."""
    content = _read(path)
    rows = content if isinstance(content, list) else [content]
    if not all(isinstance(row, dict) and _COST.keys() - _NOT_ALWAYS <= row.keys() for row in rows):
        raise DiffIMLError(f"{path} is not of benco complexity --json; of other verbs pass the --output_dir")
    costs: list[Mapping[str, Any]] = [checked(row, _COST, str(path), others=True) for row in rows]
    for cost in costs:
        counts = (cost["GFLOPs"], *cost.get("GFLOPs_by_count", {}).values())
        figures = (
            cost["params_M"]["total"],
            cost.get("fps"),
            cost.get(zoo.RATIO),
            *chain(*(count.values() for count in counts)),
        )
        if (least := min(figure or 0 for figure in figures)) < 0:
            raise DiffIMLError(f"{path} has a figure of {least:g}; expected 0 or more; make it again")
    return costs


def _cost_names(costs: Sequence[_Cost]) -> list[str]:
    """The names of the files, or where two share one their whole paths; and what the time was taken on."""
    times = Counter(file.name for file in {file for file, _ in costs})
    names = (str(file) if times[file.name] > 1 else file.name for file, _ in costs)
    timed = (cost["settings"].get("timed") for _, cost in costs)
    return [f"{name} ({device})" if device else name for name, device in zip(names, timed, strict=True)]


def _provenance(runs: Iterable[Run], costs: Sequence[_Cost]) -> Table:
    rows = [
        [run.name, run.results["model"], run.results["configuration"], str(run.path), run.results["command"]]
        for run in runs
    ]
    rows += [
        [name, cost["model"], "", str(file), cost["settings"].get("command", "")]
        for name, (file, cost) in zip(_cost_names(costs), costs, strict=True)
    ]
    return Table(["run", "model", "configuration", "results", "command"], rows, "Configurations")


def _markdown(sections: Sequence[page.Section]) -> str:
    parts = [f"# {_TITLE}", _READ_AS]
    for section in sections:
        parts += [f"## {section.title}"] if section.tables else []
        for table in section.tables:
            parts += [f"### {for_markdown(table.title)}", table.markdown()]
    return "\n\n".join(parts) + "\n"


def _examples(run: Run) -> list[page.Strip]:
    """The images of each dataset with the highest and lowest pixel-F1, their truth, and what the model says, if its
    file is still there and the same."""
    shown = []
    for dataset in run.results["datasets"]:
        ranked = sorted(
            (r for r in run.records if r["dataset"] == dataset and r["f1"] is not None),
            key=lambda record: -(record["f1"] or 0),
        )
        extremes = {record["index"]: record for record in (*ranked[:_SHOWN], *ranked[-_SHOWN:])}
        shown += [
            record for record in extremes.values() if os.path.isfile(record["path"]) and os.path.isfile(record["mask"])
        ]
    strips = []
    for record, prediction in zip(shown, _predictions(run, shown), strict=True):
        try:
            pictures = {"input": read_image(Path(record["path"])), "truth": read_image(Path(record["mask"]))}
        except DiffIMLError as error:
            _logger.warning(f"not shown of {run.name}: {error}")
            continue
        content = pair_digest([file_digest(record[name]) for name in ("path", "mask")])
        if record.get("content", content) != content:
            _logger.warning(f"not shown of {run.name}: {record['path']} or its mask is no longer what was tested")
            continue
        if prediction is not None:
            pictures["prediction"] = prediction.probability
        strips.append(
            page.Strip(
                {name: shrunk(picture, _SIDE) for name, picture in pictures.items()},
                f"{record['dataset']}, {record['name']}: pixel-F1 {record['f1']:.3f} ({run.name})",
            )
        )
    return strips


def _predictions(run: Run, records: Sequence[Record]) -> list[Result | None]:
    checkpoint, settings = run.results["checkpoint"], run.results["settings"]
    if not os.path.isfile(checkpoint):
        return [None] * len(records)
    tested = run.results.get("weights")
    if tested is None:  # of an earlier version
        _logger.warning(f"no predictions shown of {run.name}: its results do not say which weights were tested")
        return [None] * len(records)
    if file_digest(checkpoint) != tested:
        _logger.warning(f"no predictions shown of {run.name}: {checkpoint} is no longer the weights that were tested")
        return [None] * len(records)
    card = look_up(run.results["model"])
    sampling = (*sweep.SWEPT, "noise_seed") if card and card.samples else ()
    given = {field.name: settings[field.name] for field in fields(InputSettings) if field.name in settings}
    flags = {name: settings[name] for name in sampling if name in settings}  # earlier versions had fewer
    try:
        detector = Detector(checkpoint, CommonSettings(**given), run.results["model"], flags)
        results = list(detector.predict(Path(record["path"]) for record in records))
    except Exception as error:  # the zoo's models fail in ways of their own, and the figures stand without pictures
        _logger.warning(f"no predictions shown of {run.name}: {' '.join(str(error).split())}")
        return [None] * len(records)
    return [result if isinstance(result, Result) else None for result in results]
