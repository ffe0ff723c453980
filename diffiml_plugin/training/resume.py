"""The state of a training run, and how another goes on from it."""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.files import replacing
from diffiml_plugin.ledger import LEDGER, begin
from diffiml_plugin.stored import checked, shown
from diffiml_plugin.weights.foreign import require_filled, unpickle

STATE = "training_state.pt"
_FIELDS: dict[str, Any] = {
    "settings": dict,
    "model": dict,
    "optimizer": dict,
    "ema": dict | None,
    "scaler": dict | None,
    "update": int,
    "epoch": int,
    "done": int,
    "losses": dict,
    "device": str,
    "content": str,  # the digest of names and sizes of files, or of `distill`'s masks
    "bytes": str,  # of the lists' files
    "streams": str,
    "processes": int,
    "best": float | None,
    "minutes": float,  # of `benco distill`
}
_COUNTS = ("update", "epoch", "done", "minutes")
_TOTALS = {"epoch": "epochs", "update": "steps"}  # settings, the second of `benco distill` alone
# What a continued run may change: what leaves its result. Of the data, the content counts (`require_same`), and of the
# weights that it started from nothing is left to read.
_MAY_CHANGE = {
    "cache",
    "checkpoint_encoder",
    "checkpoint_path",
    "data_path",
    "device",
    "find_unused_parameters",
    "gpus",
    "keep_going",
    "log_dir",
    "log_per_epoch_count",
    "num_workers",
    "output_dir",
    "resume",
    "save_minutes",
    "save_period",
    "test_batch_size",
    "test_data_path",
}


