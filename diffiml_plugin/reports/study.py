"""`benco study`: means and spread over seeds of runs that differ in one thing each, and their curves."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, cast

from diffiml_plugin.drawing import add_legend, drawing
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.evaluation import robust, sweep
from diffiml_plugin.evaluation.records import RESULTS, ROUNDING, images_of, read_records, records_file, same_images
from diffiml_plugin.evaluation.results import (
    Perturbed,
    Record,
    Swept,
    Tested,
    deciding_settings,
    noted_by_run,
    read_results,
)
from diffiml_plugin.evaluation.scores import MEANS, PIXEL_FIGURES, at_threshold, best_threshold, summarise
from diffiml_plugin.evaluation.statistics import mean_figure
from diffiml_plugin.files import write_text
from diffiml_plugin.ledger import begin
from diffiml_plugin.stored import checked, read_json
from diffiml_plugin.table import Table, as_code, for_markdown
from diffiml_plugin.training.log import read_log
from diffiml_plugin.training.tracking import RUN

_logger = logging.getLogger(__name__)
TABLES, PLOT = "study.md", "study.png"
_READ = {"test": (RESULTS, Tested), "sweep": (sweep.RESULTS, Swept), "robust": (robust.RESULTS, Perturbed)}
_COLUMNS = ("row", "less", "seeds", "all", "AUC", "threshold", "false alarm", "images", "by seed")  # beside the kinds'
_F1, _AUC, _FALSE_ALARM = PIXEL_FIGURES["f1"], PIXEL_FIGURES["auc_sklearn"], MEANS["false_alarm_area"]
_Image = tuple[str, str, int]  # its dataset, its content or place, and which of the copies there
_F1ByImage = dict[_Image, tuple[float, str]]  # with the kind of manipulation, empty where the list names none
_Runs = list[Path]  # folders of one row, one for each seed
_Lines = dict[str, dict[str, Mapping[str, object]]]  # by setting and row, cells by column


def study(folder: Path, output_dir: Path, comparisons: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    """Reads FOLDER/ROW/SEED/{test,sweep,robust}, as `benco reproduce study` leaves them; writes study.md and study.png.

    Args:
        comparisons: (row, other), to be compared image by image; those that were not run are left out.

    Returns:
        by row, by figure ("all", each kind of manipulation: pixel-F1; "AUC" of pixels; "false alarm": share of the area
        of authentic images), the values of the seeds, none where no such image was tested. The kinds are those that the
        list of test images names.

    Raises:
        DiffIMLError: no finished test in `folder`; one run twice in a row, or results of several weights in a
            run; files of others where the tables go.
    """
    deciding = {"folder": os.path.abspath(folder), "compare": comparisons}
    begin(output_dir, "study", deciding, [output_dir / TABLES, output_dir / PLOT])
    rows: dict[str, _Runs] = {}
    for results in sorted(folder.glob(f"*/*/test/{RESULTS}")):
        rows.setdefault(results.parents[2].name, []).append(results.parents[1])
    if not rows:
        raise DiffIMLError(f"{folder} holds no ROW/SEED/test/{RESULTS}; `benco reproduce study` makes them")
    for row, runs in rows.items():
        _require_one_model_each(runs)
        _warn_of_mixtures(row, runs)
    tests = {
        row: {run.name: read_records(run / "test" / "per_image.jsonl") for run in runs} for row, runs in rows.items()
    }
    figures, best = (
        {row: _figures(seeds.values(), at_best) for row, seeds in tests.items()} for at_best in (False, True)
    )
    table = Table.of("row", {row: _spreads(values) for row, values in figures.items()})
    parts = [replace(table, note=_note(rows, "test")).markdown()]
    if differences := _differences(tests, comparisons):
        parts += [
            "Pixel-F1 less that of another row, image by image, in the mean over sets; brackets: bootstrap 95 % over "
            "the images alone:",
            Table.listed(differences).markdown(),
        ]
    if cut := {row: _spreads(values) for row, values in best.items() if values["threshold"]}:
        parts += [
            "Each run at the threshold that is best for the F1 of this very test, which no user could know:",
            Table.of("row", cut).markdown(),
        ]
    parts += [part for part in (_sampling(rows), _robustness(rows)) if part]
    parts.append("\n".join(f"- {for_markdown(row)}: {as_code(_command(runs[0]))}" for row, runs in rows.items()))
    write_text(output_dir / TABLES, "\n\n".join(parts) + "\n")
    _plot(output_dir / PLOT, rows)
    return figures


def _require_one_model_each(runs: _Runs) -> None:
    """Raises DiffIMLError if a run's results are of several weights, or those of two runs of the same ones: a copy or
    a link is no further seed."""
    known: dict[str, Path] = {}
    for run in runs:
        of_verbs = {
            verb: read_results(file, kind).get("weights")  # which earlier versions did not write
            for verb, (name, kind) in _READ.items()
            if (file := run / verb / name).exists()
        }
        weights = of_verbs["test"]
        for verb, others in of_verbs.items():
            if None not in (weights, others) and weights != others:
                raise DiffIMLError(f"{run / verb} is of other weights than {run / 'test'}; make the older one again")
        if weights and (other := known.setdefault(weights, run)) != run:
            raise DiffIMLError(
                f"{other} and {run} were tested with the same weights, and one run counts once; move one of them away"
            )


def _warn_of_mixtures(row: str, runs: _Runs) -> None:
    """Of seeds whose figures are of other images, or of other settings."""
    for verb, (name, kind) in _READ.items():
        files = [file for run in runs if (file := run / verb / name).exists()]
        for file in files[1:]:
            if differing := _differing(file, files[0], kind):
                seeds = [one.parents[1].name for one in (file, files[0])]
                _logger.warning(
                    f"{row}: seed {seeds[0]} was tested with other {', '.join(differing)} than seed {seeds[1]} (benco "
                    f"{verb}); means mix them"
                )
                break


def _note(rows: Mapping[str, _Runs], verb: str) -> str:
    """For below the figures of a verb."""
    name, kind = _READ[verb]
    files = {f"{row}/{run.name}": run / verb / name for row, runs in rows.items() for run in runs}
    return noted_by_run((run, read_results(file, kind)) for run, file in files.items() if file.exists())


def _differing(file: Path, other: Path, kind: Any) -> list[str]:
    """In what two results of a verb cannot be compared: settings, images."""
    mine, its = (deciding_settings(read_results(one, kind).get("settings", {})) for one in (file, other))
    names = [name for name in {**mine, **its} if name != "seed" and mine.get(name) != its.get(name)]
    images = [_by_image(records_file(one)) for one in (file, other) if records_file(one).exists()]
    return names + (["images"] if len(images) == 2 and not same_images(*images) else [])


def _by_image(file: Path) -> dict[tuple[str, str, int], Record]:
    records = read_records(file)
    return {(*image, record["label"]): record for image, record in zip(images_of(records), records, strict=True)}


def _figures(seeds: Iterable[list[Record]], at_best: bool = False) -> dict[str, list[float]]:
    """By column of a table, the values of the seeds; `at_best`, at the best threshold of each."""
    figures: dict[str, list[float]] = {}
    for records in seeds:
        other = {"AUC": _over_sets(records, _AUC)}
        if at_best:
            threshold = best_threshold(records)
            records = [] if threshold is None else at_threshold(records, threshold)
            other = {"threshold": threshold}
        kinds = sorted({r["kind"] for r in records if "kind" in r})
        of_kind = {_column(kind): [r for r in records if r.get("kind") == kind] for kind in kinds}
        groups = {"all": records, **of_kind}
        by_column = {name: _over_sets(group, _F1) for name, group in groups.items()}
        by_column |= {**other, "false alarm": _over_sets(records, _FALSE_ALARM)}
        for name, value in by_column.items():
            figures.setdefault(name, []).extend([] if value is None else [value])
    return figures


def _over_sets(records: Iterable[Record], figure: str) -> float | None:
    """The mean over the datasets, as `benco test` gives it; None where no image has the figure."""
    sets: dict[str, list[Record]] = {}
    for record in records:
        sets.setdefault(record["dataset"], []).append(record)
    values = [value for of_set in sets.values() if (value := summarise(of_set).get(figure)) is not None]
    return fmean(values) if values else None


def _differences(
    tests: Mapping[str, Mapping[str, list[Record]]], comparisons: Iterable[tuple[str, str]]
) -> list[dict[str, Any]]:
    """Lines of a table, one for each comparison, whose figures are means over the datasets. An image's difference is
    its mean over the seeds that both have. A warning tells of images that some of the tests lack."""
    lines = []
    for row, other in comparisons:
        if row not in tests or other not in tests:
            continue
        seeds = sorted(tests[row].keys() & tests[other].keys())
        tested = _tampered([tests[which][seed] for which in (row, other) for seed in seeds])
        known = set().union(*tested)
        images = sorted(known.intersection(*tested))
        if not images:
            _logger.warning(
                f"{row} and {other} are not compared: no tampered image was tested in the same seeds of both"
            )
            continue
        if len(images) < len(known):
            _logger.warning(
                f"{row} less {other} is of {len(images)} of {len(known)} tampered images; not all seeds of both were "
                "tested on the others"
            )
        pairs = list(zip(tested[: len(seeds)], tested[len(seeds) :], strict=True))
        line = {"row": row, "less": other, "seeds": len(seeds), "images": len(images)}
        lines.append({**line, **_changes(pairs, images)})
    return lines


def _changes(pairs: Sequence[tuple[_F1ByImage, _F1ByImage]], images: Sequence[_Image]) -> dict[str, str | None]:
    """Cells of a comparison's line, of the two tests of each seed. An image is of a kind that no test contradicts."""
    of_seeds = [{image: mine[image][0] - its[image][0] for image in images} for mine, its in pairs]
    changes = {image: fmean(of_seed[image] for of_seed in of_seeds) for image in images}
    groups = {"all": changes}
    said = {image: {kind for pair in pairs for one in pair if (kind := one[image][1])} for image in images}
    for kind in sorted({kind for kinds in said.values() if len(kinds) == 1 for kind in kinds}):
        groups[_column(kind)] = {image: change for image, change in changes.items() if said[image] == {kind}}
    by_seed = _spread([fmean(map(fmean, _by_set(of_seed))) for of_seed in of_seeds])
    return {"by seed": by_seed, **{group: _signed(values) for group, values in groups.items()}}


