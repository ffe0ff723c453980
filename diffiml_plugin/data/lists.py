"""Where images and masks are: reads a dataset's folder or JSON into pairs of absolute paths."""

import logging
import os
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.stored import read_json, shown

_logger = logging.getLogger(__name__)
NEGATIVE = "Negative"  # in place of a mask: the image is authentic
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")  # how absolute paths of Windows begin
_VARIABLE = re.compile(r"\$\{?(\w+)")
_LAYOUT = 'expected a folder with Tp/ and Gt/, or a JSON list [[image, mask | "Negative"], ...]'
SYNTH_PREFIX = "synth:"  # --data_path synth:DIR: a stream of tampered photographs
_STREAM = "SyntheticTampering"
_TAKEN = ("", "mean")  # no set's names: the second heads the figures of all sets
_SCRIPT_NAMES = ("ManiDataset", "JsonDataset", _STREAM)  # of a balanced JSON, [[class, path], ...]


@dataclass(frozen=True)
class ImageList:
    """`images[i]` belongs to `masks[i]`, absolute paths or NEGATIVE; `source` is what the user named.

    `kinds[i]` is the manipulation, such as "splice", or "" where the list does not say; () if it says none.
    `digest` is that of the files' bytes, where `check_lists` has looked at them; else empty.
    """

    source: str
    images: tuple[str, ...]
    masks: tuple[str, ...]
    kinds: tuple[str, ...] = ()
    digest: str = field(default="", kw_only=True)


def read_list(path: str | Path) -> ImageList:
    """One dataset: a folder ("Mani" layout) or a JSON list; relative paths are relative to the list.

    An entry of a list may have a third word, the kind of manipulation: [image, mask, "splice"].

    Raises:
        DiffIMLError: missing or empty, not of that form, or images and masks that do not pair up.
    """
    path = _existing(path)
    return _read_folder(path) if path.is_dir() else _from_records(path, _read_json(path))


def read_balanced(path: str | Path) -> list[ImageList | Path] | None:
    """The sets of a balanced JSON, `[["ManiDataset" | "JsonDataset" | "SyntheticTampering", path], ...]`.

    The third is a folder of photographs, to be tampered on the fly. None if the file is no balanced JSON.
    """
    path = _existing(path)
    if path.is_dir():
        return None
    records = _read_json(path)
    if not (isinstance(records, list) and records and all(_is_words(r, 2) and r[0] in _SCRIPT_NAMES for r in records)):
        return None
    places = [(name, Path(_resolve(path, entry))) for name, entry in records]
    return [place if name == _STREAM else read_list(place) for name, place in places]


def read_test_sets(path: str | Path) -> dict[str, ImageList]:
    """The test sets by name: those of a JSON `{name: path}`, or the one that `read_list` accepts.

    A path through a variable, `${DATA_ROOT}/NAME.json`, may be missing, because few hold every set of a protocol; such
    sets are left out, with a warning that names them.

    Raises:
        DiffIMLError: as `read_list`; a path without a variable is missing, or all are.
    """
    path = _existing(path)
    content = None if path.is_dir() else _read_json(path)
    if isinstance(content, dict):
        if not content or not all(isinstance(entry, str) for entry in content.values()):
            raise DiffIMLError(f"{path} does not name datasets; expected {{name: path}}")
        require_names(path, content)
        places = {name: _resolve(path, entry) for name, entry in content.items()}
        if missing := {name: place for name, place in places.items() if not Path(place).exists()}:
            text = ", ".join(f"{name} ({place})" for name, place in missing.items())
            if len(missing) == len(places):
                variables = " and ".join(
                    sorted({name for entry in content.values() for name in _VARIABLE.findall(entry)})
                )
                raise DiffIMLError(f"no dataset of {path} is there: {text}; is {variables or 'each path'} right?")
            for name, place in missing.items():
                if "$" not in content[name]:
                    raise DiffIMLError(f"{name} of {path}, {place}, does not exist; mend the path or remove the entry")
            _logger.warning(f"left out, since not there: {text}")
        return {name: read_list(place) for name, place in places.items() if name not in missing}
    name = set_name(path)
    require_names(path, [name])
    return {name: read_list(path)}


