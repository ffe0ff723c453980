"""`benco demo`: trains a small model on photographs at hand, and shows it at work on others it never saw."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from diffiml_plugin.data.images import read_image
from diffiml_plugin.data.lists import read_list
from diffiml_plugin.data.order import seed_all
from diffiml_plugin.data.pairs import test_transform
from diffiml_plugin.demo.photographs import photographs
from diffiml_plugin.demo.report import PICTURES, write_report
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.evaluation.records import RESULTS, read_records, records_file
from diffiml_plugin.evaluation.settings import TestSettings
from diffiml_plugin.evaluation.test import FILES as OF_TEST
from diffiml_plugin.evaluation.test import test
from diffiml_plugin.f1 import pixel_f1
from diffiml_plugin.ledger import Ledger, begin, discard
from diffiml_plugin.models.checkpoints import LAST, save_checkpoint
from diffiml_plugin.models.inputs import Inputs
from diffiml_plugin.models.opened import open_model
from diffiml_plugin.prediction.detector import Detector
from diffiml_plugin.prediction.files import FILES as OF_PREDICT
from diffiml_plugin.prediction.files import predict
from diffiml_plugin.settings import CommonSettings
from diffiml_plugin.tampering.settings import VISIBLE
from diffiml_plugin.tampering.stream import SyntheticTampering, write_tampered
from diffiml_plugin.training.engine import train
from diffiml_plugin.training.resume import STATE
from diffiml_plugin.training.resume import deciding as of_training
from diffiml_plugin.training.settings import TrainSettings

_SHOWN = 12  # images in the report
_UNTRAINED, _UNSEEN, _PAGE = "untrained.safetensors", "unseen", "report.html"
_COMMAND = "demo"  # by which the ledgers of all its folders tell its files from the user's
_BEFORE, _AFTER, _PREDICTIONS = "before", "after", "predictions"


@dataclass(frozen=True)
class DemoResult:
    """Mean pixel-F1 on the tampered images of the unseen photographs; `constant` is the best constant answer's."""

    before: float
    constant: float
    after: float
    report: Path


def demo(settings: TrainSettings, model_flags: Mapping[str, Any], train_images: int, test_images: int) -> DemoResult:
    """Tampers the photographs of `photographs`, tests, trains, tests again, predicts, and writes `report.html`.

    Args:
        settings: of the training; `output_dir` gets everything. The data paths are not read.
        model_flags: constructor flags of the model.
        train_images: tampered images per epoch, of the train photographs alone; no two epochs have one in common.
        test_images: tampered images, of the test photographs alone.

    Raises:
        DiffIMLError: as training does; files of others in `output_dir`, tests and predictions among them; no images
            asked for; a photograph is missing.
    """
    folder, training = Path(settings.output_dir), Path(settings.output_dir, "training")
    goes_on = (training / STATE).exists()
    if goes_on and not settings.resume:
        raise DiffIMLError(f"{folder} holds a demo already; go on with --resume auto, or choose another --output_dir")
    if min(train_images, test_images) < 1:
        raise DiffIMLError(f"--train_images {train_images} and --test_images {test_images} must be 1 or more")
    started = time.monotonic()
    opened = open_model(None, settings, torch.device("cpu"), settings.model, model_flags)
    card, inputs = opened.card, opened.inputs
    files = [*(folder / name for name in (_UNTRAINED, _PAGE, PICTURES)), *(folder / _UNSEEN).rglob("*.*")]
    images = {"train_images": train_images, "test_images": test_images}
    deciding = {**of_training(asdict(settings)), "model": card.name, **model_flags, **asdict(inputs), **images}
    if goes_on:  # perhaps to more epochs
        deciding["epochs"] = Ledger(folder).runs.get(_COMMAND, deciding).get("epochs")
    begin(folder, _COMMAND, deciding, files)
    _require_own(folder)

    def stream(part: str, images: int) -> SyntheticTampering:
        return SyntheticTampering(
            [photo.path for photo in photographs(part)],
            Inputs(inputs),
            test_transform(),
            card.post_function,
            samples=images,
            authentic=0,
            window=inputs.image_size,
            settings=VISIBLE,
        )

    def tested(checkpoint: Path, name: str) -> list[dict[str, Any]]:
        discard(folder / name, run=_COMMAND)  # of its earlier weights
        test(
            TestSettings(
                checkpoint_path=str(checkpoint),
                test_data_path=str(unseen),
                device=settings.device,
                num_workers=settings.num_workers,
                output_dir=str(folder / name),
            ),
            command=_COMMAND,
        )
        return [dict(record) for record in read_records(records_file(folder / name / RESULTS))]

    # 1. Tampered images of photographs that training never sees, and what a model scores that knows nothing.
    unseen = write_tampered(stream("test", test_images), folder / _UNSEEN, settings.seed)
    seed_all(settings.seed)
    save_checkpoint(folder / _UNTRAINED, opened.build(), card.name, opened.flags, input=asdict(inputs))
    print("before training:")
    before = tested(folder / _UNTRAINED, _BEFORE)

    # 2. Training, and the same test.
    train(replace(settings, output_dir=str(training)), model_flags, stream("train", train_images))
    print("after training:")
    after = tested(training / LAST, _AFTER)

    # 3. Masks of unseen pictures.
    shown = [record["path"] for record in after[:_SHOWN]]
    discard(folder / _PREDICTIONS, run=_COMMAND)  # of another training
    detector = Detector(training / LAST, CommonSettings(device=settings.device))
    predict(detector, shown, folder / _PREDICTIONS, command=_COMMAND)

    # 4. The report.
    result = DemoResult(_mean_f1(before), _best_constant(unseen), _mean_f1(after), folder / _PAGE)
    figures = {
        "pixel-F1 before training": result.before,
        "the best constant answer": result.constant,
        "pixel-F1 after training": result.after,
    }
    effort = f"trained on {settings.epochs * train_images} images"
    if not goes_on:  # else an earlier start took its share
        effort += f" in {(time.monotonic() - started) / 60:.1f} minutes, tests included"
    write_report(result.report, figures, f"{settings.model}, {effort}", after, folder / _PREDICTIONS, _SHOWN)
    return result


def _require_own(folder: Path) -> None:
    """Raises DiffIMLError if a test or a prediction, where the demo's are made anew, is not the demo's."""
    for name, files in ((_BEFORE, OF_TEST), (_AFTER, OF_TEST), (_PREDICTIONS, OF_PREDICT)):
        ledger = Ledger(folder / name)
        for file in files:
            ledger.require_own(folder / name / file, _COMMAND)


def _mean_f1(records: list[dict[str, Any]]) -> float:
    return fmean(record["f1"] for record in records)


def _best_constant(listing: Path) -> float:
    """Pixel-F1 of calling every pixel tampered: 2a / (1 + a) for a region of share a. Calling none so scores 0."""
    shares = [float(np.mean(read_image(Path(mask)) > 127)) for mask in read_list(listing).masks]
    return fmean(pixel_f1(share, 1.0, share) for share in shares)