def _by_set(changes: Mapping[_Image, float]) -> list[list[float]]:
    """Values by image, in a list for each dataset."""
    sets: dict[str, list[float]] = {}
    for (dataset, *_), change in changes.items():
        sets.setdefault(dataset, []).append(change)
    return list(sets.values())


def _column(kind: str) -> str:
    """The column of a kind of manipulation, which a list may call as one of ours is called."""
    return f"kind {kind!r}" if kind in _COLUMNS or kind.startswith("kind ") else kind


def _signed(differences: Mapping[_Image, float]) -> str:
    mean = mean_figure(_by_set(differences))
    low, high = mean.interval or (mean.value, mean.value)
    return f"{mean.value:+.3f} [{low:+.3f}, {high:+.3f}]"


def _tampered(tests: Sequence[Sequence[Record]]) -> list[_F1ByImage]:
    """Of each test the images that have an F1.

    An image is known by its content where all tests tell that, wherever it lies; else by its place.
    """
    told = all("content" in record for records in tests for record in records)
    of_tests: list[_F1ByImage] = []
    for records in tests:
        times: Counter[tuple[str, str]] = Counter()
        of_tests.append({})
        for record, (dataset, place) in zip(records, images_of(records), strict=True):
            if record["f1"] is not None:
                known_by = record["content"] if told else place
                times[dataset, known_by] += 1
                of_tests[-1][dataset, known_by, times[dataset, known_by]] = record["f1"], record.get("kind", "")
    return of_tests


