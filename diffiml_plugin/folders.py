"""Folders that a run leaves behind, or keeps things in: whose they are, and what in them is half written."""

import errno
import json
import os
import platform
import re
import shlex
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, cast

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.ledger import not_following
from diffiml_plugin.stored import checked, parse_json

LOCK = ".lock"  # in a folder that a run writes: who it is
_OWNER = {"host": str, "pid": int, "command": str}  # what it says, in this order
_LONGEST_LOCK, _LONGEST_COMMAND = 2**16, 1000  # bytes, characters
_CLAIMED: dict[tuple[int, str], "_Claim"] = {}  # by process, which may have been forked, and folder
# With `_here`, which earlier versions did not write, thread and process.
_HALF_WRITTEN = re.compile(r"\.[0-9a-f]{16}(?:\.([0-9a-f]{8}))?\.(\d+)\.(\d+)\.tmp")
_GIVEN_UP = 86_400  # seconds since anything was written to a file of another computer's process: it has died


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Makes the folder of `--output_dir`. Raises DiffIMLError if nothing can be written there."""
    if not os.fspath(path):  # as of a shell's variable that is not set
        raise DiffIMLError("the folder to write to has an empty name; name one, or `.` for the current folder")
    if os.fspath(path).partition("/")[0] == "~":
        raise DiffIMLError(f"{path} begins with ~, which no shell expands behind a = or in a file; write that out")
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe(folder)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = getattr(error, "strerror", None) or error
        raise DiffIMLError(f"cannot write to {folder}: {reason}; choose another --output_dir") from error
    return folder


def user_cache(name: str) -> Path | None:
    """A folder of the user's own, in which nobody else may write, for what is kept from run to run; None where there
    can be none."""
    for place in filter(os.path.isabs, (os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache"))):
        ours = Path(place, "diffiml_plugin")
        with suppress(OSError):
            for folder in (ours, ours / name):
                folder.mkdir(parents=True, exist_ok=True)
                if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
                    break
                folder.chmod(0o700)
            else:
                probe(ours / name)
                return ours / name
    return None


def probe(folder: Path) -> None:
    """Raises OSError if no file can be made in the folder."""
    tempfile.TemporaryFile(dir=folder).close()


@dataclass(eq=False)
class _Claim:
    """Of a folder, by the name that it had then."""

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
    place, claim = (os.getpid(), os.path.realpath(folder)), _Claim(folder.absolute())
    if _CLAIMED.setdefault(place, claim) is not claim:  # the system's lock is any thread's, and would end with this
        raise DiffIMLError(f"{folder} is in use by this process; wait until that ends, or write elsewhere")
    try:
        claim.lock = lock = _lock(folder)
        remove_half_written(folder.iterdir())
        try:
            yield folder
        finally:
            lost = claim.is_lost()
            if not lost:
                (claim.folder / LOCK).unlink(missing_ok=True)
            lock.close()
            new &= not lost
    finally:
        del _CLAIMED[place]
        if new:
            with suppress(OSError):  # of a folder that holds something
                claim.folder.rmdir()


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


def half_written(path: Path) -> Path:
    """Where this thread writes `path` until it is whole: in the same folder, so that the renaming is atomic."""
    name = sha256(os.fsencode(path.name)).hexdigest()[:16]  # `path`'s own may be as long as a name can be
    return path.with_name(f".{name}.{_here()}.{threading.get_ident()}.{os.getpid()}.tmp")


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
    """A locked file that names this process. One of that name is removed where a process left it that died; what this
    command did not make is not touched."""
    path = folder / LOCK
    while True:
        try:
            return _new_lock(path)
        except FileExistsError:
            pass
        except OSError as error:
            raise DiffIMLError(f"{folder} cannot be claimed by {path}: {error.strerror or error}") from error
        try:
            with open(path, "r+b", opener=not_following) as file:
                _require_left(folder, file)
                if os.path.samestat(os.lstat(path), os.fstat(file.fileno())):
                    path.unlink()
        except FileNotFoundError:
            continue  # the one before has just removed it
        except OSError as error:
            hint = "remove that file"
            raise DiffIMLError(f"{folder} cannot be claimed by {path}: {error.strerror or error}; {hint}") from error


def _require_left(folder: Path, file: BinaryIO) -> None:
    """Raises DiffIMLError unless the file is a lock that this command left there; locks it."""
    path, owner = folder / LOCK, _owner(file)
    if owner is None:
        raise DiffIMLError(
            f"{path} is empty or not of this command, whose lock goes there; choose another folder, or move that file"
        )
    if not _locked(file, owner):
        raise DiffIMLError(
            f"{folder} is in use by process {owner['pid']} on {owner['host']} ({owner['command']}); "
            f"wait until that ends, or write elsewhere (if it died long ago, remove {path})"
        )


def _new_lock(path: Path) -> BinaryIO:
    """Raises FileExistsError if there is one. It gets its name when it is whole: none is ever found empty."""
    draft = half_written(path)
    try:
        file = _written_lock(draft, "w+b")
        try:
            os.link(draft, path)
            if not os.path.samestat(os.stat(path), os.fstat(file.fileno())):  # of sshfs each name is a file of its own
                path.unlink()
                raise OSError(errno.ENOTSUP, "no two names of one file")
        except FileExistsError:
            file.close()
            raise
        except OSError:  # a file system without such links
            file.close()
            return _written_lock(path, "x+b")
        return file
    finally:
        draft.unlink(missing_ok=True)


def _written_lock(path: Path, mode: str) -> BinaryIO:
    owner = {"host": platform.node(), "pid": os.getpid(), "command": shlex.join(sys.argv)[:_LONGEST_COMMAND]}
    file = cast(BinaryIO, open(path, mode, opener=not_following))
    try:
        _locked(file, owner)
        file.write(json.dumps(owner).encode())
        file.flush()
    except BaseException:  # as of a full disk
        path.unlink()
        file.close()
        raise
    return file


def lost_claim(path: Path) -> Path | None:
    """The folder around `path` that this process claimed, if it was moved away or replaced since."""
    absolute, place = path.absolute(), Path(os.path.realpath(path.parent))
    for (process, folder), claim in list(_CLAIMED.items()):
        around = absolute.is_relative_to(claim.folder) or place.is_relative_to(folder)
        if process == os.getpid() and around and claim.is_lost():
            return claim.folder
    return None


def require_claims_held(path: Path) -> None:
    """Raises DiffIMLError if there is a `lost_claim`."""
    if folder := lost_claim(path):
        raise DiffIMLError(
            f"{folder}, or its {LOCK}, was moved, removed or replaced while this command wrote there; nothing more is "
            "written; start again, and leave the folder in its place"
        )


def _locked(file: BinaryIO, owner: Mapping[str, Any]) -> bool:
    """Whether this process could lock it; the system unlocks it when the process ends, and tells all hosts."""
    try:
        import fcntl  # not on Windows

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError) as error:
        if getattr(error, "errno", None) in (errno.EACCES, errno.EAGAIN):
            return False
        return not _lives(owner)  # a file system without locks
    return True


def _owner(file: BinaryIO) -> dict[str, Any] | None:
    """Whom a lock names; None of a file that is not exactly as this command, or an earlier version, writes it."""
    content = file.read(_LONGEST_LOCK)
    try:
        owner = checked(parse_json(content.decode(), LOCK), _OWNER, LOCK)
    except (DiffIMLError, UnicodeDecodeError):
        return None
    return owner if list(owner) == list(_OWNER) and json.dumps(owner).encode() == content else None


def _lives(owner: Mapping[str, Any]) -> bool:
    """Whether the process is running, as far as this host can tell."""
    return owner["host"] != platform.node() or _runs(owner["pid"])


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OverflowError, PermissionError):
        pass
    return True