def set_name(path: Path) -> str:
    """What the set of a list or a folder of `read_list` is called."""
    if path.is_dir():
        return path.resolve().name
    return path.absolute().parent.name if path.stem == "list" else path.stem


def require_names(place: str | Path, names: Iterable[str]) -> None:
    """Raises DiffIMLError, which begins with `place`, for a name that no set can have."""
    if taken := [name for name in names if name in _TAKEN]:
        raise DiffIMLError(f"{place}: {taken[0]!r} cannot be a dataset's name; choose another")


def each_once(listed: ImageList, strict: bool = False) -> ImageList:
    """The list without the pairs whose image stands in it again, which would count twice; a warning says how many.

    A copy of a file is another file here; `datasets check` tells of copies.

    Raises:
        DiffIMLError: an image with two masks; any repetition, if `strict`.
    """
    again = repeated(list(zip(listed.images, listed.masks, strict=True)))
    if not again:
        return listed
    told = f"{listed.source} lists {len(again)} images twice, such as {next(iter(again.values()))}"
    if strict:
        raise DiffIMLError(f"{told}; remove those entries, or leave out --strict, which drops them")
    _logger.warning(f"{told}; each counts once")
    return without(listed, again)


def require_other_images(lists: Mapping[str, ImageList], strict: bool = False) -> None:
    """A warning of two sets that are the same images, or share tampered ones, which a mean over sets would count twice.
    Authentic ones may serve several sets.

    Raises:
        DiffIMLError: there are such, if `strict`.
    """
    identities = {name: [*map(file_identity, listed.images)] for name, listed in lists.items()}
    of_sets = {  # all, and the tampered ones
        name: ({*of}, {image for image, mask in zip(of, lists[name].masks, strict=True) if mask != NEGATIVE})
        for name, of in identities.items()
    }
    for (known, (some, tampered)), (name, (others, also_tampered)) in combinations(of_sets.items(), 2):
        shared = tampered & also_tampered
        if shared or some == others:
            same = f"{known} and {name} are the same images"
            told = same if some == others else f"{len(shared)} tampered images of {known} are in {name} too"
            if strict:
                raise DiffIMLError(f"{told}, which a mean counts twice; remove them from one, or leave out --strict")
            _logger.warning(f"{told}, which a mean counts twice; is one of the two paths another set's?")


def without(listed: ImageList, numbers: Container[int]) -> ImageList:
    """The list without its pairs of these numbers."""
    kept = [number for number in range(len(listed.images)) if number not in numbers]
    of_each = (listed.images, listed.masks, listed.kinds)
    return ImageList(listed.source, *(tuple(part[number] for number in kept) if part else () for part in of_each))


def repeated(pairs: Sequence[tuple[str, str]]) -> dict[int, str]:
    """The numbers of the pairs whose image stands in an earlier one, by whatever path; and each image, with that path.

    Raises:
        DiffIMLError: the earlier pair has another mask.
    """
    earlier: dict[object, tuple[str, str]] = {}
    again = {}
    for number, (image, mask) in enumerate(pairs):
        if (file := file_identity(image)) not in earlier:
            earlier[file] = image, mask
            continue
        known, known_mask = earlier[file]
        again[number] = told = with_earlier(image, known)
        if not _same_truth(known_mask, mask):
            raise DiffIMLError(f"{told} is listed with {known_mask} and with {mask}; remove the entry that is wrong")
    return again


def _same_truth(mask: str, other: str) -> bool:
    return mask == other or NEGATIVE not in (mask, other) and file_identity(mask) == file_identity(other)


def file_identity(path: str) -> object:
    """The same for all paths of a file, by symbolic and hard links too, and another for a copy of it. Of a file that is
    not there, its path.
    """
    try:
        status = os.stat(path)
    except OSError:
        return path
    return status.st_dev, status.st_ino


def with_earlier(image: str, known: str) -> str:
    """An image's path and, where it is another, the one that its file was listed by before."""
    return image if image == known else f"{image} (the same file as {known})"


