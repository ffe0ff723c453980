"""Folders and text files that a run leaves behind."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from diffiml_plugin.errors import DiffIMLError


def make_folder(path: str | Path) -> Path:
    """Makes the folder of `--output_dir`. Raises DiffIMLError if nothing can be written there."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _probe(folder)
    except OSError as error:
        raise DiffIMLError(f"cannot write to {folder}: {error.strerror}; choose another --output_dir") from error
    return folder


def require_writable(path: str | Path) -> None:
    """Raises DiffIMLError if no file can be written at `path`; for before the work whose result goes there."""
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
            file.write(text.encode())
    except OSError as error:
        raise DiffIMLError(f"cannot write {path}: {error.strerror}; free some space or choose another place") from error


def _probe(folder: Path) -> None:
    """Raises OSError if no file can be made in the folder."""
    probe = folder / f".probe.{os.getpid()}"
    probe.touch()
    probe.unlink()


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which becomes `path` when the block ends; if that raises, `path` stays as it was."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # same folder: an atomic rename
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
