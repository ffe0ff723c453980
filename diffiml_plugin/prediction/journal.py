"""results.jsonl, with a line the moment an image is done, and run.json, which says what made them."""

import json
import platform
import shlex
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from threading import Lock
from typing import Any

from diffiml_plugin import __version__
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.evaluation.records import versions_of
from diffiml_plugin.files import appending, replacing, write_text
from diffiml_plugin.stored import checked, parse_json, require_file

RESULTS, RUN = "results.jsonl", "run.json"
MASK = "_mask.png"
_LONGEST_LINE = 2**20  # bytes: a hundred regions take 15,000
_FIELDS: dict[str, Any] = {  # of an entry with a result; one of a photo that failed has "image" and "error"
    "image": str,
    "sha256": str,
    "size": list[int],
    "orientation": int,
    "probability": float | None,
    "verdict": str,
    "threshold": float,
    "area": float,
    "score": float | None,
    "sentence": str,
    "regions": list[dict],
    "mask": str,
}
_PACKAGES = ("torch", "numpy", "pillow", "timm", "imdlbenco")
Entry = dict[str, Any]


class Journal:
    """The results in an output folder: those of earlier runs, and this run's.

    Args:
        folder: of the results; it exists.
        description: as `Detector.description`.
        code: as `records.code_digest`.

    Attributes:
        names: image -> what its files were called when an earlier run was done with it, without the ending; those that
            failed are not in it.
        digests: of these, the images whose results are of this code -> the SHA-256 they had then.

    Raises:
        DiffIMLError: results.jsonl in the folder holds something else.
    """

    def __init__(self, folder: Path, description: Mapping[str, Any], code: str):
        self.folder, self.code, self._lock, self._open = folder, code, Lock(), ExitStack()
        done = [entry for entry in latest(folder).values() if "error" not in entry]
        self.names: dict[str, str] = {entry["image"]: entry["mask"].removesuffix(MASK) for entry in done}
        self.digests: dict[str, str] = {entry["image"]: entry["sha256"] for entry in done if entry.get("code") == code}
        versions = {"diffiml_plugin": __version__, "python": platform.python_version(), **versions_of(_PACKAGES)}
        self._run = {**description, "versions": versions, "command": shlex.join(sys.argv)}

    def begin(self, images: Collection[str]) -> None:
        """Writes run.json, and opens results.jsonl, without the earlier failures of `images`.

        Earlier results of them stay until others come, so that a run which is cut off costs none.
        """
        write_text(self.folder / RUN, json.dumps(self._run, indent=1, default=str) + "\n")
        entries = latest(self.folder).values()
        self._write(entry for entry in entries if "error" not in entry or entry["image"] not in images)
        self._file = self._open.enter_context(appending(self.folder / RESULTS))

    def add(self, entry: Entry) -> None:
        """Writes a line; from any thread. Raises OSError."""
        with self._lock:
            self._file.write(_line(entry))

    def close(self) -> None:
        """Leaves one entry of each image, the last."""
        self._open.close()
        entries = list(read_results(self.folder))
        last = {entry["image"]: entry for entry in entries}
        if len(last) < len(entries):  # else it need not be written again
            self._write(last.values())

    def _write(self, entries: Iterable[Entry]) -> None:
        with replacing(self.folder / RESULTS) as file:
            file.writelines(map(_line, entries))


def latest(folder: Path) -> dict[str, Entry]:
    """By image, the entry that counts. Raises as `read_results`."""
    return {entry["image"]: entry for entry in read_results(folder)}


def read_results(folder: Path) -> Iterator[Entry]:
    """The entries of results.jsonl; of one image, the last counts. A last line that was cut off is left out.

    Raises:
        DiffIMLError: another line is no entry.
    """
    path = folder / RESULTS
    if not path.exists():
        return
    require_file(path)
    with open(path, "rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE), b""), start=1):
            if not line.endswith(b"\n") and len(line) < _LONGEST_LINE:
                return
            try:
                entry = parse_json(line.decode(), str(path))
                wanted = {"image": str, "error": str} if "error" in entry else _FIELDS
                checked(entry, wanted, str(path), others=True)
                place = Path(entry.get("mask", ""))
                valid = wanted.keys() <= entry.keys() and not place.is_absolute() and ".." not in place.parts
                valid = valid and ("error" in entry or (len(entry["size"]) == 2 and min(entry["size"]) > 0))
            except (AttributeError, TypeError, ValueError):
                valid = False
            if not valid:
                raise DiffIMLError(f"{path}, line {number}, is no result of ours; choose another --output_dir")
            yield entry


def _line(entry: Entry) -> bytes:
    return json.dumps(entry).encode() + b"\n"
