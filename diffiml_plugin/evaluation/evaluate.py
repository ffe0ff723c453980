"""One pass over a dataset: a record for each image."""

import logging
import math
from collections.abc import Callable, Container

import psutil
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import nn
from tqdm import tqdm

from diffiml_plugin import launch
from diffiml_plugin.data.order import SeededDataset, make_loader, plan_test, worker_count
from diffiml_plugin.data.packed import unpack
from diffiml_plugin.data.pairs import PairsDataset
from diffiml_plugin.errors import DiffIMLError, visible, wanted_memory
from diffiml_plugin.evaluation.results import Record
from diffiml_plugin.evaluation.scores import score_batch
from diffiml_plugin.launch import Sample
from diffiml_plugin.models.passes import Passes
from diffiml_plugin.models.registry import require_inputs
from diffiml_plugin.settings import CommonSettings

_logger = logging.getLogger(__name__)
_READ, _SCORED = 34, 105  # bytes of the computer's memory a pixel takes: loaded; loaded, predicted and scored there


def evaluate(
    model: nn.Module,
    dataset: PairsDataset,
    settings: CommonSettings,
    state: PartialState,
    precision: str,
    title: str = "test",
    score: Callable[..., list[Record]] = score_batch,
    done: Container[int] = (),
    keep: Callable[[list[Record]], None] | None = None,
) -> list[Record]:
    """The records (of `score`) of the images of `dataset`, in order, the same on every process.

    Each process takes every n-th image and none twice, so that no figure depends on batch size or process count.

    Args:
        done: the numbers of images that are passed over.
        keep: called with the records of each batch, on the process that made them.

    Raises:
        DiffIMLError: an image that does not fit into the memory, before any is read.
    """
    left = [index for index in range(len(dataset)) if index not in done]
    indices = left[state.process_index :: state.num_processes]
    loader = make_loader(
        SeededDataset(dataset, settings.seed),
        epoch=0,
        batches=plan_test(dataset, indices, settings.test_batch_size, _most_pixels(dataset, state.device)),
        workers=worker_count(settings.num_workers),
        device=state.device,
    )
    records: list[Record] = []
    bar = tqdm(loader, visible(title), leave=False, disable=None if state.is_main_process else True)
    passes = Passes(model)
    with launch.testing_mode(model, settings.no_model_eval), launch.autocast(state.device, precision):
        for batch in bar:
            of_batch = _scored(passes, unpack(batch, state.device), score)
            records += of_batch
            if keep:
                keep(of_batch)
    return sorted(gather_object(records), key=lambda record: record["index"])


def _most_pixels(dataset: PairsDataset, device: torch.device) -> float:
    """Of an image and its padding, that the computer's memory holds; those of the model's own size always are tried."""
    left = launch.MEMORY_SHARE * launch.host_memory() - psutil.Process().memory_info().rss
    return max(math.prod(dataset.output_size), left / (_SCORED if device.type == "cpu" else _READ))


def _scored(passes: Passes, batch: Sample, score: Callable[..., list[Record]]) -> list[Record]:
    """The records of one batch; where the GPU's memory is too small for it, of its halves."""
    inputs = {key: value for key, value in batch.items() if key not in ("index", "content")}
    require_inputs(passes.model, inputs)
    batch = batch | {key: batch[key].clone() for key in ("mask", "label")}  # a model may change what it is given
    try:
        with passes.one(batch["image"]):
            return score(passes.model(**inputs), batch)
    except torch.OutOfMemoryError as error:
        images, reason = len(batch["index"]), wanted_memory(error)
        if images == 1:
            size = "x".join(map(str, batch["image"].shape[-2:]))
            raise DiffIMLError(f"the GPU's memory is full with one image of {size} pixels: {reason}") from error
    _logger.warning(f"the GPU's memory is full with {images} images; the batch is halved ({reason})")
    torch.cuda.empty_cache()
    halves = ({key: value[part] for key, value in batch.items()} for part in _halves(images))
    return [record for half in halves for record in _scored(passes, half, score)]


def _halves(count: int) -> tuple[slice, slice]:
    return slice(0, count // 2), slice(count // 2, count)


def require_one_process(settings: CommonSettings, processes: int) -> None:
    """Raises DiffIMLError if testing in training mode would let processes wait for each other's batch statistics."""
    if settings.no_model_eval and processes > 1:
        raise DiffIMLError(
            f"--no_model_eval tests in training mode, in which {processes} processes would share batch "
            "statistics; leave it out, and test afterwards in one process"
        )
