"""Folders and files that a run leaves behind: each is written beside its place, then takes it in one step."""

import atexit
import errno
import io
import json
import os
import platform
import re
import shlex
import shutil
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from diffiml_plugin.errors import DiffIMLError, visible
from diffiml_plugin.ledger import Appended, enter, ledger_of, not_following
from diffiml_plugin.stored import shown

if TYPE_CHECKING:  # `--help` says nothing with these
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Makes the folder of `--output_dir`. Raises DiffIMLError if nothing can be written there."""
    if not os.fspath(path):  # as of a shell's variable that is not set
        raise DiffIMLError("the folder to write to has an empty name; name one, or `.` for the current folder")
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _probe(folder)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = getattr(error, "strerror", None) or error
        raise DiffIMLError(f"cannot write to {folder}: {reason}; choose another --output_dir") from error
    return folder


def user_cache(name: str) -> Path:
    """A folder for what is kept from run to run, in which nobody else writes: of the user's own, made where it is
    missing, or where none can be made, of this process alone."""
    for place in filter(os.path.isabs, (os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache"))):
        with suppress(OSError):
            folder = Path(place, "diffiml_plugin", name)
            folder.mkdir(0o700, parents=True, exist_ok=True)
            _probe(folder)
            return folder
    folder = _of_this_process() / name
    folder.mkdir(exist_ok=True)
    return folder


@cache
def _of_this_process() -> Path:
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


LOCK = ".lock"  # in a folder that a run writes: who it is
_LONGEST_LOCK = 2**16  # bytes
_LONGEST_NAME = 255  # bytes that file systems take
_CLAIMED: dict[tuple[int, str], "_Claim"] = {}  # by process, which may have been forked, and folder
_FREE: set[str] = set()  # files that were not there when this process began, and that it has not written yet
_PERHAPS_DONE: set[str] = set()  # files that were, and may be what it is to write
# With `_here`, which earlier versions did not write, thread and process.
_HALF_WRITTEN = re.compile(r"\.[0-9a-f]{16}(?:\.([0-9a-f]{8}))?\.(\d+)\.(\d+)\.tmp")
_GIVEN_UP = 86_400  # seconds since anything was written to a file of another computer's process: it has died


@dataclass(eq=False)
class _Claim:
    """Of a folder, by the absolute name that it had then."""

    folder: Path
    lock: BinaryIO | None = None  # once it is locked

    def is_lost(self) -> bool:
        """Whether the folder of that name is another by now, or none."""
        if self.lock is None:
            return False
        with suppress(OSError):  # without a look inside: to close the file once more would end the system's lock
            return not os.path.samestat(os.stat(self.folder / LOCK), os.fstat(self.lock.fileno()))
        return True


@contextmanager
def claimed(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder, made where it is missing, in which this thread alone writes until the block ends.

    The claim ends with the process, however that ends. What a process that died left half written is removed, one of
    another computer after a day, and a folder that was made and stays empty.

    A folder that is moved away inside, or a link that is set anew, is noticed before the next file (`replacing`).

    Raises:
        DiffIMLError: nothing can be written there, or another process has claimed it, which is named, or this one.
    """
    new = not os.path.exists(path)
    folder = make_folder(path)
    place, claim = (os.getpid(), os.path.realpath(folder)), _Claim(Path(os.path.abspath(folder)))
    if _CLAIMED.setdefault(place, claim) is not claim:  # the system's lock is any thread's, and would end with this
        raise DiffIMLError(f"{folder} is in use by this process; wait until that ends, or write elsewhere")
    try:
        claim.lock = lock = _lock(folder)
        remove_half_written(folder.iterdir())
        try:
            yield folder
        finally:
            if not claim.is_lost():
                (folder / LOCK).unlink()
            lock.close()
    finally:
        del _CLAIMED[place]
        if new:
            with suppress(OSError):  # of a folder that holds something
                folder.rmdir()


