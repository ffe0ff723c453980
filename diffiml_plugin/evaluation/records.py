"""Records, one for each image, and the files that hold them."""

import inspect
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib import metadata
from pathlib import Path, PurePath
from typing import Any, TypeVar, cast, get_type_hints

import diffiml_plugin
from diffiml_plugin.data.examined import state_of
from diffiml_plugin.data.lists import ImageList, require_names
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.evaluation.results import Record
from diffiml_plugin.evaluation.scores import THRESHOLDS
from diffiml_plugin.files import appending, file_digest, inside, write_text
from diffiml_plugin.folders import require_claims_held
from diffiml_plugin.ledger import Ledger, discard, warn_if_changed
from diffiml_plugin.stored import checked, parse_json, read_text, shown

RESULTS = "results.json"
_FIELDS = get_type_hints(Record)
_SHARES = {"label", *(name for name, kind in _FIELDS.items() if "float" in str(kind))} - {"score", "features"}
_OF_THE_LIST = ("dataset", "path", "mask")  # what a test adds to a record, of a batch, that has the next ones
_OF_A_BATCH = ("index", "name", "label", "score", "f1")
_ALWAYS = (*_OF_A_BATCH, *_OF_THE_LIST)
ROUNDING = 1e-6  # of figures in files, which are 0 to 1
_BELOW = ("torch", "torchvision", "timm", "numpy", "pillow", "opencv-python-headless", "albumentations", "imdlbenco")
_Key = TypeVar("_Key")
LIMIT = 2**30  # bytes: some hundred thousand images, each with its figures at every threshold


def records_file(results: Path) -> Path:
    """The file of the records behind a results file: per_image.jsonl, or NAME_per_image.jsonl of other verbs'."""
    return results.with_name("per_image.jsonl" if results.name == RESULTS else f"{results.stem}_per_image.jsonl")


def read_records(path: Path) -> list[Record]:
    """The records of a file that `write_records` wrote. Raises DiffIMLError if it holds anything else, or one twice."""
    warn_if_changed(path)
    records = []
    lines: dict[object, int] = {}  # by what each is of
    for number, line in enumerate(read_text(path, LIMIT).splitlines(), 1):
        place = f"{path}, line {number}"
        records.append(as_record(parse_json(line, place), place))
        if missing := [name for name in _ALWAYS if name not in records[-1]]:
            raise DiffIMLError(f"{place} lacks {missing[0]}; make the file again")
        if (first := lines.setdefault(_of(records[-1]), number)) != number:
            raise DiffIMLError(f"{place} is of an image that line {first} tells of; make the file again")
    return records


def _of(record: Record) -> object:
    """What a record is of: an image of a dataset, under a perturbation or under a sweep's settings."""
    settings = {name: value for name, value in record.items() if name not in _FIELDS}
    return record["dataset"], record["index"], record.get("variant"), json.dumps(settings, sort_keys=True)


def as_record(said: object, place: str) -> Record:
    """What a file says, if it is a record of a set with figures in range. Raises DiffIMLError, which begins with
    `place`.
    """
    record = checked(said, _FIELDS, place, others=True)
    require_names(place, [record["dataset"]] if "dataset" in record else [])
    for name in record.keys() - _FIELDS.keys():  # a sweep's settings
        if isinstance(record[name], (list, dict)):
            raise DiffIMLError(f"{place}: {name} is {shown(record[name])}; expected one value")
    for name in _SHARES & record.keys():
        values = record[name] if isinstance(record[name], list) else [record[name]]
        if not all(value is None or -ROUNDING <= value <= 1 + ROUNDING for value in values):
            raise DiffIMLError(f"{place}: {name} is {shown(record[name])}; expected 0 to 1")
        if name.endswith("_by_threshold") and len(values) != len(THRESHOLDS) and values != [None]:
            raise DiffIMLError(f"{place}: {name} has {len(values)} values; expected {len(THRESHOLDS)}")
    return cast(Record, record)


def images_of(records: Sequence[Record]) -> list[tuple[str, str]]:
    """The image of each record, by which tests in different places can be compared: its dataset, and its path below
    the folder in which all of that dataset lies.
    """
    folders: dict[str, list[tuple[str, ...]]] = {}
    for record in records:
        folders.setdefault(record["dataset"], []).append(PurePath(record["path"]).parent.parts)
    shared = {dataset: len(os.path.commonprefix(parts)) for dataset, parts in folders.items()}
    paths = (PurePath(record["path"]).parts[shared[record["dataset"]] :] for record in records)
    return [(record["dataset"], "/".join(path)) for record, path in zip(records, paths, strict=True)]


