"""From the words of a command line to image files, and to a name for what is written of each."""

import codecs
import glob
import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO
from unicodedata import normalize

from diffiml_plugin.data.formats import FORMATS, readable_formats
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.stored import JSON_LIMIT

_logger = logging.getLogger(__name__)
_LIST = "-"
_LONGEST_NAME = 200  # bytes; file systems take 255, and _uncertainty.png is to follow


@dataclass(frozen=True)
class Photos:
    """Image files.

    Attributes:
        files: each with its path relative to the folder it was found in; for a file, its name. Each file once.
        left_out: what else the folders hold, counted by its kind.
    """

    files: list[tuple[Path, Path]]
    left_out: Counter[str]

    def described(self) -> str:
        """What was left out, in one clause; empty if nothing was."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.left_out.most_common())
        heic = any(kind in FORMATS["HEIF"] for kind in self.left_out)
        return kinds + (" (HEIC needs pillow-heif: pip install 'diffiml-plugin[heic]')" if heic else "")


def find_photos(words: Sequence[str], output_dir: Path) -> Photos:
    """The files named, and those with a suffix of `readable_formats` anywhere below the folders named.

    Linked folders are followed, and each folder is entered once. Hidden files and folders are left out, and so is what
    an earlier run wrote into `output_dir`, where that is a folder inside one of those searched.

    Args:
        words: files, folders, patterns (`photos/*.jpg`), or `-`: a list on stdin, one path a line, `#` for comments.

    Returns:
        the photos. Where the relative paths of two are one, all are relative to the folder that holds every file.

    Raises:
        DiffIMLError: an address of the web, a path that does not exist, a pattern that fits nothing, a folder without
            images, or an `output_dir` that would put masks among the images, where NAME_mask.png may be the truth.
    """
    output = _real(output_dir)
    photos: dict[Path, tuple[Path, Path]] = {}
    left_out: Counter[str] = Counter()
    entered = {output}
    for path in _expanded(words):
        if not os.path.isdir(path):  # `Path.is_dir` raises for a name that is too long
            photos.setdefault(_real(path), (path, Path(path.name)))
        elif _real(path) == output:
            raise DiffIMLError(f"--output_dir {output_dir} is the folder of the images; choose another")
        elif _real(path) not in entered:
            inside = Photos([(file, file.relative_to(path)) for file in _below(path, entered, left_out)], left_out)
            if not inside.files:
                raise DiffIMLError(f"{path} holds no image in it or below; it holds {inside.described() or 'nothing'}")
            for file, relative in inside.files:
                photos.setdefault(_real(file), (file, relative))
    if not photos:
        raise DiffIMLError("the list on stdin names no image; write one path a line")
    if len({relative for _, relative in photos.values()}) < len(photos):
        common = os.path.commonpath([place.parent for place in photos])
        photos = {place: (file, place.relative_to(common)) for place, (file, _) in photos.items()}
    if {(output / relative).parent for _, relative in photos.values()} & {place.parent for place in photos}:
        raise DiffIMLError(f"--output_dir {output_dir} would put masks among the images; choose another")
    return Photos(list(photos.values()), left_out)


def _real(path: str | Path) -> Path:
    """The path without links; of a link to itself as it is, of which `Path.resolve` raises RuntimeError."""
    try:
        return Path(os.path.realpath(path))
    except ValueError:  # a null character; no such file
        return Path(path).absolute()


def _expanded(words: Iterable[str]) -> Iterator[Path]:
    """What a list on stdin names need not be there: a line that is wrong does not end a batch."""
    for word in words:
        if word == _LIST:
            yield from _listed(sys.stdin.buffer)
        elif is_address(word):
            raise DiffIMLError(f"{word} is an address; download the photo, and name its file")
        elif os.path.exists(word):
            yield Path(word)
        elif glob.has_magic(word):
            matches = sorted(glob.glob(word, recursive=True))
            if not matches:
                raise DiffIMLError(f"{word} fits no file; expected a pattern such as 'photos/*.jpg'")
            yield from map(Path, matches)
        else:
            raise DiffIMLError(
                f"{word} does not exist; expected an image, a folder of images, a pattern, or - for a list"
            )


def _listed(stdin: BinaryIO) -> Iterator[Path]:
    """A path a line. Backslashes of Windows become slashes, where no file has them in its name."""
    content = stdin.read(JSON_LIMIT + 1)
    if len(content) > JSON_LIMIT:
        raise DiffIMLError(f"the list on stdin has more than {JSON_LIMIT} bytes; split it")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DiffIMLError("the list on stdin is UTF-16, as PowerShell writes it; store it as UTF-8")
    for line in content.removeprefix(codecs.BOM_UTF8).splitlines():
        if line.strip() and not line.lstrip().startswith(b"#"):
            path = os.fsdecode(line if os.path.exists(line) else line.strip())
            yield Path(path if os.path.exists(path) else path.replace("\\", "/"))


def is_address(path: str) -> bool:
    """Whether this is an address of the web; of one that became a path, which has one slash less, too."""
    return bool(re.match(r"[a-z][a-z0-9]+:/", path, re.IGNORECASE)) and not os.path.exists(path)


def _below(folder: Path, entered: set[Path], left_out: Counter[str]) -> Iterator[Path]:
    """The images in `folder` and below, in order; adds to `entered`, which it does not enter again, and `left_out`."""
    suffixes = {suffix for name in readable_formats() for suffix in FORMATS[name]}
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_closed):
        if (real := _real(place)) in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            file, suffix = Path(place, name), os.path.splitext(name)[1].lower()
            if name.startswith("."):
                left_out["hidden"] += 1
            elif suffix not in suffixes:
                left_out[suffix or "without a suffix"] += 1
            elif file.is_file() or file.is_symlink():  # a link that leads nowhere is an image's that is missing
                yield file
            else:
                left_out["no regular files"] += 1


def _closed(error: OSError) -> None:
    _logger.warning(f"{error.filename} cannot be searched: {error.strerror}")


def unique_names(
    relatives: Iterable[Path], taken: Iterable[str] = (), reserved: Iterable[str] = (), endings: tuple[str, ...] = ()
) -> list[Path]:
    """A name for what is written of each image, no two of them alike where upper and lower case are one.

    It is the image's path without its suffix; with it where that is another's too; and numbered where that is not
    enough. One that is too long for a file system is cut, and a digest of it added. A folder never takes the place of
    a file: one that is called like `reserved`, or ends as files of images do, is numbered too.

    Args:
        relatives: no two alike.
        taken: names that are given away.
        reserved: other files and folders that are written.
        endings: of the files of an image, behind its name.
    """
    ours = {name_key(name) for name in reserved}
    whole = [_beside(ours, endings, _shortened(relative)) for relative in relatives]
    stems = Counter(name_key(without_suffix(path)) for path in whole)
    given = {name_key(name) for name in taken}
    others = {name_key(path) for path in whole} | given
    names = []
    for path in whole:
        stem = without_suffix(path)
        name = start = stem if stems[name_key(stem)] == 1 and name_key(stem) not in others else path
        number = 1
        while name_key(name) in given:
            number += 1
            name = start.with_name(f"{start.name}-{number}")
        given.add(name_key(name))
        names.append(name)
    return names


def without_suffix(path: Path) -> Path:
    """With it where nothing but dots would be left, as of `..jpg`: those are names of folders."""
    return path.with_suffix("") if path.stem.strip(".") else path


def _beside(ours: Collection[str], endings: tuple[str, ...], path: Path) -> Path:
    """The path, with -2 behind each folder that would take the place of a file of ours."""
    folders = [
        f"{name}-2" if name_key(name) in ours or name_key(name).endswith(endings) else name for name in path.parts
    ]
    return Path(*folders[:-1], path.name)


def name_key(name: str | Path) -> str:
    """The same for names that a file system may take for one."""
    return normalize("NFC", str(Path(name))).casefold()  # é is one letter, or two code points, by the file system


def _shortened(path: Path) -> Path:
    name = os.fsencode(path.name)
    if len(name) <= _LONGEST_NAME:
        return path
    cut = name[: _LONGEST_NAME - 17].decode(errors="ignore")
    return path.with_name(f"{cut}-{sha256(name).hexdigest()[:16]}{path.suffix[:8]}")
