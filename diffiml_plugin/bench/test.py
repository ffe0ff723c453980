"""`benco test`: scores a model on one or many datasets, each image once however many processes there are."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import nn
from tqdm import tqdm

from diffiml_plugin.bench import checkpoints, launch
from diffiml_plugin.bench.data import (
    InputSettings,
    PairsDataset,
    SeededDataset,
    make_loader,
    test_transform,
    to_device,
    worker_count,
)
from diffiml_plugin.bench.imagecheck import check_lists
from diffiml_plugin.bench.imagelists import read_test_sets
from diffiml_plugin.bench.models import post_function
from diffiml_plugin.bench.scores import PIXEL_FIGURES, Record, average, score_batch, summarise
from diffiml_plugin.bench.settings import CommonSettings, TestSettings
from diffiml_plugin.errors import DiffIMLError

_COLUMNS = {  # of the printed table
    "images": "images",
    PIXEL_FIGURES["f1"]: "pixel F1",
    PIXEL_FIGURES["iou"]: "IoU",
    PIXEL_FIGURES["auc_sklearn"]: "AUC",
    "false_alarm_area": "false alarm",
    "image-level F1": "image F1",
    "image-level AUC": "image AUC",
}


def test(settings: TestSettings, model_flags: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Tests a checkpoint; writes `results.json` and `per_image.jsonl` to `settings.output_dir`, prints a table.

    Args:
        model_flags: constructor flags of the model that differ from the checkpoint's.

    Returns:
        what `results.json` holds: model, checkpoint, settings, datasets (figures by name), mean.

    Raises:
        DiffIMLError: bad data, checkpoint or device, said before the first prediction where it can be known.
    """
    # 1. The data.
    if bool(settings.test_data_json) == bool(settings.test_data_path):
        raise DiffIMLError("give the test data by --test_data_json or by --test_data_path, one of them")
    lists = read_test_sets(settings.test_data_json or settings.test_data_path)
    if launch.is_main_process():
        check_lists(list(lists.values()), progress=True)

    # 2. The model, as its checkpoint describes it.
    state = launch.start_inference(settings.device)
    shared = {**asdict(settings), "device": str(state.device)}
    restored = checkpoints.restore(settings.checkpoint_path, settings.model, model_flags, shared)
    inputs = InputSettings.of(settings, restored.input)
    post = post_function(restored.name)

    # 3. Every dataset; the figures of each image.
    model, records = restored.model.to(state.device), []
    for name, listed in lists.items():
        dataset = PairsDataset(listed, **inputs.framework(test_transform(), post))
        found = evaluate(model, dataset, settings, state, settings.precision, title=name, with_auc=True)
        records += [{"dataset": name, "path": listed.images[record["index"]], **record} for record in found]

    # 4. The report.
    summaries = {name: summarise(r for r in records if r["dataset"] == name) for name in lists}
    results = {
        "model": restored.name,
        "checkpoint": str(restored.path),
        "settings": {**asdict(settings), **restored.flags, **asdict(inputs)},
        "datasets": summaries,
        "mean": average(summaries.values()),
    }
    if state.is_main_process:
        _write(Path(settings.output_dir), results, records)
        print(table(results))
    return results


def evaluate(
    model: nn.Module,
    dataset: PairsDataset,
    settings: CommonSettings,
    state: PartialState,
    precision: str,
    title: str = "test",
    with_auc: bool = False,
) -> list[Record]:
    """The records (`scores.score_batch`) of all images of `dataset`, in order, the same on every process.

    Each process takes every n-th image and none twice, so that no figure depends on batch size or process count.
    """
    indices = list(range(len(dataset)))[state.process_index::state.num_processes]
    size = settings.test_batch_size
    loader = make_loader(
        SeededDataset(dataset, settings.seed),
        epoch=0,
        batches=[tuple(indices[start:start + size]) for start in range(0, len(indices), size)],
        workers=worker_count(settings.num_workers, state.num_processes),
        device=state.device,
    )
    records = []
    bar = tqdm(loader, title, leave=False, disable=None if state.is_main_process else True)
    with testing_mode(model, settings.no_model_eval), launch.autocast(state.device, precision):
        for batch in bar:
            batch = to_device(batch, state.device)
            inputs = {key: value for key, value in batch.items() if key != "index"}
            records += score_batch(model(**inputs), batch, with_auc)
    return sorted(gather_object(records), key=lambda record: record["index"])


@contextmanager
def testing_mode(model: nn.Module, no_model_eval: bool = False) -> Iterator[None]:
    """Without gradients, and in test mode unless `no_model_eval`; afterwards as before."""
    was_training = model.training
    model.train(no_model_eval)
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def table(results: Mapping[str, Any]) -> str:
    """The figures of each dataset and their mean, as aligned text."""
    rows = {**results["datasets"], "mean": results["mean"]}
    shown = {figure: head for figure, head in _COLUMNS.items() if any(figure in row for row in rows.values())}
    width = max(map(len, rows)) + 2
    lines = ["".ljust(width) + "".join(head.rjust(12) for head in shown.values())]
    for name, row in rows.items():
        cells = (row.get(figure) for figure in shown)
        lines.append(name.ljust(width) + "".join(_cell(value).rjust(12) for value in cells))
    return "\n".join(lines)


def _cell(value: float | int | None) -> str:
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.4f}"


def _write(folder: Path, results: dict[str, Any], records: list[Record]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "per_image.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        (folder / "results.json").write_text(json.dumps(results, indent=2, default=str) + "\n")
    except OSError as error:
        raise DiffIMLError(f"cannot write the results to {folder}: {error.strerror}; free some space or choose "
                           "another --output_dir") from error
