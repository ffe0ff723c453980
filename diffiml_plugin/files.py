"""Files that a run leaves behind: each is written beside its place, then takes it in one step."""

import io
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.folders import half_written, lost_claim, probe, require_claims_held
from diffiml_plugin.ledger import Appended, digest_of_start, enter, ledger_of
from diffiml_plugin.stored import shown

if TYPE_CHECKING:  # `--help` says nothing with these
    import numpy as np

_LONGEST_NAME = 255  # bytes that file systems take
# Files that were not there when this process began: the SHA-256 of what it has written since, "" before.
_FREE: dict[str, str] = {}
_PERHAPS_DONE: set[str] = set()  # files that were, and may be what it is to write


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
    if os.path.lexists(path):
        _PERHAPS_DONE.add(os.path.abspath(path))
    else:
        _FREE[os.path.abspath(path)] = ""


def _there_already(path: str | Path) -> DiffIMLError:
    return DiffIMLError(f"{path} is there already and is not overwritten; name another file, or move that")


def require_writable(path: str | Path) -> None:
    """Raises DiffIMLError if no file can be written at `path`."""
    path = Path(path)
    if path.is_dir():
        raise DiffIMLError(f"{path} is a folder; name a file in it")
    try:
        probe(path.parent)
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
        make_place(path)
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
    make_place(path)
    with replacing(path, lasting=False) as file:
        file.write(encoded.getbuffer())


def make_place(path: Path) -> None:
    """Makes the folder of a file, but no claimed one that is gone."""
    require_claims_held(path)
    path.parent.mkdir(parents=True, exist_ok=True)


def beginning(name: str) -> str:
    """`name`, cut to 200 bytes where it is longer: file systems take 255, and an ending is to follow."""
    return os.fsencode(name)[:200].decode(errors="ignore") if len(os.fsencode(name)) > 200 else name


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
    return digest_of_start(path, sys.maxsize)


def require_unchanged(path: str | Path, digest: str) -> None:
    """Raises DiffIMLError if a file is no longer the one of that digest, as a training beside may have replaced it."""
    if file_digest(path) != digest:
        raise DiffIMLError(f"{path} was replaced while it was in use; start again, or use a copy of it")


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
    require_claims_held(path)
    if ledger := ledger_of(path):
        ledger.require_own(path)
    temporary = half_written(path)
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
        require_claims_held(path)
        if ledger:
            ledger.require_own(path)  # another process may have written there meanwhile
        with suppress(FileNotFoundError):
            if not path.is_symlink():
                os.chmod(temporary, stat.S_IMODE(os.stat(path).st_mode))  # what others could not read they cannot now
        enter(path, temporary, lasting=lasting)
        key = os.path.abspath(path)
        guarded = key in _FREE or key in _PERHAPS_DONE
        digest = file_digest(temporary) if guarded else ""
        as_left = key not in _FREE or (os.path.isfile(path) and file_digest(path) == _FREE[key])
        place = path if as_left else reserved(path)
        os.replace(temporary, place)
        if place != path:
            raise DiffIMLError(
                f"{path} was written by another process meanwhile and is not overwritten; this result is {place}"
            )
        if guarded:
            _FREE[key] = digest
            _PERHAPS_DONE.discard(key)
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
        DiffIMLError: as `replacing`; another file took its place meanwhile.
    """
    if not os.path.lexists(path):
        with replacing(path, lasting=False):  # entered before it is there
            pass
    require_claims_held(path)
    if ledger := ledger_of(path):
        ledger.require_own(path)
    with Appended(path) as file:
        enter(path, path, grows=True)
        try:
            yield file
        except BaseException:
            if not lost_claim(path) and file.is_in_place():
                enter(path, path)
            raise
        require_claims_held(path)
        file.require_in_place()
        enter(path, path)
