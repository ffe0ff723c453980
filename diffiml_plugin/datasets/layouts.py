"""Finds image-mask pairs in a dataset as it was downloaded, by the names its authors gave, and reads their masks."""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from diffiml_plugin.data.faults import THRESHOLD, grey_levels, shape_in_alpha
from diffiml_plugin.data.formats import SUFFIXES
from diffiml_plugin.data.images import decoding, refusal
from diffiml_plugin.data.lists import NEGATIVE
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.stored import read_text, require_unzipped

_LARGEST_NPZ = 2**30  # bytes, unpacked: a mask of 32,000 x 32,000 pixels
Files = dict[Path, None]  # an ordered set: absolute paths of all files, sorted
MaskReader = Callable[[str], np.ndarray]  # [H, W] bool, True where tampered


@dataclass
class Pairing:
    """`pairs`: (image, mask or NEGATIVE), absolute paths. `left_out`: of each file that found no partner, why.

    `misnamed`: a line for each pair whose names do not agree.
    """

    pairs: list[tuple[str, str]] = field(default_factory=list)
    left_out: dict[Path, str] = field(default_factory=dict)
    misnamed: list[str] = field(default_factory=list)
    _named: dict[Any, Path] = field(default_factory=dict)

    def add(self, image: Path, mask: Path | None) -> None:
        if mask is None:
            self.left_out[image] = "no mask"
        elif self.is_first(image, image.with_suffix(""), self._named):
            self.pairs.append((str(image), str(mask)))

    def add_authentic(self, images: Iterable[Path]) -> None:
        first = [image for image in images if self.is_first(image, image.with_suffix(""), self._named)]
        self.pairs += [(str(image), NEGATIVE) for image in first]

    def each_name_once(self, files: Iterable[Path]) -> dict[str, Path]:
        """By their names without the suffix; of several files of one name the first, the others are left out."""
        by_name: dict[Any, Path] = {}
        for file in files:
            self.is_first(file, file.stem, by_name)
        return by_name

    def is_first(self, file: Path, name: Any, named: dict[Any, Path]) -> bool:
        """Enters `file`, unless its name, such as that of a converted copy, is taken: then it is left out."""
        if (first := named.setdefault(name, file)) != file:
            self.left_out[file] = f"has the name of {first}, which is taken"
        return first == file

    def unread(self, files: Files) -> list[str]:
        """A line for each folder with images that no rule of the layout takes for anything."""
        used = {path for pair in self.pairs for path in pair} | {str(file) for file in self.left_out}
        rest: dict[Path, list[Path]] = {}
        for file in _images(files):
            if str(file) not in used and str(file.parent) not in used:  # a mask may be a folder
                rest.setdefault(file.parent, []).append(file)
        return [f"not read: {len(some)} images in {folder}, such as {some[0].name}" for folder, some in rest.items()]


@dataclass(frozen=True)
class Layout:
    """How a download is read: `find` pairs its files; `read_encoded` where masks are not brighter where tampered."""

    find: Callable[[Files], Pairing]
    read_encoded: MaskReader | None = None


_LOSSY, _PERHAPS_LOSSY = ("JPEG", "MPO"), ("WEBP", "AVIF", "HEIF", "JPEG2000")
_MOST_CLASSES = 16  # levels of a mask in one of the latter that may each stand for something


def read_levels(path: str) -> np.ndarray:
    """Any mask that is brighter where tampered: black and white, 0 and 1, 16 bits, or shape in the alpha channel.

    A dark one counts from its first level, which may be a class's; one that was compressed with losses from a quarter
    of its highest, because what is below are traces of that.

    Raises:
        ValueError: a dark or coloured mask without any black.
        DiffIMLError: levels that no verb reads.
    """
    with decoding(path) as mask:
        stored_as = mask.format
        if refused := refusal(mask):
            raise DiffIMLError(f"{path} {refused}")
        if mask.mode.startswith("I"):
            levels = np.asarray(mask).astype(float)
            levels *= 255 / 65535 if levels.max() > 255 else 1
        else:
            levels = grey_levels(mask)
            if (opaque := shape_in_alpha(mask, levels)) is not None:
                levels = opaque
    if levels.max() > THRESHOLD:
        return levels > THRESHOLD
    lossy = stored_as in _LOSSY or (stored_as in _PERHAPS_LOSSY and len(np.unique(levels)) > _MOST_CLASSES)
    if levels.min() > (levels.max() / 8 if lossy else 0):
        raise ValueError("it is dark or coloured and has no black; which part is tampered?")
    return levels > (levels.max() / 4 if lossy else 0)


