"""Who wrote what in a folder: a ledger there, by which a command tells its own files from everybody else's.

A command begins by naming the files that it will write. Those that are there must be its own, of the same settings, and
as it left them; else it ends before anything is read. What it writes then is entered, just before it takes its place. A
file that lines are added to is entered at the first and after the last: if that was cut off, how it begins tells it.
"""

import io
import json
import logging
import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.stored import checked, parse_json, read_text

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_logger = logging.getLogger(__name__)
LEDGER = ".written.jsonl"
_OF_LINES = ".jsonl"  # ends the name of each file that lines are added to
_LIMIT = 2**30  # bytes: some million photos
_FIELDS = {"run": str, "settings": dict, "file": str, "size": int, "sha256": str, "grows": bool, "by": str}
_LEDGERS: dict[str, "Ledger"] = {}  # of this process, by the folders and files that they are of
_WARNED_OF: set[str] = set()  # files, of each of which is told once
_Version = tuple[int, str]  # bytes and SHA-256 of a file as it was written
_State = tuple[int, ...]


class Ledger:
    """What `folder`'s ledger says, and what this process adds to it.

    Attributes:
        runs: command -> the settings of its last run that wrote something.
        files: absolute path -> its versions, each with the command that wrote it; another one than these is not ours.
        growing: absolute path -> its last version, to which lines were being added.
        settings: command, absolute path -> those of its run that last wrote there.
    """

    def __init__(self, folder: str | Path):
        self.folder, self._lock = Path(os.path.abspath(folder)), Lock()
        self.runs: dict[str, dict[str, Any]] = {}
        self.files: dict[str, dict[_Version, str]] = {}
        self.growing: dict[str, _Version] = {}
        self.settings: dict[tuple[str, str], dict[str, Any]] = {}
        self._run = ""  # the last
        self._mine: dict[str, _State | None] = {}  # known to be ours, or written by now: as they were then
        self._pending = b""  # a run that has written nothing yet
        if os.path.lexists(self.folder / LEDGER):
            if os.path.islink(self.folder / LEDGER) or os.stat(self.folder / LEDGER).st_nlink > 1:
                raise DiffIMLError(f"{self.folder / LEDGER} is a link, which is not followed; remove it")
            for line in read_text(self.folder / LEDGER, _LIMIT).splitlines():
                with suppress(KeyError, ValueError):  # a line that was cut off, or whose file no path can be
                    self._learn(checked(parse_json(line, LEDGER), _FIELDS, LEDGER, others=True))

    def _learn(self, line: Mapping[str, Any]) -> None:
        if "run" in line:
            self.runs[line["run"]], self._run = line["settings"], line["run"]
        elif b"\0" in os.fsencode(line["file"]):
            raise ValueError("no path")
        else:
            path, version = os.path.abspath(self.folder / line["file"]), (line["size"], line["sha256"])
            writer = line.get("by", self._run)
            self.files.setdefault(path, {})[version] = writer
            if writer in self.runs:
                self.settings[writer, path] = self.runs[writer]
            self.growing.pop(path, None)
            if line.get("grows") and path.endswith(_OF_LINES):  # how any other file begins would prove too little
                self.growing[path] = version

    def start(self, run: str, settings: Mapping[str, Any]) -> None:
        """A run of a command starts; its line goes before that of the first file it writes."""
        self._mine.clear()
        self._run = run
        with self._lock:
            self._pending += _line({"run": run, "settings": settings})

    def require_own(self, path: str | Path, run: str = "") -> None:
        """Raises DiffIMLError if what is at `path` was not written here, or not by `run`, or has changed since.

        Args:
            run: a command; empty: any.
        """
        key, state = os.path.abspath(path), state_of_file(path)
        if state is None or self._mine.get(key) == state:
            return
        writer = self.writer(path)
        if writer is None:
            raise _others(path, "has changed since it was written") if key in self.files else _others(path)
        if run and writer != run:
            raise _others(path)
        if key in self.growing:
            self.adopt(path)  # as long as it has become
        self._mine[key] = state

    def wrote(self, path: str | Path) -> bool:
        """Whether `path` is a file that was written here, as it was then; of a growing one, its beginning."""
        return self.writer(path) is not None

    def writer(self, path: str | Path) -> str | None:
        """The command that wrote `path` as it is, or the beginning of a growing one; None of what is not ours."""
        key = os.path.abspath(path)
        versions, growing = self.files.get(key, {}), self.growing.get(key)
        if not versions or os.path.islink(path) or not os.path.isfile(path):
            return None
        size = os.path.getsize(path)
        if growing and growing[0] < size and digest_of_start(path, growing[0]) == growing[1]:
            return versions[growing]
        known = any(entered == size for entered, _ in versions)  # else its bytes need not be read
        return versions.get((size, digest_of_start(path, size))) if known else None

    def adopt(self, path: str | Path) -> None:
        """Enters a file as it is, with the first that is written."""
        self._pending += self._entered(path, path)

    def enter(self, path: str | Path, content: str | Path, grows: bool = False, lasting: bool = True) -> None:
        """Enters that `path` is to become the file `content`, and `grows`: lines are to follow. Raises OSError.

        Args:
            lasting: as `files.replacing` takes it.
        """
        line = self._entered(path, content, grows)
        with self._lock, Appended(self.folder / LEDGER) as file:
            file.write(self._pending + line)
            self._pending = b""
            if lasting:
                os.fsync(file.fileno())

    def _entered(self, path: str | Path, content: str | Path, grows: bool = False) -> bytes:
        key, size = os.path.abspath(path), os.path.getsize(content)
        name, digest = os.path.relpath(key, self.folder), digest_of_start(content, size)
        line: dict[str, Any] = {"file": name, "size": size, "sha256": digest, "by": self._run}
        if grows:
            line["grows"] = True
        self._learn(line)
        self._mine[key] = state_of_file(content)  # which it keeps as it takes its place
        return _line(line)


