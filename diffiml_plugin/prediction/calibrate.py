"""`benco calibrate`: predicts images whose answer is known, and stores with the weights how far its answers hold."""

import json
import logging
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from tqdm import tqdm

from diffiml_plugin.data.examined import check_lists, in_parallel, in_turn, state_here
from diffiml_plugin.data.images import read_mask
from diffiml_plugin.data.lists import NEGATIVE, ImageList, each_once, read_test_sets, repeated
from diffiml_plugin.drawing import drawing
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.evaluation.calibrating import Answers, Bounds, Fitted, fit, mask_threshold
from diffiml_plugin.evaluation.calibration import FEATURES, features
from diffiml_plugin.evaluation.records import LIMIT, as_record, code_digest, data_settings, digest, write_records
from diffiml_plugin.evaluation.results import Record
from diffiml_plugin.evaluation.scores import score_batch
from diffiml_plugin.files import appending, require_unchanged, require_writable, write_text
from diffiml_plugin.folders import claimed
from diffiml_plugin.ledger import Ledger, begin
from diffiml_plugin.models.checkpoints import RELEASED, find_checkpoint
from diffiml_plugin.models.opened import OpenedModel, statements
from diffiml_plugin.models.release import CALIBRATED
from diffiml_plugin.prediction.detector import Detector, Failure
from diffiml_plugin.prediction.result import Result
from diffiml_plugin.stored import parse_json, read_text
from diffiml_plugin.weights import hub
from diffiml_plugin.weights.files import tensors_digest

RECORDS, REPORT, TABLE, DIAGRAM = "calibration.jsonl", "calibration.json", "calibration.md", "reliability.png"
_logger = logging.getLogger(__name__)
_READ_AS = (
    "Each image by a calibration that was made without it: of the other folds, or, left out, of the other sets. AUC, "
    "Cllr and ECE are of the probability. False alarms: authentic images that are called tampered; misses: tampered "
    "ones in which nothing is found; brackets: 95 % (Wilson)."
)


def calibrate(detector: Detector, lists: Sequence[str], output_dir: Path, target: Path, bounds: Bounds) -> Fitted:
    """Predicts the images of the lists, and writes the weights with their threshold and calibration.

    Started again, it goes on after the last image that was predicted. Into `output_dir` go the records, the figures
    (REPORT, TABLE) and the reliability diagram.

    Args:
        lists: as `read_test_sets` takes each.
        target: the file of weights to write; may be the checkpoint's own.
        bounds: what the answers may cost.

    Raises:
        DiffIMLError: another process writes to `output_dir`, or to the folder of a target that is the checkpoint's own
            file, as a training does; too few images; two sets of one name; lists of faulty files; a target that cannot
            be written; others' files there or in `output_dir`, or figures of other weights, lists or settings. All
            before the first prediction.
    """
    with claimed(output_dir):
        require_writable(target)
        in_place = _in_place(detector, target) and target.parent.resolve() != output_dir.resolve()
        with claimed(target.parent) if in_place else nullcontext():  # its training may be writing there
            return _calibrated(detector, lists, output_dir, target, bounds)


def _in_place(detector: Detector, target: Path) -> bool:
    return target.exists() and target.samefile(detector.opened.path)


