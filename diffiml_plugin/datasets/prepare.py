"""`benco datasets prepare`: a JSON list of a downloaded dataset; masks that need it are corrected, as copies."""

import csv
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np

from diffiml_plugin.data.examined import digest_of, in_parallel, in_turn, rules, state_here
from diffiml_plugin.data.faults import examine
from diffiml_plugin.data.formats import SUFFIXES
from diffiml_plugin.data.images import read_image
from diffiml_plugin.data.lists import NEGATIVE, read_list, repeated
from diffiml_plugin.datasets import layouts
from diffiml_plugin.datasets.catalogue import (
    FRAMEWORK_LAYOUTS,
    NAMES,
    DatasetEntry,
    DatasetVariant,
    known_entry,
    known_variant,
)
from diffiml_plugin.datasets.layouts import Files, MaskReader, Pairing, layout_of, read_levels
from diffiml_plugin.errors import DiffIMLError, nearest
from diffiml_plugin.files import appending, beginning, inside, write_picture, write_text
from diffiml_plugin.folders import claimed, remove_half_written
from diffiml_plugin.ledger import LEDGER, begin, discard
from diffiml_plugin.stored import checked, parse_json, read_text

# Told by `check`; a copy would not be better.
_USABLE = ("EXIF", "orientation", "several", "16-bit", "inverted", "empty", "grey region")
_LOG = "changes.txt"  # in the folder of corrected masks, which it marks as made here
_UNFINISHED = "unfinished.jsonl"  # beside it, until the list is written: what became of each pair
_LARGEST_UNFINISHED = 2**30  # bytes: some million pairs
_MOST_FOLDERS = 100_000  # of a dataset; a folder that links lead to counts each time
_FIELDS = {"key": str, "image": str, "mask": str | None, "notes": list[str], "corrected": bool, "empty": bool}
_PIXELS, _SHARE = 4, 0.02  # by which a mask, stretched to its image's height, may be wider or narrower
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


