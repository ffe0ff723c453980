"""`benco datasets check`: whether a list of images and masks would give the score it should."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from diffiml_plugin.data.examined import content_digest, in_parallel, in_turn
from diffiml_plugin.data.faults import Fault, examine
from diffiml_plugin.data.formats import SUFFIXES, opening
from diffiml_plugin.data.images import read_mask
from diffiml_plugin.data.lists import (
    NEGATIVE,
    SYNTH_PREFIX,
    ImageList,
    file_identity,
    read_balanced,
    read_list,
    read_test_sets,
    set_name,
    with_earlier,
)
from diffiml_plugin.datasets.catalogue import DatasetEntry, known_entry
from diffiml_plugin.errors import DiffIMLError, visible
from diffiml_plugin.table import Table

_TELLING, _SURE = 0.6, 3  # AUC of headers that is told: this much, and so many standard errors above chance


@dataclass(frozen=True)
class DatasetReport:
    """The images of one dataset, and its faults; `entry` is the catalogue's, if it is in there."""

    name: str
    authentic: int
    tampered: int
    faults: list[Fault]
    entry: DatasetEntry | None = None

    @property
    def harmful(self) -> int:
        """The faults that would stop a run or falsify a score."""
        return sum(fault.harmful for fault in self.faults)

    def as_json(self) -> dict[str, Any]:
        """With `expected`, the published counts (None for other datasets), in place of `entry`."""
        expected = self.entry and {"authentic": self.entry.authentic, "tampered": self.entry.tampered}
        counts = {"authentic": self.authentic, "tampered": self.tampered, "expected": expected}
        return {**counts, "harmful": self.harmful, "faults": [asdict(fault) for fault in self.faults]}


def check_datasets(path: str, trained_on: str = "") -> list[DatasetReport]:
    """Looks at every file of the dataset or datasets that `path` names, as --data_path or --test_data_path would.

    Args:
        trained_on: as --data_path takes it: training data, none of whose images may be among those of `path`.

    Raises:
        DiffIMLError: there is nothing at `path`, or nothing that can be read at `trained_on`.
    """
    seen = _training_images(trained_on) if trained_on else {}
    try:
        balanced = read_balanced(path)
        lists = read_test_sets(path) if balanced is None else _named(balanced)
        if not lists:
            raise DiffIMLError(f"{path} names nothing but photographs to be tampered on the fly, which have no masks")
    except DiffIMLError as error:
        if not Path(path).exists():
            raise
        kind = "unpaired" if Path(path).is_dir() else "list"
        return [DatasetReport(Path(path).stem, 0, 0, [Fault(kind, path, str(error))])]
    return [_check(name, listed, seen) for name, listed in lists.items()]


def table(reports: list[DatasetReport]) -> str:
    """The counts of each dataset beside the published ones, and a line for each kind of fault it has."""
    rows = []
    for report in reports:
        expected = (report.entry.authentic, report.entry.tampered) if report.entry else (None, None)
        rows.append([report.name, report.authentic, expected[0], report.tampered, expected[1], report.harmful])
    lines = [str(Table(["dataset", "authentic", "published", "tampered", "published", "harmful"], rows))]
    for report in reports:
        groups = defaultdict(list)
        for fault in report.faults:
            groups[fault.kind, fault.harmful].append(fault.text)
        for (kind, harmful), texts in groups.items():
            more = f" ({len(texts) - 1} more)" if len(texts) > 1 else ""
            lines.append(visible(f"{report.name}: {kind}{'' if harmful else ', harmless'}: {texts[0]}{more}"))
    return "\n".join(lines)


def _named(balanced: list[ImageList | Path]) -> dict[str, ImageList]:
    """The lists by the names that `read_test_sets` gives them; one whose name is taken, by its path."""
    lists = {}
    for listed in balanced:
        if isinstance(listed, ImageList):
            name = set_name(Path(listed.source))
            lists[listed.source if name in lists else name] = listed
    return lists


def _training_images(path: str) -> dict[str, str]:
    """The images of training data by their digests; of a stream, its photographs."""
    if path.startswith(SYNTH_PREFIX):
        sources: Sequence[ImageList | Path] = [Path(path.removeprefix(SYNTH_PREFIX))]
    else:
        sources = read_balanced(path) or [read_list(path)]
    images: list[str] = []
    for source in sources:
        if isinstance(source, ImageList):
            images += source.images
        elif source.is_dir():
            images += (str(file) for file in sorted(source.iterdir()) if file.suffix.lower() in SUFFIXES)
        else:
            raise DiffIMLError(f"{source} of {path} is no folder of photographs; mend the path")
    digests = in_parallel(content_digest, images, "training data")
    return {digest: image for digest, image in zip(digests, images, strict=True) if digest}


