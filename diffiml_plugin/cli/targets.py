"""What `benco reproduce` can run: the targets of benco_configs/reproduce.yaml, and the commands behind each."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from diffiml_plugin.cli.config_file import TARGETS, Place, expand, load_yaml, packaged_folder
from diffiml_plugin.errors import DiffIMLError, nearest

Command = list[str]  # the words after `benco`


def read_targets() -> dict[str, dict[str, Any]]:
    """The targets by name; each has one line `about` it, and `steps`, a `study`, or both."""
    return load_yaml(packaged_folder() / TARGETS)


def commands(name: str, rows: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[Command]:
    """The commands of a target, in order.

    Args:
        rows, seeds: of a study: these alone, where given. A row with a kind left out is ROW_without_KIND.

    Raises:
        DiffIMLError: no such target or row, rows or seeds of what is no study, a variable that is not set.
    """
    targets = read_targets()
    if name not in targets:
        raise DiffIMLError(f"no target is called {name!r}{nearest(name, targets)}; there are {', '.join(targets)}")
    target = targets[name]
    if (rows or seeds) and "study" not in target:
        raise DiffIMLError(f"{name} has no rows and seeds to choose from; leave --rows and --seeds out")
    steps = list(_steps(target.get("steps", ())))
    if "study" in target:
        steps += _study(target["study"], rows, seeds)
    place = Place(packaged_folder() / TARGETS)
    try:
        return [expand(command, place) for command in steps]
    except ValueError as error:
        raise DiffIMLError(f"{name}: {error}") from error


def _steps(steps: Sequence[str | Mapping[str, Any]], value: str = "") -> Iterator[Command]:
    for step in steps:
        if isinstance(step, str):
            yield [word.replace("{}", value) for word in shlex.split(step)]
        else:
            for each in step["each"]:
                yield from _steps(step["steps"], str(each))


def _study(study: Mapping[str, Any], rows: Sequence[str], seeds: Sequence[int]) -> Iterator[Command]:
    """Each row with each seed: trained, tested, and taken through its other verbs; then the tables of all."""
    runs = {_run_name(row, kind): (row, kind) for row in study["rows"] for kind in _left_out(study, row)}
    for row in rows:
        if row not in runs:
            raise DiffIMLError(f"--rows {row} is no row of the study{nearest(row, runs)}; it has {', '.join(runs)}")
    flags = {verb: shlex.split(words) for verb, words in study["flags"].items()}
    tested_on = ["--test_data_path", study["test_data_path"]]
    for seed in map(str, seeds or study["seeds"]):
        for run in rows or runs:
            row, left_out = runs[run]
            folder = f"{study['folder']}/{run}/{seed}"
            start = study["rows"][row].get("from")  # the row whose weights it goes on from
            kinds = ",".join(kind for kind in study["kinds"] if kind != left_out)
            yield [
                *("train", "--config", f"{study['family']}#{row}", "--synth_kinds", kinds, *flags.get("train", ())),
                *(("--checkpoint_path", f"{study['folder']}/{start}/{seed}/last.safetensors") if start else ()),
                *(*tested_on, "--seed", seed, "--output_dir", folder, "--resume", "auto"),
            ]
            weights = ["--checkpoint_path", f"{folder}/last.safetensors", *tested_on]
            for verb in ("test", *(() if left_out else study["rows"][row].get("verbs", ()))):
                yield [verb, *weights, "--output_dir", f"{folder}/{verb}", *flags.get(verb, ())]
    pairs = [
        f"{run}={_run_name(other, kind)}"
        for run, (row, kind) in runs.items()
        for number, other in enumerate(study["against"])
        if row not in study["against"][: number + 1] and kind in _left_out(study, other)
    ]
    yield ["study", study["folder"], "--output_dir", study["folder"], "--compare", *pairs]


def _left_out(study: Mapping[str, Any], row: str) -> list[str]:
    """The kinds that are left out of the training of a row, one at a time; first of all none, ""."""
    return ["", *study["rows"][row].get("without", ())]


def _run_name(row: str, left_out: str) -> str:
    return f"{row}_without_{left_out}" if left_out else row