def _read_folder(folder: Path) -> ImageList:
    files = {}
    for part in ("Tp", "Gt"):
        if not (folder / part).is_dir():
            raise DiffIMLError(
                f"{folder} has no {part}/ in it; {_LAYOUT}, which `benco datasets prepare NAME --root "
                "DIR` writes for a dataset as it was downloaded"
            )
        shown = sorted(path for path in (folder / part).iterdir() if not path.name.startswith("."))
        files[part] = [path for path in shown if path.is_file()]
        if inside := [path for path in shown if path.is_dir()]:
            count = sum(len(names) for path in inside for _, _, names in os.walk(path))
            _logger.warning(
                f"{folder / part} holds {len(inside)} folders, such as {inside[0].name}/, whose {count} files are left "
                "out: the framework takes what lies in Tp/ and Gt/ themselves; a JSON list can name others"
            )
        if not files[part]:
            raise DiffIMLError(f"{folder / part} holds no files; {_LAYOUT}")
    if (folder / "Au").is_dir():
        _logger.info(
            f"{folder / 'Au'} is not read: of a folder, the framework takes Tp/ and Gt/ alone; a JSON list, as "
            "`benco datasets prepare` writes it, holds authentic images too"
        )
    pairs = [(str(image.absolute()), str(mask.absolute())) for image, mask in _pair(folder, files["Tp"], files["Gt"])]
    return ImageList(str(folder), *zip(*pairs, strict=True))