def _casia(prefix: str, digits: int) -> Callable[[Files], Pairing]:
    """`prefix` of tampered images, `digits` of authentic ones' numbers: people keep both versions in one folder."""

    def find(files: Files) -> Pairing:
        pairing = Pairing()
        images: dict[Any, Path] = {}
        masks: dict[Any, Path] = {}
        if any("Modified Tp" in file.parts for file in files):  # CASIAv1 comes twice, misnamed and mended
            files = {file: None for file in files if "Original Tp" not in file.parts}
        of_each_name = pairing.each_name_once(f for f in _images(files) if f.stem.startswith((prefix, "Au_")))
        for file in of_each_name.values():
            ((stem, suffix),) = re.findall(r"^(.+?)(_gt\d*)?$", file.stem)
            if stem.startswith(prefix):
                pairing.is_first(file, stem, masks if suffix else images)
        for stem in images.keys() & masks.keys():
            pairing.add(images.pop(stem), masks.pop(stem))
        masks_by_number = _by_number(masks)
        for number, group in _by_number(images).items():
            partners = masks_by_number.get(number, [])
            for image in group:
                mask = partners[0] if len(group) == len(partners) == 1 else None
                pairing.add(image, mask)
                if mask:
                    pairing.misnamed.append(f"{image}: paired with {mask} by its number {number}")
        pairing.pairs.sort()
        authentic = re.compile(rf"Au_\D+_\d{{{digits}}}")
        pairing.add_authentic(file for name, file in of_each_name.items() if authentic.fullmatch(name))
        return pairing

    return find


def _by_number(files: dict[str, Path]) -> dict[str, list[Path]]:
    """By the digits that end the name: CASIA's authors misspelt what comes before them, once even the underscore."""
    groups: dict[str, list[Path]] = {}
    for stem, file in files.items():
        groups.setdefault(re.findall(r"\d*$", stem)[0], []).append(file)
    return groups


def _coverage(files: Files) -> Pairing:
    pairing = Pairing()
    folders = {file.parent for file in _images(files) if re.fullmatch(r"\d+t", file.stem)}
    ours = (file for file in _images(files) if file.parent in folders or file.stem.endswith("forged"))
    by_stem = pairing.each_name_once(ours)
    for stem, file in by_stem.items():
        if re.fullmatch(r"\d+t", stem):
            pairing.add(file, by_stem.get(f"{stem[:-1]}forged"))
    pairing.add_authentic(file for stem, file in by_stem.items() if stem.isdecimal())
    return pairing


def _columbia(files: Files) -> Pairing:
    pairing = Pairing()
    for file in _images(files, "4cam_splc"):
        pairing.add(file, _present(files, file.parent / "edgemask" / f"{file.stem}_edgemask.jpg"))
    pairing.add_authentic(_images(files, "4cam_auth"))
    return pairing


def _read_columbia(path: str) -> np.ndarray:
    """Green is the spliced part, red the rest, both brighter along the seam."""
    with decoding(path) as mask:
        red, green, _ = np.moveaxis(np.asarray(mask.convert("RGB")).astype(int), 2, 0)
    return (green > red) & (green > 64)


def _nist16(files: Files) -> Pairing:
    pairing = Pairing()
    for table in (file for file in files if file.name == "NC2016-manipulation-ref.csv"):
        root = table.parents[2]
        for row in csv.DictReader(read_text(table).splitlines(), delimiter="|"):
            if row.get("IsTarget", "Y") == "Y" and row["ProbeMaskFileName"]:
                image, mask = root / row["ProbeFileName"], root / row["ProbeMaskFileName"]
                if _present(files, image):
                    pairing.add(image, _present(files, mask))
                else:
                    pairing.left_out[image] = f"named by {table.name}, but not there"
    return pairing


def _read_nist16(path: str) -> np.ndarray:
    """White is the authentic part."""
    with decoding(path) as mask:
        return np.asarray(mask.convert("RGB")).min(2) < 255


def _imd2020(files: Files) -> Pairing:
    pairing = Pairing()
    originals = [file for file in _images(files) if file.stem.endswith("_orig")]
    folders = {file.parent for file in originals}
    for file in _images(files):
        if file.parent in folders and not file.stem.endswith(("_orig", "_mask")):
            pairing.add(file, _present(files, file.with_name(f"{file.stem}_mask.png")))
    pairing.add_authentic(originals)
    return pairing


def _cocoglide(files: Files) -> Pairing:
    pairing = Pairing()
    masks: dict[Any, Path] = {}
    for file in _images(files, "mask"):
        if match := re.fullmatch(r".*_(\d+)_mask", file.stem):
            pairing.is_first(file, (file.parents[1], match[1]), masks)
    for file in _images(files, "fake"):
        if match := re.fullmatch(r"glide_inpainting_val2017_(\d+)_up", file.stem):
            pairing.add(file, masks.get((file.parents[1], match[1])))
    return pairing


def _autosplice(files: Files) -> Pairing:
    pairing = Pairing()
    for quality in (100, 90, 75):
        for file in _images(files, f"Forged_JPEG{quality}"):
            folder = file.parents[1] / "Mask"
            names = [f"{stem}_mask.png" for stem in (file.stem, file.stem.partition("_")[0])]
            pairing.add(file, next((folder / name for name in names if _present(files, folder / name)), None))
        if pairing.pairs:
            break
    return pairing


