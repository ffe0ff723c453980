"""What a training run says: one progress line, log.jsonl, TensorBoard, and how it was started."""

import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
import yaml
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams
from tqdm import tqdm

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.evaluation.records import versions_of
from diffiml_plugin.files import beginning, write_text
from diffiml_plugin.folders import require_claims_held
from diffiml_plugin.framework.imdlbenco import denormalize
from diffiml_plugin.prediction.pictures import headed
from diffiml_plugin.settings import escaped
from diffiml_plugin.stored import read_json
from diffiml_plugin.training.log import Log

RUN, CONFIG = "run.json", "config.yaml"
_TRUTHS = {"mask": "truth", "edge_map": "true edges", "edge_mask": "true edges, a band"}  # key of a batch -> heading
_PACKAGES = (
    "diffiml-plugin",
    "torch",
    "imdlbenco",
    "accelerate",
    "timm",
    "albumentations",
    "numpy",
    "opencv-python-headless",
    "opencv-python",
)


class PassRecord(TypedDict):
    """One pass over the data."""

    loss: dict[str, float]  # by name, the means over the epoch
    update: int  # optimizer steps so far
    lr: float
    images_per_second: float  # of an epoch that was interrupted, since then
    data_wait: float  # share of that time in which training waited for data


class _Epoch(PassRecord):
    epoch: int


class EpochRecord(_Epoch, total=False):
    """A line of the log; of an epoch that was tested, with the summary of each test set and what F1 they have."""

    test: dict[str, dict[str, Any]]
    f1: float


class Tracker:
    """Reports one run. On a terminal one line that moves; elsewhere one line per epoch.

    Args:
        folder: of log.jsonl; lines of epochs from `first_epoch` on, of a run that is resumed, are dropped.
        log_dir: of the TensorBoard files (`curves_folder`).
        epochs, images: of the whole run, and of one epoch.
        updates: of the weights so far. What TensorBoard has of later ones, which a resumed run repeats, it drops, as
            what it has of a run that was in this folder before.
    """

    def __init__(self, folder: Path, log_dir: Path, epochs: int, images: int, first_epoch: int = 0, updates: int = 0):
        self.log, self.epochs = Log(folder, "epoch", first_epoch), epochs
        self.writer = SummaryWriter(str(log_dir), purge_step=updates + 1)
        self.started, self.first_epoch = time.monotonic(), first_epoch
        done = first_epoch * images
        self.bar = tqdm(total=epochs * images, initial=done, unit="img", disable=None, dynamic_ncols=True)

    def describe(self, configuration: Mapping[str, Any]) -> None:
        """Shows the settings as text, and their plain values among TensorBoard's hyperparameters, beside the F1."""
        plain = {name: value for name, value in configuration.items() if isinstance(value, bool | int | float | str)}
        with self._curves() as curves:
            curves.add_text("config", f"```yaml\n{_as_yaml(configuration)}```")
            for summary in hparams(plain, {"F1": None}):
                curves._get_file_writer().add_summary(summary)

    def step(self, images: int) -> None:
        """So many images more have been trained on."""
        self.bar.update(images)

    def losses(self, values: Mapping[str, float], learning_rate: float, update: int) -> None:
        """A point of the loss curves."""
        with self._curves() as curves:
            for name, value in values.items():
                curves.add_scalar(f"train_loss/{name}", value, update)
            curves.add_scalar("lr", learning_rate, update)

    def epoch(self, record: EpochRecord) -> None:
        """The end of an epoch."""
        self.log.add(record)
        with self._curves() as curves:
            for dataset, summary in record.get("test", {}).items():
                for figure in summary.keys() - {"images", "tampered"}:
                    curves.add_scalar(f"{figure}/{dataset}", summary[figure], record["update"])
            if "f1" in record:
                curves.add_scalar("F1", record["f1"], record["update"])

        shown = {name: f"{value:.4f}" for name, value in [*record["loss"].items()][:1]}
        shown |= {"lr": f"{record['lr']:.1e}"} | ({"F1": f"{record['f1']:.4f}"} if "f1" in record else {})
        done = record["epoch"] + 1
        if self.bar.disable:
            elapsed = time.monotonic() - self.started
            left = timedelta(seconds=round(elapsed / (done - self.first_epoch) * (self.epochs - done)))
            shown |= {"img/s": f"{record['images_per_second']:.1f}", "left": str(left)}
            figures = (f"{name} {value}" for name, value in shown.items())
            print(f"epoch {done}/{self.epochs}", *figures, sep="  ", flush=True)
        else:
            self.bar.set_description(f"epoch {done}/{self.epochs}", refresh=False)
            self.bar.set_postfix(shown)

    def pictures(self, strips: Tensor, update: int) -> None:
        """Shows strips [B, 3, H, W] in [0, 1], one below the other."""
        with self._curves() as curves:
            curves.add_image("test/strips", torch.cat([*strips], dim=1), update)

    @contextmanager
    def _curves(self) -> Iterator[SummaryWriter]:
        """TensorBoard's writer, which opens its file by name each time: all that it gets is there when the block ends.
        Raises DiffIMLError if the folder of that name is no longer this run's."""
        require_claims_held(Path(self.writer.log_dir, "events"))
        yield self.writer
        self.writer.flush()

    def close(self) -> None:
        """Ends the line and the files."""
        self.bar.close()
        self.writer.close()