@dataclass(frozen=True)
class _Settled:
    """What became of a pair: the image and the mask to list, and what to log. `mask` None: it is left out."""

    image: str
    mask: str | None
    notes: list[str]
    corrected: bool = False
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
    a file leaves its pair out, and has its line in the log, as has each folder of images that no rule takes. Started
    again after an interruption, it goes on.

    Args:
        name: in the catalogue, a variant there, or any other for a dataset that is in one of the framework's forms.
        root: the dataset's folder, or one that holds it; folders in it that carry another dataset's name are not read.
        output: the list (`root/NAME.json`, of tampered images only `root/NAME_tampered.json`).
        tampered_only: leave authentic images out.

    Raises:
        DiffIMLError: no known layout there, or one whose images and masks do not pair up; nothing to list; a list
            or a folder in the way, or in use by another process; masks or other datasets beside one whose images are
            all authentic.
    """
    variant = known_variant(name)
    entry = known_entry(variant.of if variant else name)
    name = variant.name if variant else entry.name if entry else name
    if Path(name).name != name or name == "..":
        raise DiffIMLError(f"{name!r} is no name of a dataset but a path; name it, and give its folder by --root")
    output = Path(os.path.abspath(output or root / f"{name}{'_tampered' if tampered_only else ''}.json"))
    root = Path(os.path.abspath(root))
    of_name = dict.fromkeys([*folders_of(name, root), *folders_of(entry.name if entry else name, root)])
    places = [*of_name, root]
    for folder in (_masks_of(output), _images_of(output)):  # a download may hold links of these names
        inside(output.parent, folder / _LOG)
    with claimed(_masks_of(output)) as masks:
        deciding = {"dataset": name, "root": root, "tampered_only": tampered_only}
        images = _images_of(output)
        copies = (file for folder in (masks, images) for file in folder.glob("[!.]*"))
        begin(masks, "datasets prepare", deciding, [output, *copies], beside=[images])
        remove_half_written(images.glob(".*"))
        return _prepared(name, entry, variant, places, output, tampered_only)


def _prepared(
    name: str,
    entry: DatasetEntry | None,
    variant: DatasetVariant | None,
    places: Sequence[Path],
    output: Path,
    tampered_only: bool,
) -> Prepared:
    """As `prepare`, of the first of `places` that holds the dataset; the last is the root."""
    # 1. The pairs: in the folder of that name, else anywhere below.
    cache, images, root = _masks_of(output), _images_of(output), places[-1]
    for place in places:
        files, others = _files(place, {output, cache, images}, entry)
        pairing, reader = _find(entry, place, files, others, variant)
        if pairing.pairs:
            break
    else:
        hint = "" if entry else nearest(name, NAMES)
        forms = (entry.layout, *FRAMEWORK_LAYOUTS) if entry else FRAMEWORK_LAYOUTS
        raise DiffIMLError(f"{root} holds {name} in no known layout{hint}; expected {'; or '.join(forms)}")

    unread = pairing.unread(files)
    if place != root:
        beside = [other for other in places[:-1] if not other.samefile(place)]
        unread += [f"not read: {other}, because {place} was, which carries the dataset's name too" for other in beside]
    if tampered_only:
        pairing.pairs = [(image, mask) for image, mask in pairing.pairs if mask != NEGATIVE]
        if not pairing.pairs:
            raise DiffIMLError(f"{root} holds no tampered images of {name}; leave out --tampered_only")

    again = repeated(pairing.pairs)
    notes = [f"left out: {image}: listed before" for image in again.values()]
    pairs = [pair for number, pair in enumerate(pairing.pairs) if number not in again]

    # 2. The masks, and smaller images. What an interrupted run was done with stays.
    log, side = cache / _LOG, variant.longest_side if variant else None
    unfinished = _Unfinished(cache / _UNFINISHED, (cache, images), side)
    with unfinished.each_once(lambda image, mask: _settle(image, mask, reader, side, output)) as settle:
        settled = list(in_parallel(in_turn(settle), pairs, name))
    notes += [f"left out: {file}: {reason}" for file, reason in pairing.left_out.items()] + unread + pairing.misnamed
    notes += [note for pair in settled for note in pair.notes]
    records = [(pair.image, pair.mask) for pair in settled if pair.mask]
    if not records:
        raise DiffIMLError(f"no pair of {name} in {root} can be used; the first of {len(notes)}: {notes[0]}")

    # 3. The list and the log.
    write_text(log, "".join(f"{note}\n" for note in notes))
    write_text(output, "[\n" + ",\n".join(json.dumps(record) for record in records) + "\n]\n")
    discard(cache, [cache / _UNFINISHED])
    authentic = sum(mask == NEGATIVE for _, mask in records)
    corrected, empty = sum(pair.corrected for pair in settled), sum(pair.empty for pair in settled)
    left_out = len(pairing.left_out) + len(pairing.pairs) - len(records)
    return Prepared(output, log, authentic, len(records) - authentic, corrected, empty, left_out)


def _masks_of(output: Path) -> Path:
    """The folder of corrected masks and of the log, beside a list that this command made."""
    return output.with_name(f"{output.name.removesuffix('.json')}_masks")


def _images_of(output: Path) -> Path:
    """The folder of images that a variant shrinks."""
    return output.with_name(f"{output.name.removesuffix('.json')}_images")


class _Unfinished:
    """What became of each pair, on the disk the moment it is known, until the list is written.

    Args:
        path: of the file.
        folders: of the copies; a line that names any other is not of this run.
        side: that images are shrunk to, if any.
    """

    def __init__(self, path: Path, folders: tuple[Path, Path], side: int | None):
        self._path, self._folders = path, {str(folder) for folder in folders}
        self._deciding = [rules(__file__, layouts.__file__), side]
        self._known: dict[str, _Settled] = {}
        for line in read_text(path, _LARGEST_UNFINISHED).splitlines() if path.exists() else ():
            with suppress(DiffIMLError, KeyError, TypeError):  # a line that was cut off
                content = checked(parse_json(line, str(path)), _FIELDS, str(path))
                key = content.pop("key")
                self._known[key] = _Settled(**content)

    @contextmanager
    def each_once(self, settle: Callable[[str, str], _Settled]) -> Iterator[Callable[[tuple[str, str]], _Settled]]:
        """`settle`, which is not called for a pair that an interrupted run was done with; runs in any thread."""

        def once(pair: tuple[str, str]) -> _Settled:
            key = self._key(*pair)
            if (known := self._known.get(key)) and self._is_there(known, *pair):
                return known
            settled = settle(*pair)
            file.write(f"\n{json.dumps({'key': key, **asdict(settled)})}\n".encode())  # the one before may be cut off
            return settled

        with appending(self._path) as file:
            yield once

    def _key(self, image: str, mask: str) -> str:
        masks = sorted(map(str, Path(mask).iterdir())) if os.path.isdir(mask) else [mask]
        return digest_of([self._deciding, image, mask, *map(state_here, (image, *masks))])

    def _is_there(self, settled: _Settled, image: str, mask: str) -> bool:
        written = {settled.image, settled.mask} - {image, mask, None}
        return all(os.path.dirname(file) in self._folders and os.path.isfile(file) for file in written if file)


def _files(folder: Path, skip: set[Path], entry: DatasetEntry | None) -> tuple[Files, list[Path]]:
    """All files below `folder`, and the folders with another dataset's name, which are not looked into.

    Raises:
        DiffIMLError: so many folders, links among them, that looking would not end.
    """
    files, others = [], []
    for number, (place, folders, names) in enumerate(os.walk(folder, followlinks=True)):
        if number == _MOST_FOLDERS:
            raise DiffIMLError(f"{folder} holds more than {_MOST_FOLDERS} folders; do links in it lead to each other?")
        folders[:] = [f for f in folders if not _leads_back(Path(place, f)) and not _made_here(Path(place, f))]
        others += [Path(place, name) for name in folders if known_entry(name) not in (None, entry)]
        unread = {*skip, *others}
        folders[:] = [name for name in folders if not name.startswith(".") and Path(place, name) not in unread]
        files += [Path(place, name) for name in names if not name.startswith(".") and Path(place, name) not in unread]
    return dict.fromkeys(sorted(files)), others


def _made_here(folder: Path) -> bool:
    """Whether it holds the corrected masks or smaller images of a list of this command."""
    name = re.sub("_(masks|images)$", "", folder.name)
    return name != folder.name and (folder.with_name(f"{name}_masks") / LEDGER).exists()


def _leads_back(folder: Path) -> bool:
    """Whether it is a link to a folder that it lies in."""
    if not folder.is_symlink():
        return False
    return os.path.realpath(folder) in map(os.path.realpath, folder.parents)


def _find(
    entry: DatasetEntry | None, root: Path, files: Files, others: list[Path], variant: DatasetVariant | None
) -> tuple[Pairing, MaskReader | None]:
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
            pairing = layout.find(files)
        except (csv.Error, IndexError, KeyError, ValueError) as error:
            raise DiffIMLError(
                f"a list of {entry.name} in {root} is not as its authors made it ({type(error).__name__}: {error}); "
                "fetch it again"
            ) from error
        if part or any(mask != NEGATIVE for _, mask in pairing.pairs) or pairing.pairs and not entry.tampered:
            return pairing, layout.read_encoded
    pairing = Pairing()
    lists = [
        file
        for file in files
        if file.parent == root and file.suffix.lower() == ".json" and not (_masks_of(file) / _LOG).exists()
    ]  # those were made here
    if (root / "Tp").is_dir() and (root / "Gt").is_dir():
        source = root
        if entry is None or entry.authentic:
            pairing.pairs += [(str(file), NEGATIVE) for file in files if file.parent == root / "Au"]
    elif len(lists) == 1:
        source = lists[0]
    elif lists:
        raise DiffIMLError(f"{root} holds {len(lists)} JSON files ({lists[0].name}, {lists[1].name} ...); expected one")
    else:
        return pairing, None
    listed = read_list(source)
    pairing.pairs[:0] = zip(listed.images, listed.masks, strict=True)
    return pairing, None


def _copy_of(image: str, mask: str, folder: Path) -> Path:
    """Named after the full paths of both, so that no two pairs share one: NIST16's images share masks, but no size."""
    key = sha256(os.fsencode("\0".join(map(os.path.abspath, (image, mask))))).hexdigest()[:16]
    return inside(folder, f"{beginning(Path(image).stem)}_{key}.png")


