"""`benco datasets prepare`: a JSON list of a downloaded dataset; masks that need it are corrected, as copies."""

import csv
import json
import os
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from diffiml_plugin.data.examined import in_parallel
from diffiml_plugin.data.faults import examine
from diffiml_plugin.data.images import SUFFIXES, read_image
from diffiml_plugin.data.lists import NEGATIVE, read_list, repeated
from diffiml_plugin.datasets.catalogue import (
    FRAMEWORK_LAYOUTS,
    NAMES,
    DatasetEntry,
    DatasetVariant,
    known_entry,
    known_variant,
)
from diffiml_plugin.datasets.layouts import Files, Found, MaskReader, layout_of, read_levels
from diffiml_plugin.errors import DiffIMLError, nearest
from diffiml_plugin.files import beginning, inside, write_picture, write_text

# Told by `check`; a copy would not be better.
_USABLE = ("EXIF", "orientation", "16-bit", "inverted", "empty", "grey region")
_LOG = "changes.txt"  # in the folder of corrected masks, which it marks as made here
_MASK = re.compile(r"mask|segmentation|ground.?truth|(^|[/_ -])gt\d*([/_. -]|$)", re.IGNORECASE)  # in a path


@dataclass(frozen=True)
class Prepared:
    """`output` is the list, `log` the file that names each change; the counts are of images in the list.

    `empty`: tampered images whose mask is all black, so that they count as authentic.
    """

    output: Path
    log: Path
    authentic: int
    tampered: int
    corrected: int
    empty: int
    left_out: int


class _Mended(NamedTuple):
    """The mask to use, None to leave the pair out, and what to log."""

    mask: str | None
    note: str = ""
    empty: bool = False


def folders_of(name: str, root: Path) -> list[Path]:
    """The folders directly in `root` that carry a dataset's name, or another one in use for it.

    Raises:
        DiffIMLError: `root` is no folder.
    """
    if not root.is_dir():
        raise DiffIMLError(f"--root {root} is no folder; expected that of {name}, or one that holds it")
    entry = known_entry(name)
    names = {word.lower() for word in (entry.names if entry else (name,))}
    return [folder for folder in sorted(root.iterdir()) if folder.name.lower() in names and folder.is_dir()]