@contextmanager
def failing_once() -> Iterator[None]:
    """Inside, TensorBoard's thread prints no traceback of what ends it: it keeps that, and the next point raises it."""
    before = threading.excepthook

    def told(failed: threading.ExceptHookArgs) -> None:
        if getattr(failed.thread, "exception", None) is not failed.exc_value:
            before(failed)

    threading.excepthook = told
    try:
        yield
    finally:
        for thread in threading.enumerate():
            if getattr(thread, "exception", None) is not None:  # it is about to tell
                thread.join()
        threading.excepthook = before


def curves_folder(folder: Path, log_dir: str) -> Path:
    """Of the TensorBoard files: the run's own folder, or one for this run alone in a `log_dir` that others may share.

    TensorBoard shows each folder as a run, and all files in it as one.
    """
    place = os.path.realpath(folder)
    if not log_dir or os.path.realpath(log_dir) == place:
        return folder
    return Path(log_dir, f"{beginning(os.path.basename(place))}_{hashlib.sha256(os.fsencode(place)).hexdigest()[:8]}")


def picture_strips(batch: Mapping[str, Any], output: Mapping[str, Any]) -> Tensor:
    """Each image beside its truth, edge map, prediction and what else the model shows, each below its name.

    Args:
        batch: of the framework's dataset.
        output: of the model; of `visual_image`, the pictures of the batch's size count.

    Returns:
        [B, 3, H + HEADING, n W] in [0, 1]; the uncertainty, a standard deviation, is brightest at 0.5.
    """
    count, _, *size = batch["image"].shape
    tiles = {"image": denormalize(batch["image"])}
    tiles |= {name: batch[key] for key, name in _TRUTHS.items() if key in batch}
    tiles |= {"probability": output["pred_mask"]} | (output.get("visual_image") or {})
    if "uncertainty" in output:
        tiles["uncertainty"] = 2 * output["uncertainty"]
    shown = {name: tile for name, tile in tiles.items() if tile.shape in ((count, 1, *size), (count, 3, *size))}
    pictures = {
        name: (tile.detach().float().expand(-1, 3, -1, -1).clamp(0, 1) * 255).byte().movedim(1, 3).cpu().numpy()
        for name, tile in shown.items()
    }
    rows = [np.hstack([headed(tile[i], name) for name, tile in pictures.items()]) for i in range(count)]
    return torch.from_numpy(np.stack(rows)).movedim(3, 1) / 255


def describe_run(folder: Path, configuration: Mapping[str, Any]) -> None:
    """Writes config.yaml, which `--config` takes, and to run.json, a list, how this start came about.

    Constructor arguments that are lists have no flag, and are stored with the weights alone.
    """
    path = folder / RUN  # first: it says that the others are ours
    starts = read_json(path) if path.exists() else []
    if not isinstance(starts, list):
        raise DiffIMLError(f"{path} is no list of starts; remove it, or choose another --output_dir")
    versions = {"python": platform.python_version(), **versions_of(_PACKAGES)}
    start = {"command": shlex.join(sys.argv), "versions": versions, "git": _git_revision(), "host": platform.node()}
    write_text(path, json.dumps([*starts, start], indent=2) + "\n")
    write_text(folder / CONFIG, _as_yaml(configuration))


def _as_yaml(configuration: Mapping[str, Any]) -> str:
    flags = {name: escaped(value) for name, value in configuration.items() if not isinstance(value, (list, tuple))}
    return yaml.safe_dump(flags, sort_keys=False)


def _git_revision() -> str | None:
    """Of the checkout this package runs from, with "+changes" where its files differ; None if it is installed.

    Git reads objects alone. Where it looks at files, the configuration of the repository around them, which anyone may
    have sent, has it run programs: monitors of files, filters, hooks.
    """
    package = Path(__file__).parents[1]
    nothing_fetched = {**os.environ, "GIT_ALLOW_PROTOCOL": "none"}

    def git(*words: str) -> str:
        command = ["git", "-C", str(package.parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=nothing_fetched).stdout.strip()

    try:
        revision = git("rev-parse", "HEAD")
        listed = git("ls-tree", "-r", "-z", revision, "--", package.name)  # nothing in another project's environment
        entries = [entry.split("\t") for entry in listed.split("\0") if entry]
        ids = {package.parent / path: words.split()[-1] for words, path in entries}
        changed = any(not file.is_file() or _git_id(file, len(known)) != known for file, known in ids.items())
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None
    return revision + "+changes" * changed if ids else None


def _git_id(file: Path, digits: int) -> str:
    """What git calls a file of this content: by SHA-1, in a repository of longer names by SHA-256."""
    content = file.read_bytes()
    header = b"blob %d\0" % len(content)
    return hashlib.new("sha1" if digits == 40 else "sha256", header + content, usedforsecurity=False).hexdigest()