def begin(
    folder: str | Path,
    run: str,
    settings: Mapping[str, Any] | None,
    files: Iterable[Path],
    adopt: Iterable[Path] = (),
    beside: Iterable[Path] = (),
) -> None:
    """For before the work: the command `run` is about to write `files`, and others in `folder`.

    Args:
        settings: that decide what it writes; None: those of its last run there, of which the caller has made sure.
        files: that hold its results, in `folder` or elsewhere.
        adopt: those of `files` that it may change, whatever the ledger says.
        beside: further folders that it writes into, entered in the same ledger.

    Raises:
        DiffIMLError: one of the files is there and was not made by this command, or with other settings, which are
            named, or has changed since, be it by another command.
    """
    ledger, files, adopt = Ledger(folder), list(files), list(adopt)
    there = [path for path in files if os.path.lexists(path) and path not in adopt]
    before = ledger.runs.get(run)
    now = (before or {}) if settings is None else json.loads(json.dumps(settings, default=str))
    ledger.start(run, now)
    if there:
        if before is None:
            raise _others(there[0])
        for path in there:
            made_with = ledger.settings.get((run, os.path.abspath(path)), before)
            if differing := [name for name in {**made_with, **now} if made_with.get(name) != now.get(name)]:
                raise _others(path, _told(differing, made_with))
    for path in there:
        ledger.require_own(path, run)
    for path in filter(os.path.exists, adopt):
        if not ledger.wrote(path):
            ledger.adopt(path)
    for place in (folder, *beside, *files):
        _LEDGERS[os.path.abspath(place)] = ledger


def _told(differing: Collection[str], made_with: Mapping[str, Any]) -> str:
    """What a file is of whose run noted these settings otherwise, or not at all, as earlier versions do; theirs of
    other names may hold a digest of something else, too.
    """
    noted = ", ".join(name for name in differing if name in made_with)
    unnoted = ", ".join(name for name in differing if name not in made_with)
    earlier = f"an earlier version, which noted no {unnoted},"
    if not noted:
        return f"is of {earlier}"
    return f"was made with other {noted}" + (f", or by {earlier}" if unnoted else "")


