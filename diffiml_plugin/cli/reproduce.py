"""Makes a table or figure of the paper, a study of RESULTS.md, or the model that travels along: data to report.

Without a target, lists them. Started again, it goes on where it stopped: a training resumes, and what was tested with
the same settings and the same weights is not tested again. Any other flag goes to each step that has it:
`benco reproduce table2 --gpus 8 --batch_size 4`. --dry_run prints the steps, which can be run one by one as well. The
datasets are lists in DATA_ROOT (`benco datasets prepare all`); what a study wants, benco_configs/reproduce.yaml says.
"""

import argparse
import importlib
import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffiml_plugin.cli.command_line import parse_arguments, read_command_line
from diffiml_plugin.cli.config_file import Place, find_config
from diffiml_plugin.cli.parser import Parser
from diffiml_plugin.cli.targets import commands, read_targets
from diffiml_plugin.errors import DiffIMLError, nearest
from diffiml_plugin.files import file_digest, reserved
from diffiml_plugin.folders import claimed, make_folder
from diffiml_plugin.ledger import Ledger
from diffiml_plugin.stored import read_json

_logger = logging.getLogger(__name__)
PASSES_ON = True
_OF_EACH_STEP = {"--output_dir", "--checkpoint_path"}
_HOW_IT_RUNS = ("device", "gpus", "num_workers", "test_batch_size")  # no figure depends on it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", nargs="?", default="", help="what to make, such as table2")
    runs = os.environ.get("RUNS") or "runs"
    parser.add_argument("--runs", metavar="DIR", default=runs, help="folder of all that is written")
    parser.add_argument("--rows", nargs="+", default=[], help="of a study: these alone, ROW or ROW_without_KIND")
    parser.add_argument("--seeds", nargs="+", type=int, default=[], help="of a study: these alone")


@dataclass(frozen=True)
class Step:
    """One command: its words, and what they mean to its verb."""

    words: list[str]
    args: argparse.Namespace

    def __str__(self) -> str:
        return f"benco {shlex.join(self.words)}"


def dry_run(args: argparse.Namespace) -> str:
    """The commands, one on a line. Raises DiffIMLError as `run`."""
    return "".join(f"{step}\n" for step in _steps(args))


def run(args: argparse.Namespace) -> int:
    if not args.target:
        if args.passed_on:
            raise DiffIMLError("name the target before the flags: benco reproduce TARGET ...")
        print("\n".join(f"{name:<19}{target['about']}" for name, target in read_targets().items()))
        return 0
    steps = _steps(args)
    runs = make_folder(args.runs)
    for number, step in enumerate(steps, 1):
        files = _made_by(step)
        with claimed(files[0].parent) if files else nullcontext():  # else what is put aside is of one that is running
            _bring_back(files)  # what a start that was killed had put aside
        done = _is_done(step, runs)
        print(f"==> {number} of {len(steps)}{', done before' if done else ''}: {step}", file=sys.stderr, flush=True)
        if done:
            continue
        sources = _digests(_sources(step))
        with _put_aside(runs, files):
            status = subprocess.run([sys.executable, "-m", "diffiml_plugin", *step.words]).returncode
        if status:
            _logger.error(f"step {number} failed; mend it, and start again: it goes on from there")
            return max(1, status)
        if files:
            ledger = Ledger(runs)
            ledger.start(_run_of(runs, files[0]), {"sources": sources})
        for file in filter(Path.exists, files):
            ledger.enter(file, file)
            _aside(file).unlink(missing_ok=True)
    return 0


@contextmanager
def _put_aside(runs: Path, files: Sequence[Path]) -> Iterator[None]:
    """Moves out of a verb's way what it made here before and would not overwrite; back, where not all is made anew.

    What the user made there with the same verb is not entered in the ledger of `runs`: it stays, and the verb refuses.
    """
    ledger = Ledger(runs)
    for file in files:
        if ledger.writer(file) == _run_of(runs, files[0]):
            os.replace(file, _aside(file))
    try:
        yield
    finally:
        _bring_back(files)


