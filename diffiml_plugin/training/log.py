"""A run's log: one JSON record on a line."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.files import appending, write_text
from diffiml_plugin.ledger import warn_if_changed
from diffiml_plugin.stored import checked, parse_json, read_text, shown

LOG = "log.jsonl"
_FIELDS: dict[str, Any] = {"update": int, "loss": dict[str, float], "f1": float}  # of an epoch


class Log:
    """The log in `folder`, of records that count up `key`: epochs, or steps.

    Args:
        first: records from this count on, which a resumed run makes anew, are dropped.

    Raises:
        DiffIMLError: a line is no such record; the last may be cut off.
    """

    def __init__(self, folder: Path, key: str, first: int = 0):
        self._path = folder / LOG
        earlier = read_text(self._path).splitlines(keepends=True) if first and self._path.exists() else []
        kept = [
            line for number, line in enumerate(earlier, 1) if _count(line, key, f"{self._path}, line {number}") < first
        ]
        write_text(self._path, "".join(kept))

    def add(self, record: Mapping[str, Any]) -> None:
        """Appends a record."""
        with appending(self._path) as file:
            file.write(json.dumps(record).encode() + b"\n")


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The records of a training's log. Raises DiffIMLError for a line that is none, or says what none can."""
    path, entries = folder / LOG, []
    warn_if_changed(path)
    for number, line in enumerate(read_text(path).splitlines(), 1):
        place = f"{path}, line {number}"
        entries.append(checked(parse_json(line, place), _FIELDS, place, others=True))
        if missing := _FIELDS.keys() - entries[-1].keys() - {"f1"}:
            raise DiffIMLError(f"{place} lacks {min(missing)}; train anew")
        if entries[-1]["update"] < 0 or not 0 <= entries[-1].get("f1", 0) <= 1:
            raise DiffIMLError(f"{place} says {shown(line)}; expected update from 0 on, and f1 0 to 1; train anew")
    return entries


def _count(line: str, key: str, place: str) -> float:
    """Of a line of the log; infinite for one that a kill or a full disk cut short, or a record of another kind."""
    if not line.endswith("\n"):
        return float("inf")
    try:
        return checked(parse_json(line, place), {key: int}, place, others=True).get(key, float("inf"))
    except DiffIMLError as error:
        raise DiffIMLError(f"{place}, is no record of a training; move that file, and go on") from error