def _calibrated(detector: Detector, lists: Sequence[str], output_dir: Path, target: Path, bounds: Bounds) -> Fitted:
    opened, files = detector.opened, [*(output_dir / name for name in (REPORT, TABLE, DIAGRAM)), target]
    in_place = [target] if _in_place(detector, target) else []
    tensors, metadata = opened.content()
    weights = tensors_digest(tensors)  # the file's own changes where it is the target
    sets = [(name, each_once(listed)) for path in lists for name, listed in read_test_sets(path).items()]
    _require_other_names(sets)
    pairs = [(name, *pair) for name, listed in sets for pair in zip(listed.images, listed.masks, strict=True)]
    if again := repeated([(image, mask) for _, image, mask in pairs]):
        _logger.warning(
            f"{len(again)} images stand in two lists, such as {next(iter(again.values()))}; each counts in the first"
        )
        pairs = [pair for number, pair in enumerate(pairs) if number not in again]
    predicted = {name: value for name, value in detector.deciding.items() if name not in ("model", "threshold")}
    predicted["weights"] = weights
    said = {field: value for field, value in statements(metadata).items() if field not in CALIBRATED}
    wrote_it = Ledger(output_dir).wrote(target)
    begin(output_dir, "calibrate", {**said, **predicted, **asdict(bounds), **data_settings(sets)}, files, in_place)
    check_lists([listed for _, listed in sets])
    tampered = in_parallel(in_turn(_is_tampered), [(image, mask) for _, image, mask in pairs], "counting")
    authentic = len(pairs) - sum(tampered)
    bounds.require_enough(authentic, len(pairs) - authentic)
    if in_place and not wrote_it and (replaced := _own_answers(opened)):
        _logger.warning(f"{target} has {', '.join(replaced)} of its own, which this replaces; --output FILE keeps them")
    records = _records(detector, predicted, pairs, output_dir / RECORDS)
    fitted = fit(records, bounds)
    fitted = replace(fitted, calibration=replace(fitted.calibration, precision=predicted["precision"]))
    threshold = mask_threshold(records, bounds.area)
    names = sorted({record["dataset"] for record in records})
    require_unchanged(opened.path, str(detector.description["sha256"]))
    opened.save(target, threshold=threshold, calibration=asdict(fitted.calibration), calibrated_on=names)
    _report(fitted, threshold, opened, weights, output_dir)
    return fitted


def _own_answers(opened: OpenedModel) -> list[str]:
    """What a checkpoint stores for its answers that a calibration with these settings puts others in the place of."""
    checkpoint = opened.checkpoint
    own = {"calibration": checkpoint and checkpoint.calibration, "threshold": opened.threshold}
    return [name for name, value in own.items() if value is not None] + opened.changed


def _require_other_names(sets: Sequence[tuple[str, ImageList]]) -> None:
    """Raises DiffIMLError if two sets have one name, which would make them one that cannot be left out."""
    sources: dict[str, str] = {}
    for name, listed in sets:
        if name in sources:
            raise DiffIMLError(
                f"{sources[name]} and {listed.source} are both called {name!r}, and would count as one set; name them "
                "in a JSON of {name: list}"
            )
        sources[name] = listed.source


def _records(
    detector: Detector, predicted: dict[str, Any], pairs: Sequence[tuple[str, str, str]], file: Path
) -> list[Record]:
    """A record with features of each image, in order, from an earlier run where nothing that it depends on changed.

    Images that cannot be predicted are logged and left out.

    Args:
        predicted: what decides the predictions: settings, and the digest of the tensors, since that of their file
            changes with its calibration.
        pairs: set, image and mask.
    """
    code = code_digest(detector.card.constructor)
    keys = [digest([code, predicted, FEATURES, state_here(image), state_here(mask), image]) for _, image, mask in pairs]
    known = {record["key"]: record for record in _kept(file)}
    missing = [(key, pair) for key, pair in zip(keys, pairs, strict=True) if key not in known]
    results = detector.predict(Path(image) for _, (_, image, _) in missing)
    bar = tqdm(results, "calibrate", len(missing), unit="img", disable=None)
    write_records(file, known.values())  # without a line that was cut short
    with appending(file) as kept:
        for (key, (name, image, mask)), result in zip(missing, bar, strict=True):
            if isinstance(result, Failure):
                _logger.warning(f"left out: {result.reason}")
                continue
            known[key] = {"key": key, "dataset": name, "path": image, "mask": mask, **_record(result, mask)}
            kept.write(json.dumps(known[key]).encode() + b"\n")
    return [{**known[key], "dataset": name} for key, (name, *_) in zip(keys, pairs, strict=True) if key in known]