def _bring_back(files: Sequence[Path]) -> None:
    """Brings back what was put aside of a step's files, unless it has made all of them anew.

    All or none: its results must not lie beside records of other weights. The first file, by which a step is known to
    be done, goes first and comes last, so that none is taken for done that was killed here. What lies in a file's place
    is kept beside it, since a step that was killed may have left it, or the user made it meanwhile.
    """
    if not all(map(Path.exists, files)):
        for file in reversed(files):
            if _aside(file).exists():
                if file.exists():
                    os.replace(file, kept := reserved(file))
                    _logger.warning(f"{file} is brought back as it was; what lay in its place is now {kept}")
                os.replace(_aside(file), file)


def _aside(file: Path) -> Path:
    return file.with_name(f".earlier.{file.name}")


def _steps(args: argparse.Namespace) -> list[Step]:
    """All steps, each parsed, so that a mistake is found before hours of training and not after.

    Raises:
        DiffIMLError: a flag that no step has, or a wrong value of one; a configuration of the current folder in the
            place of the package's.
    """
    os.environ["RUNS"] = args.runs  # which the configurations of the steps name
    passed_on = {group[0].partition("=")[0]: group for group in args.passed_on}
    steps: list[Step] = []
    known: set[str] = set()
    trained: dict[str, str] = {}  # by the folder that a step trains into: the model
    for verb, *words in commands(args.target, args.rows, args.seeds):
        module = importlib.import_module(f"diffiml_plugin.cli.{verb}")
        model = [] if verb == "train" else _model_to_come(words, trained)
        flags = read_command_line(f"benco {verb}", module, [*words, *model]).parser.flags()
        for flag in passed_on:
            if flag in (*_OF_EACH_STEP, *words):
                raise DiffIMLError(
                    f"the steps of {args.target} set {flag} themselves (--runs DIR is the folder of all)"
                )
        known |= flags.keys()
        words = [verb, *words, *(word for flag, group in passed_on.items() if flag in flags for word in group)]
        steps.append(Step(words, parse_arguments(f"benco {verb}", module, words[1:])))
        if verb == "train":
            trained[steps[-1].args.output_dir] = steps[-1].args.model
    for flag in passed_on:
        if flag not in known:
            raise DiffIMLError(f"no step of {args.target} has a flag {flag}{nearest(flag, known)}")
    return steps


def _model_to_come(words: list[str], trained: dict[str, str]) -> list[str]:
    """`--model` of a step's checkpoint, if a step before makes that: it has not the default model's flags."""
    path = words[words.index("--checkpoint_path") + 1] if "--checkpoint_path" in words else ""
    return [f"--model={trained[folder]}" for folder in (path, os.path.dirname(path)) if trained.get(folder)]


def _is_done(step: Step, runs: Path) -> bool:
    """Whether what the step makes is there, made of what is there now by the same settings; a training resumes."""
    from diffiml_plugin.cli.tamper import deciding
    from diffiml_plugin.tampering.stream import LIST

    verb, args = step.words[0], step.args
    if verb == "tamper":
        if not Path(args.output_dir, LIST).exists():
            return False
        made_with, now = Ledger(args.output_dir).runs.get("tamper", {}), deciding(args)
        both = made_with.keys() & now.keys()  # earlier versions noted less, or something else
        return all(made_with[name] == now[name] for name in both)
    if verb == "complexity" or not (files := _made_by(step)) or not all(map(Path.exists, files)):
        return False
    if verb == "release":
        return _is_of_sources(files[0], step, runs)
    if verb == "calibrate":
        made_so = _is_of_sources(files[0], step, runs) and _was_made_by(files[1], step)
        return made_so and _is_of_data(args, verb, args.test_data_path)
    made_so = _was_made_by(files[0], step) and _is_of_weights(files[0], args.checkpoint_path)
    return made_so and _is_of_data(args, files[0].name, [args.test_data_path])


def _made_by(step: Step) -> list[Path]:
    """The files that a verb makes anew: releases, calibrations, figures, costs; none of other verbs."""
    from diffiml_plugin.evaluation import robust, sweep, test
    from diffiml_plugin.prediction import calibrate

    verb, args = step.words[0], step.args
    if verb == "release":
        return [Path(args.target), Path(args.target).with_suffix(".md")]
    if verb == "calibrate" and args.output:
        reports = (calibrate.REPORT, calibrate.TABLE, calibrate.DIAGRAM)
        return [Path(args.output), *(Path(args.output_dir, name) for name in reports)]
    if verb == "complexity" and args.json:
        return [Path(args.json)]
    scored = {"test": test.FILES, "robust": robust.FILES, "sweep": sweep.FILES}
    return [Path(args.output_dir, name) for name in scored.get(verb, ())]