def prepare(name: str, root: Path, output: Path | None = None, tampered_only: bool = False) -> Prepared:
    """Finds a dataset's pairs and writes `[[image, mask | "Negative"], ...]` with absolute paths.

    No file below `root` is changed. Masks that the framework would misread are binarised and resized to their image
    (nearest neighbour) as PNG files in a folder beside the list, called as the list with `_masks`; images that a
    variant shrinks are in another, with `_images`. A pair that stands there twice is listed once; what is wrong with
    a file leaves its pair out, and has its line in the log.

    Args:
        name: in the catalogue, a variant there, or any other for a dataset that is in one of the framework's forms.
        root: the dataset's folder, or one that holds it; folders in it that carry another dataset's name are not read.
        output: the list (`root/NAME.json`, of tampered images only `root/NAME_tampered.json`).
        tampered_only: leave authentic images out.

    Raises:
        DiffIMLError: no known layout there, or one whose images and masks do not pair up; nothing to list; a list
            or a folder in the way; masks or other datasets beside one whose images are all authentic.
    """
    variant = known_variant(name)
    entry = known_entry(variant.of if variant else name)
    name = variant.name if variant else entry.name if entry else name
    if Path(name).name != name:
        raise DiffIMLError(f"{name!r} is no name of a dataset but a path; name it, and give its folder by --root")
    output = Path(os.path.abspath(output or root / f"{name}{'_tampered' if tampered_only else ''}.json"))
    cache, images = _masks_of(output), _beside(output, "images")
    _require_own(output, cache, images)
    root = Path(os.path.abspath(root))

    # 1. The pairs: in the folder of that name, else anywhere below.
    for place in (*folders_of(name, root), *folders_of(entry.name if entry else name, root), root):
        found, reader = _find(entry, place, *_files(place, {output, cache, images}, entry), variant)
        if found.pairs:
            break
    else:
        hint = "" if entry else nearest(name, NAMES)
        forms = (entry.layout, *FRAMEWORK_LAYOUTS) if entry else FRAMEWORK_LAYOUTS
        raise DiffIMLError(f"{root} holds {name} in no known layout{hint}; expected {'; or '.join(forms)}")

    if tampered_only:
        found.pairs = [(image, mask) for image, mask in found.pairs if mask != NEGATIVE]
        if not found.pairs:
            raise DiffIMLError(f"{root} holds no tampered images of {name}; leave out --tampered_only")

    again = repeated(found.pairs)
    notes = [f"left out: {found.pairs[number][0]}: listed before" for number in sorted(again)]
    pairs = [pair for number, pair in enumerate(found.pairs) if number not in again]

    # 2. The masks.
    write_text(cache / _LOG, "")  # from here on, the folder is known as made here
    mended: list[_Mended] = list(in_parallel(lambda pair: _mend(*pair, reader, _copy_of(*pair, cache)), pairs, name))
    records: list[tuple[str, str]] = [
        (image, use.mask) for (image, _), use in zip(pairs, mended, strict=True) if use.mask
    ]
    notes += [f"left out: {line}" for line in found.left_out] + found.misnamed
    notes += [use.note for use in mended if use.note]
    if not records:
        raise DiffIMLError(f"no pair of {name} in {root} can be used; the first of {len(notes)}: {notes[0]}")
    if variant and (side := variant.longest_side):

        def smaller(record: tuple[str, str]) -> tuple[str, str] | str:
            try:
                return _shrunk(*record, side, *(_copy_of(*record, folder) for folder in (images, cache)))
            except OSError:  # of writing
                raise
            except Exception as error:  # of this one file, whatever it is
                return f"left out: {record[0]}: {error}"

        shrunk = list(zip(records, in_parallel(smaller, records, name), strict=True))
        notes += [made for _, made in shrunk if isinstance(made, str)]
        pairs_made = [(old, new) for old, new in shrunk if not isinstance(new, str)]
        notes += [f"{old[0]}: shrunk to {side} pixels -> {new[0]}" for old, new in pairs_made if new[0] != old[0]]
        records = [new for _, new in pairs_made]

    # 3. The list and the log.
    write_text(cache / _LOG, "".join(f"{note}\n" for note in notes))
    write_text(output, "[\n" + ",\n".join(json.dumps(record) for record in records) + "\n]\n")
    authentic = sum(mask == NEGATIVE for _, mask in records)
    corrected = sum(use.mask not in (None, mask) for (_, mask), use in zip(pairs, mended, strict=True))
    empty = sum(use.empty for use in mended)
    left_out = len(found.left_out) + len(found.pairs) - len(records)
    return Prepared(output, cache / _LOG, authentic, len(records) - authentic, corrected, empty, left_out)


def _beside(output: Path, what: str) -> Path:
    return output.with_name(f"{output.name.removesuffix('.json')}_{what}")


def _masks_of(output: Path) -> Path:
    """The folder of corrected masks and of the log, beside a list that this command made."""
    return _beside(output, "masks")


def _require_own(output: Path, *folders: Path) -> None:
    """Raises DiffIMLError if the list or a folder beside it is there, and was not made by this command."""
    if not (_masks_of(output) / _LOG).exists():
        for place in (output, *(folder for folder in folders if folder.is_dir() and any(folder.iterdir()))):
            if os.path.lexists(place):
                raise DiffIMLError(
                    f"{place} was not made by this command and is not overwritten; choose another --output"
                )


def _files(folder: Path, skip: set[Path], entry: DatasetEntry | None) -> tuple[Files, list[Path]]:
    """All files below `folder`, and the folders with another dataset's name, which are not looked into."""
    files, others = [], []
    for place, folders, names in os.walk(folder, followlinks=True):
        others += [Path(place, name) for name in folders if known_entry(name) not in (None, entry)]
        unread = {*skip, *others}
        folders[:] = [name for name in folders if not name.startswith(".") and Path(place, name) not in unread]
        files += [Path(place, name) for name in names if not name.startswith(".") and Path(place, name) not in unread]
    return dict.fromkeys(sorted(files)), others