def _pair(folder: Path, images: list[Path], masks: list[Path]) -> list[tuple[Path, Path]]:
    """By stems, by what varies in them (1.jpg, 1_gt.png) or by that as a number (img_001.jpg, mask_1.png), whichever
    pairs all; otherwise in order, as the framework does, with a warning.
    """
    for named in (_stems, _cores, _numbers):
        by_name, names = dict(zip(named(masks), masks, strict=True)), named(images)
        if len(images) == len(masks) == len(by_name) and sorted(by_name) == sorted(names):
            return [(file, by_name[name]) for file, name in zip(images, names, strict=True)]

    mend = "add the missing file, remove the other, or give a JSON list that states the pairs"
    for named, least in ((_stems, 0), (_cores, len(images) // 2), (_numbers, len(images) // 2)):
        by_name, names = dict(zip(named(masks), masks, strict=True)), named(images)
        shared = by_name.keys() & names
        if len(shared) <= least:
            continue
        alone = [
            file for file, name in zip([*images, *masks], [*names, *named(masks)], strict=True) if name not in shared
        ]
        if alone:
            missing = "mask" if alone[0].parent.name == "Tp" else "image"
            more = f" ({len(alone) - 1} more without a partner)" if len(alone) > 1 else ""
            raise DiffIMLError(f"{alone[0]} has no {missing} of its name; {mend}{more}")
        raise DiffIMLError(f"{folder} holds {len(images)} images but {len(masks)} masks (a name twice?); {mend}")

    pairs = list(zip(images, masks, strict=False))
    # Where masks are named after their images (x.jpg, x_gt.png), a shift shows in the names.
    strangers = [(image, mask) for image, mask in pairs if not _stands_in(image.stem, mask.stem)]
    named_after = 2 * len(strangers) < len(pairs)
    if strangers and named_after:
        image, mask = strangers[0]
        raise DiffIMLError(f"{image} would be paired with {mask.name}, which is not named after it; {mend}")
    if len(images) != len(masks):
        raise DiffIMLError(f"{folder} holds {len(images)} images but {len(masks)} masks; {mend}")
    if strangers:
        image, mask = strangers[0]
        _logger.warning(
            f"{folder}: the names do not tell which mask is whose; they are paired in order, {image.name} with "
            f"{mask.name} and so on. A JSON list states the pairs"
        )
    return pairs


def _stands_in(stem: str, name: str) -> bool:
    """Whether a name holds a stem as a whole, and not 1 in 12."""
    return re.search(rf"(?<!\d){re.escape(stem)}(?!\d)", name) is not None


def _stems(files: list[Path]) -> list[str]:
    return [file.stem for file in files]


def _cores(files: list[Path]) -> list[str]:
    """The stems without what all of them begin and end with."""
    stems = _stems(files)
    cores = [stem.removeprefix(os.path.commonprefix(stems)) for stem in stems]
    end = len(os.path.commonprefix([core[::-1] for core in cores]))
    return [core[: len(core) - end] for core in cores]


def _numbers(files: list[Path]) -> list[str]:
    """The cores, without the zeros before those that are numbers."""
    return [core.lstrip("0") or "0" if core.isdecimal() else core for core in _cores(files)]


def _from_records(path: Path, records: object) -> ImageList:
    if not isinstance(records, list) or not records:
        raise DiffIMLError(f"{path} holds no pairs; {_LAYOUT}")
    labelled = [record for record in records if isinstance(record, dict) and record.get("label") is not None]
    for entry in labelled:  # of ForensicHub's form of the same list
        _require_label(path, entry)
    if disputed := [entry for entry in labelled if entry["label"] in (0, "0") and _is_mask(entry.get("mask"))]:
        _logger.warning(
            f"{path}: {len(disputed)} entries, such as {shown(disputed[0].get('path'))}, say label 0 and have a mask, "
            "which counts: an image whose mask marks anything is tampered"
        )
    records = [[r["path"], r["mask"]] if isinstance(r, dict) and {"path", "mask"} <= r.keys() else r for r in records]
    for number, record in enumerate(records):
        if not (_is_words(record, 2) or _is_words(record, 3)) or "" in record[:2]:
            raise DiffIMLError(f"{path}: entry {number} is {shown(record)}; {_LAYOUT}")
        if record[0] in _SCRIPT_NAMES:
            raise DiffIMLError(f"{path} lists training sets; expected images, or {{name: path}} of test sets")
    images = tuple(_resolve(path, image) for image, *_ in records)
    masks = tuple(NEGATIVE if _is_negative(mask) else _resolve(path, mask) for _, mask, *_ in records)
    kinds = tuple("".join(rest) for _, _, *rest in records)
    return ImageList(str(path), images, masks, kinds if any(kinds) else ())


def _require_label(path: Path, record: Mapping[str, object]) -> None:
    """Raises DiffIMLError for a label that is neither 0 nor 1, or a 1 without a mask."""
    entry = f"{path}: entry {shown(record.get('path'))}"
    if record["label"] not in (0, 1, "0", "1"):
        raise DiffIMLError(f"{entry} says label {shown(record['label'])}; expected 0 or 1")
    if record["label"] in (1, "1") and _is_negative(record.get("mask")):
        raise DiffIMLError(
            f"{entry} says label 1 and has no mask, so it would count as authentic; give its mask, or leave it out"
        )


def _is_mask(mask: object) -> bool:
    return bool(mask) and not _is_negative(mask)


def _is_negative(mask: object) -> bool:
    return isinstance(mask, str) and mask.lower() == NEGATIVE.lower()


def _is_words(record: object, count: int) -> bool:
    return isinstance(record, list) and len(record) == count and all(isinstance(entry, str) for entry in record)


def _resolve(listing: Path, entry: str) -> str:
    """`${DATA_ROOT}` expanded; relative to the list, but what begins with a variable to the current directory.

    Backslashes of Windows become slashes. A file that has such a name as it is written stays that.

    Raises:
        DiffIMLError: an entry that no path can be on this machine.
    """
    if not _is_path(entry):
        raise DiffIMLError(f"{listing}: {entry!r} is no path of this machine; write it relative to the list's folder")
    if "$" in entry and os.path.exists(path := str(listing.parent.absolute() / entry)):
        return path
    folder = (Path() if entry.startswith("$") else listing.parent).absolute()
    path = str(folder / os.path.expandvars(entry))
    if "\\" in entry and not os.path.exists(path):
        return str(folder / os.path.expandvars(entry.replace("\\", "/")))
    return path


def _is_path(entry: str) -> bool:
    try:
        os.fsencode(entry)
    except UnicodeEncodeError:  # half a character of JSON's, such as "\ud800"
        return False
    return "\0" not in entry and not (os.name != "nt" and _DRIVE.match(entry))


def _existing(path: str | Path) -> Path:
    if not Path(path).exists():
        raise DiffIMLError(f"{path} does not exist; {_LAYOUT}")
    return Path(path)


def _read_json(path: Path) -> object:
    try:
        return read_json(path)
    except DiffIMLError as error:
        raise DiffIMLError(f"{error}; {_LAYOUT}") from error