def _sources(step: Step) -> list[str]:
    """The weights and figures of which a release or a calibration into a file is made."""
    verb, args = step.words[0], step.args
    if verb == "release":
        return [*args.checkpoint_path, *([args.results] if args.results else [])]
    return [args.checkpoint_path] if verb == "calibrate" and args.output else []


def _digests(sources: Iterable[str]) -> list[str]:
    """The SHA-256 of each that is there; the verb says what is missing."""
    from diffiml_plugin.models.checkpoints import find_checkpoint

    digests = []
    for source in sources:
        with suppress(DiffIMLError):
            digests.append(file_digest(find_checkpoint(source)))
    return digests


def _run_of(runs: Path, file: Path) -> str:
    """What the ledger of all calls the step that made a file."""
    return f"reproduce {os.path.relpath(file, runs)}"


def _is_of_sources(file: Path, step: Step, runs: Path) -> bool:
    """Whether a release or a calibration was made of the weights and figures that are there now.

    Of one that no step made, dates have to tell.
    """
    from diffiml_plugin.models.checkpoints import find_checkpoint

    sources, known = _sources(step), Ledger(runs).runs.get(_run_of(runs, file))
    if known is not None:
        return known.get("sources") == _digests(sources)
    return all(file.stat().st_mtime_ns >= find_checkpoint(source).stat().st_mtime_ns for source in sources)


def _is_of_weights(results: Path, checkpoint: str) -> bool:
    """Whether a results file tells of these weights: their dates say little in a folder that was copied."""
    from diffiml_plugin.models.checkpoints import find_checkpoint

    return read_json(results).get("weights") == file_digest(find_checkpoint(checkpoint))


def _is_of_data(args: argparse.Namespace, run: str, lists: Sequence[str]) -> bool:
    """Whether the images and masks are still those that a command tested, as far as its ledger says."""
    from diffiml_plugin.data.lists import each_once, read_test_sets
    from diffiml_plugin.evaluation.records import data_settings

    tested = Ledger(args.output_dir).runs.get(run)
    if tested is None:  # earlier versions kept no ledger
        return True
    try:
        sets = [(name, each_once(listed)) for path in lists for name, listed in read_test_sets(path).items()]
    except DiffIMLError:  # which the command will say
        return False
    return all(tested.get(name) == value for name, value in data_settings(sets).items())


def _was_made_by(results: Path, step: Step) -> bool:
    """Whether the command that a results file tells of has the settings of the step, apart from how it runs."""
    try:
        _, verb, *words = shlex.split(read_json(results)["command"] or "")  # of None it would read stdin
        asks = any(word.startswith(("-h", "--help")) for word in words)
        configurations, weights = _files_of_settings(words)
        others = set(configurations) - set(_files_of_settings(step.words[1:])[0])
        if asks or verb != step.words[0] or others or weights not in (None, step.args.checkpoint_path):
            return False
        made_by = parse_arguments(f"benco {verb}", importlib.import_module(f"diffiml_plugin.cli.{verb}"), words)
    except (AttributeError, KeyError, TypeError, ValueError):  # of an earlier version, or by another program
        return False
    return _what(made_by) == _what(step.args)


def _files_of_settings(words: Sequence[str]) -> tuple[list[Place], str | None]:
    """What a command would open to know its settings: its configurations, and its checkpoint by name."""
    parser = Parser(add_help=False)
    parser.add_argument("--config", "--preset", action="append", default=[])
    parser.add_argument("--checkpoint_path")
    named, _ = parser.parse_known_args(words)
    return [find_config(name, Path()) for name in named.config], named.checkpoint_path


def _what(args: argparse.Namespace) -> dict[str, Any]:
    """What is computed, whoever says so."""
    return {name: setting.value for name, setting in args.settings.items() if name not in _HOW_IT_RUNS}
