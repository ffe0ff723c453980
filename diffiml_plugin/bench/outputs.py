"""Folders and text files that a run leaves behind."""

import os
from pathlib import Path

from diffiml_plugin.errors import DiffIMLError


def make_folder(path: str | Path) -> Path:
    """Makes the folder of `--output_dir`. Raises DiffIMLError if nothing can be written there."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise DiffIMLError(f"cannot write to {folder}: {error.strerror}; choose another --output_dir") from error
    return folder


def write_text(path: Path, text: str) -> None:
    """Writes a file so that it is at any moment the old one or the whole new one.

    Raises:
        DiffIMLError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise DiffIMLError(f"cannot write {path}: {error.strerror}; free some space or choose another "
                           "--output_dir") from error