def _settle(image: str, mask: str, read_encoded: MaskReader | None, side: int | None, output: Path) -> _Settled:
    """Corrects the mask and shrinks image and mask to a longest side, each where that is due."""
    mended = _mend(image, mask, read_encoded, _copy_of(image, mask, _masks_of(output)))
    if mended.mask is None or side is None:
        return mended
    copies = [_copy_of(image, mended.mask, folder) for folder in (_images_of(output), _masks_of(output))]
    try:
        smaller, its_mask = _shrunk(image, mended.mask, side, *copies)
    except OSError:  # of writing
        raise
    except Exception as error:  # of this one file, whatever it is
        return replace(mended, mask=None, notes=[*mended.notes, f"left out: {image}: {error}"])
    if smaller == image:
        return mended
    shrunk = f"{image}: shrunk to {side} pixels -> {smaller}"
    return replace(mended, image=smaller, mask=its_mask, notes=[*mended.notes, shrunk])


def _mend(image: str, mask: str, read_encoded: MaskReader | None, copy: Path) -> _Settled:
    size, faults = examine(image, NEGATIVE if read_encoded else mask)
    notes = [fault.text for fault in faults if fault.kind == "empty"]
    faults = [fault for fault in faults if fault.kind not in _USABLE]
    unreadable = next((fault for fault in faults if fault.kind in ("missing", "undecodable")), None)
    if unreadable:
        return _Settled(image, None, [f"left out: {image}: {unreadable.text}"])
    if mask == NEGATIVE or not (faults or read_encoded):
        return _Settled(image, mask, notes, empty=bool(notes))
    try:
        tampered = (read_encoded or read_levels)(mask)
        height, width = tampered.shape
        changes = ["binarised"]
        if (width, height) != size:
            if (height, width) == size:
                told = f"left out: {image}: {mask} lies on its side ({width}x{height}); turn it by hand"
                return _Settled(image, None, [told])
            if abs(width * size[1] / height - size[0]) > max(_PIXELS, _SHARE * size[0]):
                told = f"left out: {image}: {mask} has other proportions ({width}x{height}); it is of another picture"
                return _Settled(image, None, [told])
            tampered = cv2.resize(tampered.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
            changes.append(f"resized from {width}x{height} to {size[0]}x{size[1]}")
    except Exception as error:  # of this one file, whatever it is
        return _Settled(image, None, [f"left out: {image}: {mask} cannot be read ({error})"])
    empty = not tampered.any()
    if empty:
        changes.append(f"empty, so {image} counts as authentic")
    write_picture(copy, tampered.astype(np.uint8) * np.uint8(255))
    return _Settled(image, str(copy), [f"{mask}: {', '.join(changes)} -> {copy}"], True, empty)


def _shrunk(image: str, mask: str, longest_side: int, image_copy: Path, mask_copy: Path) -> tuple[str, str]:
    """The pair itself, or PNG copies of it whose longer side has so many pixels. Raises DiffIMLError where no pixel is
    left of its region.
    """
    pixels = read_image(Path(image))
    height, width = pixels.shape[:2]
    scale = longest_side / max(height, width)
    if scale >= 1:
        return image, mask
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if mask != NEGATIVE:
        whole = read_levels(mask).astype(np.uint8)
        tampered = cv2.resize(whole, size, interpolation=cv2.INTER_NEAREST)
        if whole.any() and not tampered.any():
            raise DiffIMLError(f"no pixel of its tampered region is left at {longest_side} pixels")
    write_picture(image_copy, cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
    if mask == NEGATIVE:
        return str(image_copy), mask
    write_picture(mask_copy, tampered * np.uint8(255))
    return str(image_copy), str(mask_copy)
