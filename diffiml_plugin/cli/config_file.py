"""Config files: YAML whose keys are flag names.

A file may say `extends: OTHER`, whose settings it changes. `${VARIABLE}` is of the environment, `${VARIABLE:-DEFAULT}`
too; `${HERE}` is the file's own folder, and `$${` stands for `${` itself. A family of settings that differ in little is
one file: what they share, and

    rows:
      resnet50: {encoder: resnet50}
      resnet50_plain: {extends: resnet50, edge_supervision: false}

`--config FILE#ROW` takes one of them; `${ROW}` is its name. `about`, `cost`, `verb` and `formerly`, of a file or a row,
are no settings: they are what `benco configs` shows, and an earlier name that still finds it. What one verb alone takes
of a file or a row stands under its name, `only: {train: {epochs: 60}}`, as if it were that verb's plain settings there.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import diffiml_plugin
from diffiml_plugin.cli.verbs import VERBS
from diffiml_plugin.errors import DiffIMLError, nearest
from diffiml_plugin.stored import read_yaml, shown

FOLDER = "benco_configs"
_PACKAGE = Path(diffiml_plugin.__file__).parent
TARGETS = "reproduce.yaml"  # no configuration: what `benco reproduce` runs
_INDEX = ("about", "cost", "verb", "formerly")


@dataclass(frozen=True)
class Place:
    """Where a configuration stands: a file, and its row if it is one of a family."""

    file: Path
    row: str = ""

    def __str__(self) -> str:
        return f"{self.file}#{self.row}" if self.row else str(self.file)

    @property
    def name(self) -> str:
        """Short: as `--config` takes it if it is the package's own, else without the folder."""
        own = self.file.is_relative_to(packaged_folder())
        name = self.file.relative_to(packaged_folder()).with_suffix("").as_posix() if own else self.file.name
        return f"{name}#{self.row}" if self.row else name


@dataclass(frozen=True)
class Entry:
    value: Any  # as YAML reads it, variables not yet filled in
    place: Place  # that says it


@dataclass(frozen=True)
class IndexEntry:
    """A configuration of the package: its name for `--config`, the verb it is for, one line of what it is, its cost
    where that was measured, and the name it had before.
    """

    name: str
    place: Place
    verb: str
    about: str
    cost: str
    formerly: str


def read_config(name: str, verb: str = "") -> dict[str, Entry]:
    """The settings of a file, or of a row of it, and of what it extends; what extends wins.

    Args:
        name: a path, with or without `.yaml`, and `#ROW` of a family; what is not there is looked for among the
            package's own.
        verb: whose part of `only` counts.

    Raises:
        DiffIMLError: a missing or malformed file, no such row, or what extends itself in a circle.
    """
    settings: dict[str, Entry] = {}
    chain: list[Place] = []
    while name:
        place = find_config(name, chain[-1].file.parent if chain else Path())
        if place in chain:
            raise DiffIMLError(f"config files extend each other in a circle: {' -> '.join(map(str, [*chain, place]))}")
        chain.append(place)
        content = _read_place(place, verb)
        name = _one_name(place, content.pop("extends", ""))
        own = {key: Entry(value, place) for key, value in content.items() if key not in _INDEX}
        settings = own | settings
    return settings


def _read_place(place: Place, verb: str) -> dict[str, Any]:
    """What a file says to a verb, with what its row, and the rows which that extends, say instead."""
    content = load_yaml(place.file)
    rows = _rows(place.file, content)
    if rows and not place.row:
        raise DiffIMLError(
            f"{place.file} holds several configurations; name one, {place.file.stem}#ROW: {_listed(rows)}"
        )
    own: dict[str, Any] = {}
    chain: list[str] = []
    row = place.row
    while row:
        if row not in rows:
            raise DiffIMLError(f"{place.file} has no row {row!r}{nearest(row, rows)}; it has {_listed(rows)}")
        if row in chain:
            raise DiffIMLError(f"{place.file}: rows extend each other in a circle: {' -> '.join([*chain, row])}")
        chain.append(row)
        said = _said_to(verb, place, rows[row])
        row = _one_name(place, said.pop("extends", ""))
        own = said | own
    return _said_to(verb, place, content) | own