class Writer:
    """Writes beside training, one thing after another. What goes wrong is raised by the next call."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._pending: Future | None = None

    def start(self, write: Callable[[], None]) -> None:
        """Calls `write` in another thread, once the last one is done; it must read nothing that training changes."""
        self.wait()
        self._pending = self._thread.submit(write)

    def wait(self) -> None:
        """Until all is written."""
        pending, self._pending = self._pending, None
        if pending:
            pending.result()


def snapshot(state: Any) -> Any:
    """A copy on the CPU of a tensor, or of all in dictionaries, lists and tuples."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, Mapping):
        return {key: snapshot(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(snapshot(value) for value in state)
    return state


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Writes the training state so that `path` is at any moment the old state or the whole new one.

    Raises:
        DiffIMLError: it cannot be written.
    """
    try:
        with replacing(path) as file:
            torch.save(dict(state), file)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
        reason = getattr(error, "strerror", None) or "the disk may be full"
        raise DiffIMLError(
            f"cannot write {path}: {reason}; free some space and go on with --resume auto (the earlier "
            "state is untouched)"
        ) from error


@contextmanager
def restoring() -> Iterator[None]:
    """Inside, whatever goes wrong is a training state that does not fit, which a DiffIMLError says."""
    try:
        yield
    except DiffIMLError:
        raise
    except Exception as error:  # torch answers odd states in any way
        raise DiffIMLError(
            f"the training state does not fit this model and optimizer ({type(error).__name__}); start anew in another "
            "--output_dir"
        ) from error


def begin_training(
    folder: Path, run: str, settings: Mapping[str, Any], weights: Sequence[str], beside: Sequence[str]
) -> None:
    """For before a training in `folder`, as `ledger.begin`.

    Args:
        run: the command.
        settings: all of it; "resume" is as `state_to_resume` takes it.
        weights, beside: names of the files that it is to write beside its state.

    Raises:
        DiffIMLError: a state there, or weights, that `resume` leaves behind; as `ledger.begin`.
    """
    state, resume = folder / STATE, settings["resume"]
    goes_on = bool(resume) and state.exists() and (resume == "auto" or state.samefile(resume))
    if state.exists() and not goes_on:
        raise DiffIMLError(
            f"{folder} holds a training run already; go on with --resume auto, or choose another --output_dir"
        )
    if not goes_on and (kept := [name for name in weights if os.path.lexists(folder / name)]):
        raise DiffIMLError(
            f"{folder} holds {' and '.join(kept)} of a run without its {STATE}, which would be overwritten; "
            "choose another --output_dir, or move them"
        )
    others = [path for name in (*weights, *beside) if os.path.lexists(path := folder / name)]
    if goes_on and others and not (folder / LEDGER).exists():  # as by `cp run/* .`, or of two runs
        raise DiffIMLError(
            f"{folder} lacks the {LEDGER} that says that {others[0].name} and {STATE} are of one run; bring that "
            f"along, or leave these as they are and go on elsewhere, by --resume {state} and another --output_dir"
        )
    files = [state, *(folder / name for name in (*weights, *beside))]
    adopted = [state] if goes_on and not others else []  # brought here alone
    begin(folder, run, None if goes_on else deciding(settings), files, adopted)


def deciding(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of a training's settings those that decide what comes of it."""
    return {name: value for name, value in settings.items() if name not in _MAY_CHANGE}


def state_to_resume(
    folder: Path, resume: str, settings: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The training state that `resume` asks for: "auto" that of `folder`, if any; "" none; else the file's.

    Args:
        settings: of the run that is to go on; the state's must agree.
        defaults: for settings that the version which stored the state did not have.

    Raises:
        DiffIMLError: a file that is missing, damaged or none of ours; a run with other settings, which are named.
    """
    path = folder / STATE if resume == "auto" else Path(resume)
    if not resume or (resume == "auto" and not path.exists()):
        return None
    state = unpickle(path)
    if not isinstance(state, dict) or not {"settings", "model", "optimizer"} <= state.keys():
        raise DiffIMLError(f"{path} is no training state; pass --resume auto, or a {STATE}")
    require_filled(state, path)
    checked(state, _FIELDS, str(path), others=True)
    for name in _COUNTS:
        if state.get(name, 0) < 0:
            raise DiffIMLError(f"{path}: {name} is {state[name]}; expected 0 or more")
    if (best := state.get("best")) is not None and not 0 <= best <= 1:
        raise DiffIMLError(f"{path}: best is {best}; expected an F1, 0 to 1")
    _require_plain(state["settings"], f"{path}: settings")
    earlier = {**defaults, **state["settings"]}
    for name, total in _TOTALS.items():
        if state.get(name, 0) > earlier.get(total, math.inf):
            raise DiffIMLError(f"{path}: {name} is {state[name]}; expected at most the run's {total}, {earlier[total]}")
    compared = (earlier.keys() & settings.keys()) - _MAY_CHANGE
    if settings.get("epochs", 0) > earlier.get("epochs", 0):  # a run goes on to more
        compared -= {"epochs"}
    changed = sorted(name for name in compared if earlier[name] != settings[name])
    if changed:
        listed = ", ".join(f"--{name} {shown(earlier[name])} (now {shown(settings[name])})" for name in changed)
        raise DiffIMLError(
            f"{path} was trained with other settings: {listed}; give those, or start anew in another --output_dir"
        )
    return state


def _require_plain(settings: dict[str, Any], place: str) -> None:
    """Raises DiffIMLError if settings hold what JSON cannot, such as a tensor, which no comparison takes."""
    try:
        json.dumps(settings)
    except (RecursionError, TypeError, ValueError) as error:
        raise DiffIMLError(f"{place} hold more than plain values; start anew in another --output_dir") from error
    checked(settings, {"epochs": int, "steps": int}, place, others=True)


def require_same(state: Mapping[str, Any], device: str, processes: int = 0, **data: str) -> None:
    """Raises DiffIMLError if the state is of another kind of device, whose noise differs, of another number of
    processes, or of other data.

    Args:
        state: whose version may not have stored these.
        processes: as far as they decide: 0 for a model without statistics of batches.
        data: digests, under the state's names.
    """
    if (before := state.get("device", device)) != device:
        raise DiffIMLError(
            f"the run began on --device {before}, and {device} draws other noise; go on there, or start anew from its "
            "last weights, in another --output_dir"
        )
    if processes and (before := state.get("processes", processes)) != processes:
        raise DiffIMLError(
            f"the run began with {before} processes, and has {processes} now: layers of BatchNorm would keep other "
            "statistics; start as many as before, or start anew from its last weights, in another --output_dir"
        )
    if any(state.get(name, digest) != digest for name, digest in data.items()):
        raise DiffIMLError(
            "the run's images or masks are not what they were: other files, another order, other content or styles; "
            "bring them back, or start anew from its last weights, in another --output_dir"
        )