def _check(name: str, listed: ImageList, seen: dict[str, str]) -> DatasetReport:
    pairs = list(zip(listed.images, listed.masks, strict=True))
    look = in_turn(lambda pair: (examine(*pair)[1], content_digest(pair[0]), _header(pair[0])))
    looked_at = in_parallel(look, pairs, name)
    of_pairs, digests, headers = zip(*looked_at, strict=True)
    faults = [fault for of_pair in of_pairs for fault in of_pair]
    empty = [any(fault.kind == "empty" for fault in of_pair) for of_pair in of_pairs]
    tampered = [mask != NEGATIVE and not none for mask, none in zip(listed.masks, empty, strict=True)]
    authentic = len(pairs) - sum(tampered)
    faults += _duplicates(pairs, digests)
    faults += [
        Fault("trained on", image, f"{image} is {seen[digest]} of the training data; remove it from one of the two")
        for image, digest in zip(listed.images, digests, strict=True)
        if digest in seen
    ]
    faults += _telling_headers(listed.source, tampered, headers)
    entry = known_entry(name)
    if entry:
        counts = {"authentic": (authentic, entry.authentic), "tampered": (len(pairs) - authentic, entry.tampered)}
        faults += [
            Fault(
                "count",
                listed.source,
                f"{name} has {here} {kind} images, {there} are published; compare with "
                "published figures only if these are the same images",
                harmful=False,
            )
            for kind, (here, there) in counts.items()
            if here != there
        ]
    return DatasetReport(name, authentic, len(pairs) - authentic, faults, entry)


def _header(path: str) -> bytes | None:
    """A digest of what a file's header says of its compression: format and quantisation tables."""
    try:
        with opening(path) as image:
            return hashlib.blake2b(repr((image.format, getattr(image, "quantization", None))).encode()).digest()
    except Exception:
        return None  # a fault of its own


def _telling_headers(source: str, tampered: Sequence[bool], headers: Sequence[bytes | None]) -> Iterator[Fault]:
    """Whether the headers alone tell tampered images from authentic ones.

    Each image is guessed from the share of tampered ones among the others of its header, so that one which no other
    image has says nothing; two of one header are a tie. The standard error is that of an AUC by chance.
    """
    count, marked = len(tampered), sum(tampered)
    if not 0 < marked < count:
        return
    of_header, marked_of_header = (
        Counter(headers),
        Counter(h for h, label in zip(headers, tampered, strict=True) if label),
    )
    guesses = [(marked_of_header[h] - label + 0.5) / of_header[h] for h, label in zip(headers, tampered, strict=True)]
    ties = sum(m * (of_header[h] - m) for h, m in marked_of_header.items())
    auc = roc_auc_score(tampered, guesses) + ties / (2 * marked * (count - marked))  # there these count as wrong
    error = ((count + 1) / (12 * marked * (count - marked))) ** 0.5
    if auc > max(_TELLING, 0.5 + _SURE * error):
        yield Fault(
            "headers",
            source,
            f"authentic and tampered images differ in file format or JPEG tables: the headers alone tell them apart "
            f"with an AUC of {auc:.2f}, so image-level figures may come from there; quote pixel figures, or compare "
            "image-level ones with that",
        )


def _duplicates(pairs: list[tuple[str, str]], digests: Sequence[str | None]) -> Iterator[Fault]:
    """Equal files: harmful if it is one file listed twice, or if their masks differ."""
    listed: dict[object, str] = {}
    first: dict[str, tuple[str, str]] = {}
    for (image, mask), digest in zip(pairs, digests, strict=True):
        if digest is None:
            continue
        known, known_mask = first.setdefault(digest, (image, mask))
        if (file := file_identity(image)) in listed:
            again = with_earlier(image, listed[file])
            yield Fault("duplicate", image, f"{again} is listed twice, and trained on twice; remove one entry")
        elif known != image:
            difference = _difference(known_mask, mask)
            yield Fault("duplicate", image, f"{image} and {known} are the same image{difference}", bool(difference))
        listed.setdefault(file, image)


def _difference(*masks: str) -> str:
    """What two masks of one image say of it otherwise; empty if nothing, or if one cannot be read."""
    try:
        truths = [np.zeros(1, np.uint8) if mask == NEGATIVE else read_mask(Path(mask)) for mask in masks]
    except DiffIMLError:  # which is told as its own fault
        return ""
    one, other = truths
    if one.any() != other.any():
        return ", once authentic and once tampered"
    return ", with different masks" if one.any() and not np.array_equal(one, other) else ""