def _rows(file: Path, content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Takes the rows out of a file's content."""
    rows = content.pop("rows", None) or {}
    if not isinstance(rows, dict) or not all(isinstance(row, (dict, NoneType)) for row in rows.values()):
        raise DiffIMLError(f"{file}: rows: expected lines of `name: {{flag: value, ...}}`")
    return {str(name): dict(row or {}) for name, row in rows.items()}


def _said_to(verb: str, place: Place, content: Mapping[str, Any]) -> dict[str, Any]:
    """What a file or a row alone says to a verb, `only` filled in."""
    only = content.get("only") or {}
    if not isinstance(only, dict) or not all(isinstance(settings, dict) for settings in only.values()):
        raise DiffIMLError(f"{place}: only: expected lines of `verb: {{flag: value, ...}}`, got {shown(only)}")
    for name in only:
        if name not in VERBS:
            raise DiffIMLError(f"{place}: only: unknown verb {shown(name)}{nearest(str(name), VERBS)}")
    return {key: value for key, value in content.items() if key != "only"} | only.get(verb, {})


def _one_name(place: Place, name: Any) -> str:
    if not isinstance(name, (str, NoneType)):
        raise DiffIMLError(f"{place}: extends: expected one name, got {shown(name)}")
    return name or ""


def _listed(rows: Mapping[str, Any]) -> str:
    return ", ".join(rows) or "none"


def find_config(name: str, folder: Path) -> Place:
    """The file, or row of a file, called `name` seen from `folder`, else the package's own of that name or former name.

    Raises:
        DiffIMLError: there is none, with the nearest of the package's own; a name without an ending is of both.
    """
    own = packaged_folder()
    bare = name.removeprefix(f"{FOLDER}/")
    here, packaged = _place(folder, name), _place(own, bare)
    entries = [] if packaged else package_index()
    former = bare.removesuffix(".yaml")
    packaged = packaged or next((entry.place for entry in entries if former in (entry.formerly, entry.name)), None)
    says_which = Path(name.partition("#")[0]).suffix == ".yaml" or name.startswith(".") or os.path.isabs(name)
    if here and packaged and not says_which and not here.file.is_relative_to(own.resolve()):
        raise DiffIMLError(
            f"{name} is {here.file} and a configuration of the package; write that path, or call the file otherwise"
        )
    if place := here or packaged:
        return place
    known = {
        word: None for entry in entries for word in (entry.name.partition("#")[0], entry.name, entry.formerly) if word
    }
    raise DiffIMLError(
        f"no config file {folder / name}{nearest(former, known)} (`benco configs` lists the package's own)"
    )


def _place(folder: Path, name: str) -> Place | None:
    """The file of that name in a folder, with or without `.yaml`; of `FILE#ROW`, where none is called so, its row."""
    file, _, row = name.rpartition("#")
    for stem, part in ((name, ""), (file, row)) if file else ((name, ""),):
        for path in (folder / stem, folder / f"{stem}.yaml"):
            if path.is_file():
                return Place(path.resolve(), part)
    return None


def package_index() -> list[IndexEntry]:
    """The package's own configurations, by name."""
    files = sorted(packaged_folder().rglob("*.yaml"))
    return [entry for file in files if file.name != TARGETS for entry in _entries(file)]


def _entries(file: Path) -> Iterator[IndexEntry]:
    content = load_yaml(file)
    rows = _rows(file, content)
    for row, own in rows.items() if rows else [("", {})]:
        place = Place(file, row)
        yield IndexEntry(place.name, place, **{key: str((content | own).get(key, "")) for key in _INDEX})


def packaged_folder() -> Path:
    """Where the package keeps its config files: inside it once installed, beside it in a checkout."""
    installed = _PACKAGE / FOLDER
    return installed if installed.is_dir() else _PACKAGE.parent / FOLDER


def load_yaml(path: Path) -> dict[str, Any]:
    content = read_yaml(path)
    if not isinstance(content, dict):
        said = "nothing" if content is None else shown(content)
        raise DiffIMLError(f"{path}: expected lines of `flag: value`, got {said}")
    return content


def expand(value: Any, place: Place) -> Any:
    """Fills in `${VARIABLE}` and `${VARIABLE:-DEFAULT}` in words; the inverse of `settings.escaped`.

    Raises:
        ValueError: a variable is not set.
    """
    if isinstance(value, list):
        return [expand(item, place) for item in value]
    if not isinstance(value, str):
        return value
    variables = {**os.environ, "HERE": str(place.file.parent), "ROW": place.row}

    def variable(match: re.Match) -> str:
        if match[0] == "$${":
            return "${"
        content = variables.get(match[1])
        if not content and match[2] is not None:  # as in a shell, where `:-` takes an empty one for unset
            return match[2]
        if content is None:
            raise ValueError(f"the variable {match[1]} of {value!r} is not set; export {match[1]}=...")
        return content

    return re.sub(r"\$\$\{|\$\{(\w+)(?::-([^}]*))?\}", variable, value)