def same_images(some: Mapping[_Key, Record], others: Mapping[_Key, Record]) -> bool:
    """Whether records are of the same images: by what they are known by, and by their content where both tell it."""
    contents = ((some[image].get("content"), others[image].get("content")) for image in some)
    return some.keys() == others.keys() and all(None in pair or pair[0] == pair[1] for pair in contents)


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Writes records, one on a line. Raises DiffIMLError as `write_text`."""
    write_text(path, "".join(json.dumps(record) + "\n" for record in records))


@dataclass(frozen=True)
class Unfinished:
    """The records of a run until it is done: in `folder`, a file for each process, named after `prefix`, its weights.

    A batch is one line, so that what a kill cut off is one line too, which is passed over.
    """

    folder: Path
    prefix: str
    process: int

    def read(self, key: str, count: int) -> list[Record]:
        """The records that any process left under `key`, the same on every process: of each of `count` images those of
        one batch alone, and none that the ledger knows nothing of.
        """
        from accelerate.utils import gather_object  # which `predict` does without

        ledger = Ledger(self.folder.parent)
        files = filter(ledger.wrote, self._files(key))
        lines = [line for file in files for line in read_text(file, LIMIT).splitlines()]
        records: list[Record] = []
        left = set(range(count))
        for line in dict.fromkeys(gather_object(lines)):  # other nodes may have disks of their own, or share this one
            with suppress(DiffIMLError, TypeError):
                batch = [as_record(said, key) for said in parse_json(line, key)]
                if all(map(_is_of_a_batch, batch)) and (of := {record["index"] for record in batch}) <= left:
                    records += batch
                    left -= of
        return records

    @contextmanager
    def open(self, key: str) -> Iterator[Callable[[list[Record]], Any]]:
        """What adds a batch's records to this process's file."""
        path = inside(self.folder.parent, Path(self.folder.name, f"{self.prefix}_{key}.{self.process}.jsonl"))
        require_claims_held(path)
        self.folder.mkdir(parents=True, exist_ok=True)
        with appending(path) as file:
            # The line before may be cut off.
            yield lambda records: file.write(f"\n{json.dumps(records)}\n".encode())

    def remove(self, *keys: str) -> None:
        """Removes what was left under `keys`. All processes of a run do so at once."""
        with suppress(FileNotFoundError):  # another one has removed the folder, and so all that it held
            discard(self.folder.parent, [file for key in keys for file in self._files(key)])
        with suppress(OSError):  # what others left may lie there
            self.folder.rmdir()

    def _files(self, key: str) -> list[Path]:
        return sorted(self.folder.glob(f"{self.prefix}_{key}.*.jsonl"))


def _is_of_a_batch(record: Record) -> bool:
    return record.keys() >= {*_OF_A_BATCH} and record.keys().isdisjoint(_OF_THE_LIST)


def data_settings(sets: Iterable[tuple[str, ImageList]]) -> dict[str, str]:
    """Of what is tested by its names: which files these are, and what changes when one of them is mended."""
    sets = list(sets)
    kinds = [listed.kinds for _, listed in sets]
    return {
        "test_data_path": digest([(name, listed.images, listed.masks) for name, listed in sets]),
        "sizes or dates of images": digest([states(listed) for _, listed in sets]),
        **({"kinds of manipulation": digest(kinds)} if any(kinds) else {}),
    }


def states(listed: ImageList, state: Callable[[str], Any] = state_of) -> list[tuple[str, Any]]:
    """The files of a list, and what changes when one is mended: `state_of` each, or `state_here`."""
    return [(file, state(file)) for file in (*listed.images, *listed.masks)]


@cache
def code_digest(model: Callable[..., Any]) -> str:
    """A digest of the code by which figures come: the package's, that of the model's constructor with all of its own
    package, and the versions of what both stand on.
    """
    package = sys.modules.get(model.__module__.partition(".")[0])
    folders = [Path(diffiml_plugin.__file__).parent, *map(Path, getattr(package, "__path__", ()))]
    modules = {module for folder in folders for module in folder.rglob("*.py")}
    with suppress(TypeError, OSError):  # a class of a notebook has no file
        modules.add(Path(inspect.getfile(model)))
    digests = sorted(file_digest(module) for module in modules if module.is_file())
    return digest([versions_of(_BELOW), *digests])


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Of those that are installed; one may be built by hand, or a fork of it under another name."""
    versions = {}
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def digest(value: Any) -> str:
    """A hash of plain values, short enough for a table."""
    return sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]