@contextmanager
def taking_turns(folder: Path) -> Iterator[None]:
    """Inside, no other process takes its turn in that folder, which is made if it is not there. Where a file system has
    no such locks, nobody waits.
    """
    with ExitStack() as stack:
        with suppress(ImportError, OSError):
            import fcntl  # not on Windows

            folder.mkdir(parents=True, exist_ok=True)
            place = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, place)
            fcntl.flock(place, fcntl.LOCK_EX)
            stack.callback(fcntl.flock, place, fcntl.LOCK_UN)  # a process that was forked inside has it open too
        yield


def remove_half_written(files: Iterable[Path]) -> None:
    """Removes those that a process which died left half written; what is others', or of one that is running, stays."""
    for file in list(files):
        if (named := _HALF_WRITTEN.fullmatch(file.name)) and _is_given_up(file, named[1], int(named[2]), int(named[3])):
            file.unlink(missing_ok=True)


def _is_given_up(file: Path, computer: str | None, thread: int, process: int) -> bool:
    if computer != _here():
        with suppress(FileNotFoundError):
            return time.time() - file.stat().st_mtime > _GIVEN_UP
    if process == os.getpid():  # or one that died and had this number
        return thread not in {one.ident for one in threading.enumerate()} - {threading.get_ident()}
    return not _runs(process)


@cache
def _here() -> str:
    """Stands for what numbers processes: this computer, and the container in it."""
    with suppress(OSError):
        return sha256(f"{platform.node()} {os.readlink('/proc/self/ns/pid')}".encode()).hexdigest()[:8]  # Linux
    return sha256(platform.node().encode()).hexdigest()[:8]


def _lock(folder: Path) -> BinaryIO:
    """A locked file that names this process."""
    path = folder / LOCK
    while True:
        try:
            file = open(path, "a+b", opener=not_following)
        except OSError as error:
            raise DiffIMLError(f"{folder} cannot be claimed by {path}: {error.strerror}; remove that file") from error
        if not _locked(file):
            owner = _owner(file)
            file.close()
            raise DiffIMLError(
                f"{folder} is in use by process {owner.get('pid')} on {owner.get('host')} ({owner.get('command')}); "
                f"wait until that ends, or write elsewhere (if it died long ago, remove {path})"
            )
        with suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                break
        file.close()  # the one before has just removed it
    status = os.fstat(file.fileno())
    if status.st_nlink > 1 or status.st_size and not {"host", "pid"} <= _owner(file).keys():
        file.close()
        raise DiffIMLError(f"{path} is another program's, where a lock goes; choose another folder, or move that file")
    owner = {"host": platform.node(), "pid": os.getpid(), "command": shlex.join(sys.argv)}
    file.truncate(0)
    file.write(json.dumps(owner).encode())
    file.flush()
    return file


def _require_claims_held(path: Path) -> None:
    """Raises DiffIMLError if this process claimed a folder around `path`, and there is another now, or none."""
    absolute = Path(os.path.abspath(path))
    for (process, _), claim in list(_CLAIMED.items()):
        if process == os.getpid() and absolute.is_relative_to(claim.folder) and claim.is_lost():
            raise DiffIMLError(
                f"{claim.folder} was moved, removed or replaced while this command wrote there; nothing more is "
                "written; start again, and leave the folder in its place"
            )


def _locked(file: BinaryIO) -> bool:
    """Whether this process could lock it; the system unlocks it when the process ends, and tells all hosts."""
    try:
        import fcntl  # not on Windows

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError) as error:
        if getattr(error, "errno", None) in (errno.EACCES, errno.EAGAIN):
            return False
        return not (owner := _owner(file)) or not _lives(owner)  # a file system without locks
    return True


def _owner(file: BinaryIO) -> dict[str, Any]:
    file.seek(0)
    try:
        return dict(json.loads(file.read(_LONGEST_LOCK)))
    except (ValueError, TypeError, RecursionError):  # none has written it yet
        return {}


def _lives(owner: dict[str, Any]) -> bool:
    """Whether the process is running, as far as this host can tell."""
    return owner.get("host") != platform.node() or _runs(owner.get("pid"))