def discard(folder: str | Path, files: Iterable[Path] | None = None, run: str = "") -> None:
    """Removes what was written in a folder, or what of it is in `files`. What others put there or changed stays, and
    what lies elsewhere, whatever the ledger says: the folder may come from anyone.

    All processes of a run may do so at once.

    Args:
        run: a command, whose files alone are removed; empty: any.
    """
    ledger = Ledger(folder)
    for path in list(ledger.files) if files is None else files:
        with suppress(FileNotFoundError):  # another process was quicker
            writer = ledger.writer(path)
            if writer is None or run not in ("", writer):
                continue
            if Path(path).parent.resolve().is_relative_to(ledger.folder.resolve()):
                os.unlink(path)


def warn_if_changed(path: Path) -> None:
    """For before a file of results is read: a warning if a command wrote it, and it is another now."""
    ledger, key = Ledger(path.parent), os.path.abspath(path)
    if key in ledger.files and key not in _WARNED_OF and not ledger.wrote(path):
        _WARNED_OF.add(key)
        _logger.warning(f"{path} has changed since it was written; its figures are taken as they stand")


def ledger_of(path: str | Path) -> Ledger | None:
    """That of the command which this process began and which writes `path`."""
    place = os.path.abspath(path)
    while place not in _LEDGERS and place != os.path.dirname(place):
        place = os.path.dirname(place)
    return _LEDGERS.get(place)


def enter(path: Path, content: Path, grows: bool = False, lasting: bool = True) -> None:
    """As `Ledger.enter`, in the ledger of the command that writes `path`."""
    if ledger := ledger_of(path):
        ledger.enter(path, content, grows, lasting)


def state_of_file(path: str | Path) -> _State | None:
    """Changes when a file is changed, or another one takes its place; None if there is nothing."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def not_following(path: str, flags: int) -> int:
    """Opens a file for `open`, but no link."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


class Appended(io.FileIO):
    """A file to add to, but no link. `write` writes all of it, or raises OSError: on a disk that is just full, the
    system writes a part and says so by a number alone."""

    def __init__(self, path: str | Path):
        super().__init__(path, "a", opener=not_following)
        self.path = path

    def is_in_place(self) -> bool:
        """Whether no other file has taken its place, as editors and rsync have one do: what is added then is lost."""
        with suppress(FileNotFoundError):
            return os.path.samestat(os.lstat(self.path), os.fstat(self.fileno()))
        return False

    def require_in_place(self) -> None:
        if not self.is_in_place():
            raise DiffIMLError(f"{self.path} was replaced or removed while lines were added to it; start again")

    def write(self, content: "ReadableBuffer", /) -> int:
        self.require_in_place()
        rest = memoryview(content)
        while rest:
            rest = rest[super().write(rest) :]
        return memoryview(content).nbytes


def _others(path: str | Path, why: str = "") -> DiffIMLError:
    hint = "" if why else " (this version cannot tell whether an earlier one made it)"
    told = f"{path} {why or 'was not made by this command'} and is not overwritten"
    return DiffIMLError(f"{told}; choose another folder, or move that file{hint}")


def digest_of_start(path: str | Path, length: int) -> str:
    """The SHA-256 of the first `length` bytes, or of as many as the file has by its size: some of /proc never end."""
    digest = sha256()
    with open(path, "rb") as file:
        length = min(length, os.fstat(file.fileno()).st_size)
        while length > 0 and (chunk := file.read(min(length, 1 << 20))):
            digest.update(chunk)
            length -= len(chunk)
    return digest.hexdigest()


def _line(content: Mapping[str, Any]) -> bytes:
    return f"\n{json.dumps(content, default=str)}\n".encode()  # the line before may be cut off
