"""Records, one for each image, and the files that hold them."""

import json
import os
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

from diffiml_plugin.data.lists import NEGATIVE
from diffiml_plugin.evaluation.results import Record
from diffiml_plugin.files import write_text

RESULTS = "results.json"


def records_file(results: Path) -> Path:
    """The file of the records behind a results file: per_image.jsonl, or NAME_per_image.jsonl of other verbs'."""
    return results.with_name("per_image.jsonl" if results.name == RESULTS else f"{results.stem}_per_image.jsonl")


def read_records(path: Path) -> list[Record]:
    """The records of a file that `write_records` wrote."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Writes records, one on a line. Raises DiffIMLError as `write_text`."""
    write_text(path, "".join(json.dumps(record) + "\n" for record in records))


def stamp(file: str) -> list[int]:
    """Size and time of change, so that a mended file is scored anew; empty for NEGATIVE."""
    return [] if file == NEGATIVE else [os.stat(file).st_size, os.stat(file).st_mtime_ns]


def digest(value: Any) -> str:
    """A hash of plain values, short enough for a table."""
    return sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]