def _sampling(rows: Mapping[str, _Runs]) -> str:
    """Pixel-F1 by sampling setting, of the rows that were swept, over the training seeds.

    "over noise": the mean, over training seeds, of its standard deviations over noise seeds; empty of a single one.
    """
    lines: _Lines = {}
    for row, runs in rows.items():
        f1: dict[str, list[float]] = {}
        deviations: dict[str, list[float]] = {}
        for file in (run / "sweep" / sweep.RESULTS for run in runs):
            for entry in read_results(file, Swept)["rows"] if file.exists() else ():
                setting, cells = f"{entry['setting']}={entry['value']}", entry["datasets"].values()
                if cells:  # else no image was tampered
                    f1.setdefault(setting, []).append(fmean(_share(cell["f1"], file) for cell in cells))
                known = [_share(cell["std"], file) for cell in cells if cell["std"] is not None]
                deviations.setdefault(setting, []).extend(known)
        for setting, values in f1.items():
            noise = f"{fmean(deviations[setting]):.3f}" if deviations[setting] else None
            lines.setdefault(setting, {})[row] = {"pixel-F1": _spread(values), "over noise": noise}
    return _by_setting(lines, _note(rows, "sweep"))


def _robustness(rows: Mapping[str, _Runs]) -> str:
    """Pixel-F1, and false-alarm area where it was measured, by perturbation and strength, of the perturbed rows."""
    lines: _Lines = {}
    for row, runs in rows.items():
        files = [file for run in runs if (file := run / "robust" / robust.RESULTS).exists()]
        by_setting: dict[str, dict[str, list[float]]] = {}
        for column, figure in (("pixel-F1", _F1), ("false alarm", _FALSE_ALARM)):
            for file in files:
                for perturbation, curve in robust.curve_of(
                    cast(Perturbed, read_results(file, Perturbed)), figure=figure
                ).items():
                    for strength in filter(None, curve):  # the clean image is in the first table
                        cells = by_setting.setdefault(f"{perturbation} {strength}", {})
                        cells.setdefault(column, []).append(_share(curve[strength], file))
        for setting, cells in by_setting.items():
            lines.setdefault(setting, {})[row] = {column: _spread(values) for column, values in cells.items()}
    return _by_setting(lines, _note(rows, "robust"))