def _tampered_coco(parts: Sequence[str]) -> Callable[[Files], Pairing]:
    def find(files: Files) -> Pairing:
        pairing = Pairing()
        for part in parts:
            for name in (f"{part}_COCO_list.txt", f"{part}_COCO_train_list.txt"):
                listing = next((file for file in files if file.name == name), None)
                if listing is None:
                    continue
                text = read_text(listing).replace("\\", "/")
                for line in filter(str.strip, text.splitlines()):
                    image, mask = (listing.parent / entry.strip() for entry in f"{line},".split(",")[:2])
                    if _present(files, image):
                        pairing.add(image, _present(files, mask))
                    else:
                        pairing.left_out[image] = f"named by {name}, but not there"
                break
        return pairing

    return find


def _comp_raise(files: Files) -> Pairing:
    pairing = Pairing()
    pairing.add_authentic(_images(files))
    return pairing


def _fantastic_reality(files: Files) -> Pairing:
    pairing = Pairing()
    for file in _images(files, "ColorFakeImages"):
        pairing.add(file, _present(files, file.parents[1] / "SegmentationFake" / f"{file.stem}.npz"))
    pairing.add_authentic(_images(files, "ColorRealImages"))
    return pairing


def _read_npz(path: str) -> np.ndarray:
    """One array, [H, W] with axes of length 1 around it: not 0 where tampered."""
    try:
        require_unzipped(path, _LARGEST_NPZ)
        with np.load(path) as arrays:
            return arrays[arrays.files[0]].squeeze() > 0
    except (BadZipFile, EOFError, IndexError) as error:
        raise ValueError(error) from error


def _comofod(files: Files) -> Pairing:
    pairing = Pairing()
    for file in _images(files):
        if re.fullmatch(r"\d{3}_F", file.stem):
            pairing.add(file, _present(files, file.with_name(f"{file.stem[:3]}_B.png")))
    pairing.add_authentic(file for file in _images(files) if re.fullmatch(r"\d{3}_O", file.stem))
    return pairing


def _grip(files: Files) -> Pairing:
    pairing = Pairing()
    by_stem = pairing.each_name_once(_images(files))
    for stem, file in by_stem.items():
        if match := re.fullmatch(r"(TP_C\d+_\d+)_copy", stem):
            pairing.add(file, by_stem.get(f"{match[1]}_gt"))
    pairing.add_authentic(file for stem, file in by_stem.items() if re.fullmatch(r"TP_C\d+_\d+", stem))
    return pairing


def _misd(files: Files) -> Pairing:
    """The mask of an image is a folder, which `_read_folder` joins."""
    pairing = Pairing()
    folders = {file.parent for file in _images(files, "masks") if file.parents[2].name == "Ground Truth Masks"}
    masks = {(folder.parents[2], folder.parent.name): folder for folder in folders}
    roots = {folder.parents[2] for folder in folders}
    for file in _images(files, "Sp"):
        if file.parents[1] in roots:
            pairing.add(file, masks.get((file.parents[1], file.stem)))
    pairing.add_authentic(file for file in _images(files, "Au") if file.parents[1] in roots)
    return pairing


def _read_folder(path: str) -> np.ndarray:
    """One after another, since there may be many."""
    first, *others = sorted(Path(path).iterdir())
    joined = read_levels(str(first)).astype(bool)
    for file in others:
        levels = read_levels(str(file))
        if levels.shape != joined.shape:
            raise DiffIMLError(f"{file} and {first} are masks of one image, and of different sizes")
        joined |= levels.astype(bool)
    return joined


def _ifs_tc(files: Files) -> Pairing:
    pairing = Pairing()
    for file in _images(files, "fake"):
        if not file.stem.endswith(".mask"):
            pairing.add(file, _present(files, file.with_name(f"{file.stem}.mask.png")))
    pairing.add_authentic(_images(files, "pristine"))
    return pairing


def _images(files: Files, folder: str | None = None) -> Iterator[Path]:
    """The images, or those whose folder has this name."""
    return (file for file in files if file.suffix.lower() in SUFFIXES and folder in (None, file.parent.name))


def _present(files: Files, file: Path) -> Path | None:
    return file if file in files else None


LAYOUTS = {
    "CASIAv2": Layout(_casia("Tp_", 5)),
    "FantasticReality": Layout(_fantastic_reality, _read_npz),
    "tamperedCOCO": Layout(_tampered_coco(("cm", "sp", "bcm", "bcmc"))),
    "compRAISE": Layout(_comp_raise),
    "CASIAv1": Layout(_casia("Sp_", 4)),
    "COVERAGE": Layout(_coverage),
    "Columbia": Layout(_columbia, _read_columbia),
    "NIST16": Layout(_nist16, _read_nist16),
    "IMD2020": Layout(_imd2020),
    "CocoGlide": Layout(_cocoglide),
    "AutoSplice": Layout(_autosplice),
    "CoMoFoD": Layout(_comofod),
    "GRIP": Layout(_grip),
    "MISD": Layout(_misd, _read_folder),
    "IFS-TC": Layout(_ifs_tc),
}


def layout_of(name: str, part: str = "") -> Layout:
    """The layout of a dataset of the catalogue, or of a part of tamperedCOCO."""
    return Layout(_tampered_coco((part,))) if part else LAYOUTS[name]