def _find(
    entry: DatasetEntry | None, root: Path, files: Files, others: list[Path], variant: DatasetVariant | None
) -> tuple[Found, MaskReader | None]:
    """The original download, with its masks' reader, else the framework's folder, else the one JSON list in `root`.

    Only the original tells the parts of a dataset apart.
    """
    if entry and not entry.tampered:
        strangers = others + [
            file
            for file in files
            if file.suffix.lower() in (*SUFFIXES, ".npz") and _MASK.search(file.relative_to(root).as_posix())
        ]
        if strangers:
            raise DiffIMLError(
                f"{root} holds {strangers[0].relative_to(root)}, but all images of {entry.name} are "
                f"authentic; call their own folder {entry.name}, or pass it as --root"
            )
    if entry:
        part = variant.part if variant else ""
        layout = layout_of(entry.name, part)
        try:
            found = layout.find(files)
        except (csv.Error, IndexError, KeyError, ValueError) as error:
            raise DiffIMLError(
                f"a list of {entry.name} in {root} is not as its authors made it ({type(error).__name__}: {error}); "
                "fetch it again"
            ) from error
        if part or any(mask != NEGATIVE for _, mask in found.pairs) or found.pairs and not entry.tampered:
            return found, layout.read_encoded
    found = Found()
    lists = [
        file
        for file in files
        if file.parent == root and file.suffix.lower() == ".json" and not (_masks_of(file) / _LOG).exists()
    ]  # those were made here
    if (root / "Tp").is_dir() and (root / "Gt").is_dir():
        source = root
        if entry is None or entry.authentic:
            found.add_authentic(file for file in files if file.parent == root / "Au")
    elif len(lists) == 1:
        source = lists[0]
    elif lists:
        raise DiffIMLError(f"{root} holds {len(lists)} JSON files ({lists[0].name}, {lists[1].name} ...); expected one")
    else:
        return found, None
    listed = read_list(source)
    found.pairs[:0] = zip(listed.images, listed.masks, strict=True)
    return found, None


def _copy_of(image: str, mask: str, folder: Path) -> Path:
    """Named after the full paths of both, so that no two pairs share one: NIST16's images share masks, but no size."""
    key = sha256(os.fsencode("\0".join(map(os.path.abspath, (image, mask))))).hexdigest()[:16]
    return inside(folder, f"{beginning(Path(image).stem)}_{key}.png")


def _mend(image: str, mask: str, read_encoded: MaskReader | None, copy: Path) -> _Mended:
    size, faults = examine(image, NEGATIVE if read_encoded else mask)
    note = next((fault.text for fault in faults if fault.kind == "empty"), "")
    faults = [fault for fault in faults if fault.kind not in _USABLE]
    unreadable = next((fault for fault in faults if fault.kind in ("missing", "undecodable")), None)
    if unreadable:
        return _Mended(None, f"left out: {image}: {unreadable.text}")
    if mask == NEGATIVE or not (faults or read_encoded):
        return _Mended(mask, note, empty=bool(note))
    try:
        tampered = (read_encoded or read_levels)(mask)
        height, width = tampered.shape
        changes = ["binarised"]
        if (width, height) != size:
            if (height, width) == size:
                return _Mended(None, f"left out: {image}: {mask} lies on its side ({width}x{height}); turn it by hand")
            tampered = cv2.resize(tampered.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
            changes.append(f"resized from {width}x{height} to {size[0]}x{size[1]}")
    except Exception as error:  # of this one file, whatever it is
        return _Mended(None, f"left out: {image}: {mask} cannot be read ({error})")
    empty = not tampered.any()
    if empty:
        changes.append(f"empty, so {image} counts as authentic")
    write_picture(copy, tampered.astype(np.uint8) * np.uint8(255))
    return _Mended(str(copy), f"{mask}: {', '.join(changes)} -> {copy}", empty)


def _shrunk(image: str, mask: str, longest_side: int, image_copy: Path, mask_copy: Path) -> tuple[str, str]:
    """The pair itself, or PNG copies of it whose longer side has so many pixels."""
    pixels = read_image(Path(image))
    height, width = pixels.shape[:2]
    scale = longest_side / max(height, width)
    if scale >= 1:
        return image, mask
    size = max(1, round(width * scale)), max(1, round(height * scale))
    write_picture(image_copy, cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
    if mask == NEGATIVE:
        return str(image_copy), mask
    tampered = cv2.resize(read_levels(mask).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    write_picture(mask_copy, tampered * np.uint8(255))
    return str(image_copy), str(mask_copy)