def _share(value: float, file: Path) -> float:
    if not -ROUNDING <= value <= 1 + ROUNDING:
        raise DiffIMLError(f"{file} has a figure of {value:g}; expected 0 to 1; make it again")
    return value


def _by_setting(lines: _Lines, note: str) -> str:
    """A table of cells by setting and row, a line for each; empty of nothing."""
    listed = [{"setting": setting, "row": row, **cells} for setting, of in lines.items() for row, cells in of.items()]
    return replace(Table.listed(listed), note=note).markdown() if listed else ""


def _spreads(figures: Mapping[str, list[float]]) -> dict[str, Any]:
    return {"seeds": max(map(len, figures.values())), **{name: _spread(values) for name, values in figures.items()}}


def _spread(values: list[float]) -> str | None:
    if not values:
        return None
    return f"{fmean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def _command(run: Path) -> str:
    starts = read_json(run / RUN)
    if not (isinstance(starts, list) and starts):
        raise DiffIMLError(f"{run / RUN} is no list of starts; train anew")
    return str(checked(starts[0], {"command": str}, str(run / RUN), others=True).get("command", ""))


def _plot(path: Path, rows: Mapping[str, _Runs]) -> None:
    """Training loss and validation pixel-F1 against optimizer steps, the mean of each row's seeds."""
    with drawing(path, (11, 4), dpi=120) as figure:
        panels = figure.subplots(1, 2)
        readers: list[tuple[str, Callable[[dict], float | None]]] = [
            ("training loss", lambda entry: entry["loss"].get("loss")),  # the zoo's have other names
            ("pixel-F1", lambda entry: entry.get("f1")),
        ]
        for panel, (label, read) in zip(panels, readers, strict=True):
            for row, runs in rows.items():
                points: dict[int, list[float]] = {}
                for run in runs:
                    for entry in read_log(run):
                        if (value := read(entry)) is not None:
                            points.setdefault(entry["update"], []).append(value)
                panel.plot(sorted(points), [fmean(points[update]) for update in sorted(points)], label=row)
            panel.set_xlabel("optimizer steps")
            panel.set_ylabel(label)
            panel.grid(alpha=0.3)
        panels[0].set_yscale("log")
        add_legend(panels[1], fontsize="small")
