"""`benco datasets check`: whether a list of images and masks would give the score it should."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diffiml_plugin.data.examined import in_parallel
from diffiml_plugin.data.faults import Fault, examine
from diffiml_plugin.data.lists import NEGATIVE, ImageList, read_balanced, read_test_sets
from diffiml_plugin.datasets.catalogue import DatasetEntry, known_entry
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.table import Table


@dataclass(frozen=True)
class DatasetReport:
    """The images of one dataset, and its faults; `entry` is its row of Table 1, if it is one of those."""

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
        """With `expected`, the counts of Table 1 (None for other datasets), in place of `entry`."""
        expected = self.entry and {"authentic": self.entry.authentic, "tampered": self.entry.tampered}
        counts = {"authentic": self.authentic, "tampered": self.tampered, "expected": expected}
        return {**counts, "harmful": self.harmful, "faults": [asdict(fault) for fault in self.faults]}


def check_datasets(path: str) -> list[DatasetReport]:
    """Looks at every file of the dataset or datasets that `path` names, as --data_path or --test_data_path would.

    Raises:
        DiffIMLError: there is nothing at `path`.
    """
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
    return [_check(name, listed) for name, listed in lists.items()]


def table(reports: list[DatasetReport]) -> str:
    """The counts of each dataset beside those of Table 1, and a line for each kind of fault it has."""
    rows = []
    for report in reports:
        expected = (report.entry.authentic, report.entry.tampered) if report.entry else ("-", "-")
        rows.append([report.name, report.authentic, expected[0], report.tampered, expected[1], report.harmful])
    lines = [str(Table(["dataset", "authentic", "Table 1", "tampered", "Table 1", "harmful"], rows))]
    for report in reports:
        groups = defaultdict(list)
        for fault in report.faults:
            groups[fault.kind, fault.harmful].append(fault.text)
        for (kind, harmful), texts in groups.items():
            more = f" ({len(texts) - 1} more)" if len(texts) > 1 else ""
            lines.append(f"{report.name}: {kind}{'' if harmful else ', harmless'}: {texts[0]}{more}")
    return "\n".join(lines)


def _named(balanced: list[ImageList | Path]) -> dict[str, ImageList]:
    """The lists by the names that `read_test_sets` gives them; one whose name is taken, by its path."""
    lists = {}
    for listed in balanced:
        if isinstance(listed, ImageList):
            (name,) = read_test_sets(listed.source)
            lists[listed.source if name in lists else name] = listed
    return lists


def _check(name: str, listed: ImageList) -> DatasetReport:
    pairs = list(zip(listed.images, listed.masks, strict=True))
    found = list(in_parallel(lambda pair: (examine(*pair)[1], _digest(pair[0])), pairs, name))
    faults = [fault for faults, _ in found for fault in faults]
    faults += _duplicates(pairs, [digest for _, digest in found])
    authentic = sum(mask == NEGATIVE for mask in listed.masks)
    entry = known_entry(name)
    if entry:
        counts = {"authentic": (authentic, entry.authentic), "tampered": (len(pairs) - authentic, entry.tampered)}
        faults += [
            Fault(
                "count",
                listed.source,
                f"{name} has {here} {kind} images, Table 1 has {there}; compare with "
                "published figures only if these are the same images",
                harmful=False,
            )
            for kind, (here, there) in counts.items()
            if here != there
        ]
    return DatasetReport(name, authentic, len(pairs) - authentic, faults, entry)


def _digest(path: str) -> bytes | None:
    try:
        return hashlib.blake2b(Path(path).read_bytes(), digest_size=16).digest()
    except OSError:
        return None  # a fault of its own


def _duplicates(pairs: list[tuple[str, str]], digests: list[bytes | None]) -> Iterator[Fault]:
    """Equal files: harmful if it is one file listed twice, or if it is called authentic and tampered."""
    first: dict[bytes, tuple[str, str]] = {}
    for (image, mask), digest in zip(pairs, digests, strict=True):
        if digest is None:
            continue
        if digest not in first:
            first[digest] = image, mask
            continue
        known, known_mask = first[digest]
        if known == image:
            yield Fault("duplicate", image, f"{image} is listed twice, so it counts twice; remove one entry")
        elif (known_mask == NEGATIVE) != (mask == NEGATIVE):
            yield Fault("duplicate", image, f"{image} and {known} are the same image, once authentic and once tampered")
        else:
            yield Fault("duplicate", image, f"{image} and {known} are the same image", harmful=False)