def _runs(process: Any) -> bool:
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (TypeError, ValueError, OverflowError, PermissionError):
        pass
    return True


def require_free(path: str | Path, suffix: str = "", perhaps_done: bool = False) -> None:
    """For before the work whose result goes to a file that is named on the command line.

    Args:
        perhaps_done: what is there may be the very result, of a run that was killed later: `replacing` compares them.

    Raises:
        DiffIMLError: `path` does not end in `suffix`; there is something at `path`, or no file can be written there.
    """
    if not str(path).endswith(suffix):
        raise DiffIMLError(f"{path} is no {suffix} file; name one")
    require_writable(path)
    if os.path.lexists(path) and not perhaps_done:
        raise _there_already(path)
    (_PERHAPS_DONE if os.path.lexists(path) else _FREE).add(os.path.abspath(path))


def _there_already(path: str | Path) -> DiffIMLError:
    return DiffIMLError(f"{path} is there already and is not overwritten; name another file, or move that")


def require_writable(path: str | Path) -> None:
    """Raises DiffIMLError if no file can be written at `path`."""
    path = Path(path)
    if path.is_dir():
        raise DiffIMLError(f"{path} is a folder; name a file in it")
    try:
        _probe(path.parent)
    except OSError as error:
        raise DiffIMLError(
            f"cannot write {path}: {path.parent}: {error.strerror}; make that folder, or choose another file"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Writes a file so that it is at any moment the old one or the whole new one.

    Raises:
        DiffIMLError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(text.encode(errors="backslashreplace"))  # a file's name need not be UTF-8
    except OSError as error:
        raise DiffIMLError(f"cannot write {path}: {error.strerror}; free some space or choose another place") from error


def write_picture(path: Path, pixels: "np.ndarray", **options: Any) -> None:
    """Writes `pixels` [H, W] or [H, W, 3] uint8 in the format of the suffix, as `replacing` does; makes its folder.

    Args:
        options: as Pillow's `save` takes them.

    Raises:
        OSError: it cannot be written.
    """
    from PIL import Image

    encoded = io.BytesIO()  # into a file some of Pillow's encoders write by themselves, and miss that the disk is full
    Image.fromarray(pixels).save(encoded, Image.registered_extensions()[path.suffix.lower()], **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, lasting=False) as file:
        file.write(encoded.getbuffer())


def add_legend(panel: "Axes", **style: Any) -> None:
    """A legend of each line of a panel, whose labels may be names of others' sets and folders: all are shown as they
    are, none as a formula, and none is left out, as matplotlib leaves out what begins with `_`.

    Args:
        style: as `Axes.legend` takes it.
    """
    lines = panel.get_lines()
    texts = panel.legend(lines, list(map(str, range(len(lines)))), **style).get_texts()
    for text, line in zip(texts, lines, strict=True):
        text.set(text=visible(str(line.get_label())), parse_math=False)


@contextmanager
def drawing(path: Path, size: tuple[float, float], dpi: int) -> Iterator["Figure"]:
    """A plot of so many inches, to be drawn inside, and then written as PNG, as `replacing` does; makes its folder.

    It looks as matplotlib draws by itself: a `matplotlibrc`, which may lie in the current folder and be anyone's, could
    have LaTeX run, or hide a curve.

    Raises:
        OSError: it cannot be written.
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context("default"):
        figure = Figure(size)
        yield figure
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, lasting=False) as file:
            figure.savefig(file, format="png", dpi=dpi, bbox_inches="tight")


def beginning(name: str, most: int = 200) -> str:
    """`name`, cut to `most` bytes where it is longer: file systems take 255, and an ending is to follow."""
    return os.fsencode(name)[:most].decode(errors="ignore") if len(os.fsencode(name)) > most else name


def inside(folder: Path, name: str | Path) -> Path:
    """`folder / name`, for a file to be written.

    Raises:
        DiffIMLError: that lies outside of the folder, by `..` or by a link to another one; or no file has such a name.
    """
    path = folder / name
    if part := next((part for part in path.parts if not _is_name(part)), None):
        raise DiffIMLError(
            f"no file can be called {shown(part)}; choose a name of at most {_LONGEST_NAME} bytes of UTF-8, "
            "endings included, without a null character"
        )
    if not (place := path.parent.resolve()).is_relative_to(folder.resolve()):
        raise DiffIMLError(f"{path} lies outside of {folder}, in {place}; choose another folder to write to")
    return path


def _is_name(part: str) -> bool:
    try:
        return "\0" not in part and len(os.fsencode(part)) <= _LONGEST_NAME
    except UnicodeEncodeError:  # half a character
        return False


def file_digest(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def require_unchanged(path: str | Path, digest: str) -> None:
    """Raises DiffIMLError if a file is no longer the one of that digest, as a training beside may have replaced it."""
    if file_digest(path) != digest:
        raise DiffIMLError(f"{path} was replaced while it was in use; start again, or use a copy of it")


def _probe(folder: Path) -> None:
    """Raises OSError if no file can be made in the folder."""
    tempfile.TemporaryFile(dir=folder).close()


@contextmanager
def replacing(path: Path, lasting: bool = True) -> Iterator[BinaryIO]:
    """A file to write, which becomes `path` when the block ends; if that raises, `path` stays as it was.

    A link at `path` is replaced, and what it leads to stays as it was. Who may read a file stays as it was too.

    Args:
        lasting: wait until it is on the disk, so that it outlives a power cut too; a picture need not.

    Raises:
        DiffIMLError: what is there is not of the command that this process began (`ledger.begin`), or was not there
            then (`require_free`); what was written is beside it, under the name that the message says. Or it was there
            and is something else than what was written. Or the folder that was `claimed` is another by now.
    """
    _require_claims_held(path)
    if ledger := ledger_of(path):
        ledger.require_own(path)
    name = sha256(os.fsencode(path.name)).hexdigest()[:16]  # `path`'s own may be as long as a name can be
    # In the same folder, so that the renaming is atomic.
    temporary = path.with_name(f".{name}.{_here()}.{threading.get_ident()}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # of a writer that died, whose number is used again
        with open(temporary, "xb") as file:
            yield file
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        if os.path.abspath(path) in _PERHAPS_DONE and os.path.lexists(path):
            if not os.path.isfile(path) or file_digest(path) != file_digest(temporary):
                raise _there_already(path)
        _require_claims_held(path)
        if ledger:
            ledger.require_own(path)  # another process may have written there meanwhile
        with suppress(FileNotFoundError):
            if not path.is_symlink():
                os.chmod(temporary, stat.S_IMODE(os.stat(path).st_mode))  # what others could not read they cannot now
        enter(path, temporary, lasting=lasting)
        place = reserved(path) if os.path.abspath(path) in _FREE else path
        os.replace(temporary, place)
        if place != path:
            raise DiffIMLError(
                f"{path} was written by another process meanwhile and is not overwritten; this result is {place}"
            )
        for named in (_FREE, _PERHAPS_DONE):
            named.discard(os.path.abspath(path))
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk names none
        raise
    finally:
        temporary.unlink(missing_ok=True)


def reserved(path: Path) -> Path:
    """`path`, or NAME_2 and so on where there is something by now, as an empty file that this process made."""
    place, number = path, 1
    while True:
        try:
            place.open("xb").close()
            return place
        except FileExistsError:
            number += 1
            place = path.with_name(f"{beginning(path.stem)}_{number}{path.suffix}")


@contextmanager
def appending(path: Path) -> Iterator[BinaryIO]:
    """A file to add lines to, made where it is missing; each leaves the process at once.

    Raises:
        DiffIMLError: as `replacing`.
    """
    if not os.path.lexists(path):
        with replacing(path, lasting=False):  # entered before it is there
            pass
    _require_claims_held(path)
    if ledger := ledger_of(path):
        ledger.require_own(path)
    with Appended(path) as file:
        enter(path, path, grows=True)
        try:
            yield file
        finally:
            _require_claims_held(path)
            enter(path, path)