def _kept(file: Path) -> list[Record]:
    """The whole lines that an earlier run left. Raises DiffIMLError if any is no record of this command."""
    if not file.exists():
        return []
    lines = read_text(file, LIMIT).splitlines(keepends=True)
    records = [as_record(parse_json(line, str(file)), str(file)) for line in lines if line.endswith("\n")]
    if any("key" not in record for record in records):
        raise DiffIMLError(f"{file} was not made by this command and is not overwritten; choose another --output_dir")
    return records


def _is_tampered(pair: tuple[str, str]) -> bool:
    _, mask = pair
    return mask != NEGATIVE and bool(read_mask(Path(mask)).any())


def _record(result: Result, mask: str) -> Record:
    """What counts of one image: its figures at each threshold, and its features, in the photo's own pixels."""
    truth = np.zeros(result.probability.shape, np.uint8) if mask == NEGATIVE else read_mask(Path(mask))
    (record,) = score_batch(
        {"pred_mask": torch.from_numpy(result.probability)[None, None]},
        {
            "mask": torch.from_numpy(truth)[None, None],
            "label": torch.tensor([int(truth.any())]),
            "name": [result.name],
            "index": torch.tensor([0]),
        },
        complete=True,
    )
    return {**record, "score": result.score, "features": features(result.probability, result.uncertainty).tolist()}


def _report(fitted: Fitted, threshold: float, opened: OpenedModel, weights: str, folder: Path) -> None:
    calibration = fitted.calibration
    facts = {
        "command": shlex.join(sys.argv),
        "model": opened.card.name,
        "checkpoint": str(opened.path),
        "threshold": threshold,
        **asdict(calibration),
        "weights": weights,
        "regression": dict(zip(FEATURES, calibration.weights, strict=True)),
    }
    write_text(folder / REPORT, json.dumps(facts, indent=1) + "\n")
    write_text(folder / TABLE, f"{fitted.table().markdown()}\n\n{_READ_AS}\n")
    with drawing(folder / DIAGRAM, (4, 4), dpi=150) as figure:
        _draw_diagram(figure.subplots(), {"cross-validated": fitted.crossed, "sets left out": fitted.left_out})


def _draw_diagram(axes: Axes, answers: dict[str, Answers | None]) -> None:
    """Of each bin of probability the share of images that are tampered; on the diagonal the two agree."""
    axes.plot((0, 1), (0, 1), color="0.7", linewidth=1)
    for name, answer in answers.items():
        if answer is not None:
            means, shares, counts = zip(*answer.reliability(), strict=True)
            axes.plot(means, shares, marker="o", label=f"{name}, ECE {answer.ece:.3f}")
            for point in zip(means, shares, counts, strict=True):
                axes.annotate(str(point[2]), point[:2], (3, -9), textcoords="offset points", fontsize=7)
    axes.set(xlabel="probability of an image", ylabel="share that is tampered", xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False)


def require_own_target(checkpoint_path: str, output: str) -> Path:
    """The file that the calibrated weights go to: `output`, or the checkpoint's own file.

    Raises:
        DiffIMLError: the checkpoint is no file of ours, or one that travels with the package or came from the hub, and
            there is no output; an output that is no .safetensors, which may be a report's place.
    """
    if output and not output.endswith(".safetensors"):
        raise DiffIMLError(f"{output} is no .safetensors file; name one")
    path = find_checkpoint(checkpoint_path)
    if path.suffix != ".safetensors":
        raise DiffIMLError(
            f"{path} has no room for a calibration; expected a .safetensors of `benco train` or `benco convert`"
        )
    travels = any(path.samefile(released) for released in RELEASED.values())
    if not output and (travels or hub.is_cached(path)):
        home = "travels with the package" if travels else "lies in the hub's cache"
        raise DiffIMLError(f"{checkpoint_path} {home} and stays as it is; name a file by --output")
    return Path(output or path)
