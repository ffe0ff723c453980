"""`benco test`: scores a model on one or many datasets, each image once however many processes there are."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from diffiml_plugin.evaluation.intervals import intervals
from diffiml_plugin.evaluation.published import require_tables
from diffiml_plugin.evaluation.records import RESULTS, records_file
from diffiml_plugin.evaluation.results import Tested, noted
from diffiml_plugin.evaluation.scores import PIXEL_FIGURES, average, score_batch, summarise
from diffiml_plugin.evaluation.scoring import open_scoring
from diffiml_plugin.evaluation.settings import TestSettings
from diffiml_plugin.files import write_text
from diffiml_plugin.table import Table, as_code, for_markdown

TABLE = "table.md"
FILES = (RESULTS, records_file(Path(RESULTS)).name, TABLE)
_logger = logging.getLogger(__name__)
_READ_AS = (
    "F1: of pixels, the mean over tampered images. False alarm: share of the area of authentic images that is called "
    "tampered. Brackets: the bootstrap's 95 % over images; a mean over sets gives each the same weight. At the best "
    "threshold: the one of this very set, which no user could know."
)
_COLUMNS = {  # of the printed table
    "images": "images",
    PIXEL_FIGURES["f1"]: "pixel F1",
    PIXEL_FIGURES["iou"]: "IoU",
    PIXEL_FIGURES["auc_sklearn"]: "AUC",
    "false_alarm_area": "false alarm",
    "image-level F1": "image F1",
    "image-level AUC": "image AUC",
}


def test(settings: TestSettings, model_flags: Mapping[str, Any] | None = None, command: str = "") -> Tested:
    """Tests a checkpoint; writes `results.json`, `per_image.jsonl` and `table.md`, with intervals; prints a table.

    An interrupted test, started again, goes on after the last batch that was done.

    Args:
        model_flags: constructor flags of the model that differ from the checkpoint's.
        command: as `open_scoring` takes it.

    Returns:
        what `results.json` holds.

    Raises:
        DiffIMLError: bad data, checkpoint or device, said before the first prediction where it can be known.
    """
    require_tables(settings.experiment)
    scoring = open_scoring(settings, model_flags, FILES, command=command)
    threshold = scoring.header["threshold"]
    score = partial(score_batch, complete=True, threshold=threshold)
    by_set = {name: scoring.records(name, score=score) for name in scoring.lists}
    summaries = {name: summarise(records) for name, records in by_set.items()}
    results: Tested = {**scoring.header, "datasets": summaries, "mean": average(summaries.values())}
    path = Path(settings.output_dir, TABLE)
    if scoring.state.is_main_process:
        described = replace(intervals(by_set, threshold), note=noted(results)).markdown()
        made_by = f"{for_markdown(results['checkpoint'])}: {as_code(results['command'])}"
        write_text(path, f"{described}\n\n{_READ_AS}\n\n- {made_by}\n")
    scoring.finish(results, chain.from_iterable(by_set.values()))
    if scoring.state.is_main_process:
        print(table(results))
        _logger.info(f"with intervals: {path}")
    return results


def table(results: Tested) -> Table:
    """The figures of each dataset and their mean."""
    rows = {**results["datasets"], "mean": results["mean"]}
    shown = {figure: head for figure, head in _COLUMNS.items() if any(figure in row for row in rows.values())}
    lines = [[name, *map(row.get, shown)] for name, row in rows.items()]
    return Table(["", *shown.values()], lines, note=noted(results))
