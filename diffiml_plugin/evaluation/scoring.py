"""Scores a checkpoint on datasets: what `benco test`, `robust` and `sweep` have in common."""

import json
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import Tensor, nn

from diffiml_plugin import launch
from diffiml_plugin.data.examined import check_lists, name_and_size, state_here
from diffiml_plugin.data.lists import ImageList, each_once, read_test_sets, require_other_images
from diffiml_plugin.data.pairs import make_test_set
from diffiml_plugin.datasets.catalogue import kind_of
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.evaluation.evaluate import evaluate, require_one_process
from diffiml_plugin.evaluation.records import (
    Unfinished,
    code_digest,
    data_settings,
    digest,
    records_file,
    states,
    write_records,
)
from diffiml_plugin.evaluation.results import Header, Record, deciding_settings
from diffiml_plugin.evaluation.scores import score_batch
from diffiml_plugin.evaluation.settings import TestSettings
from diffiml_plugin.files import file_digest, require_unchanged, write_text
from diffiml_plugin.folders import make_folder
from diffiml_plugin.ledger import begin
from diffiml_plugin.models.checkpoints import find_checkpoint
from diffiml_plugin.models.compiled import speed_up
from diffiml_plugin.models.inputs import InputSettings
from diffiml_plugin.models.opened import open_model
from diffiml_plugin.models.registry import RegisteredModel, require_inputs
from diffiml_plugin.models.tiles import Tiled


@dataclass(frozen=True)
class Scoring:
    """A checkpoint, ready to be scored on `lists`. `header` begins every results file: what made the figures."""

    results_file: str
    settings: TestSettings
    card: RegisteredModel
    lists: dict[str, ImageList]
    state: PartialState
    model: nn.Module
    inputs: InputSettings
    header: Header
    _keys: list[str] = field(default_factory=list)  # of the records so far

    def records(
        self,
        name: str,
        variant: str = "clean",
        transform: Any = None,
        model: nn.Module | None = None,
        score: Callable[..., list[Record]] = score_batch,
    ) -> list[Record]:
        """The records of one dataset. Each batch's are on the disk at once; an interrupted run's serve here again.

        Args:
            variant: names what the next three arguments change.
            transform: applied to the images at their own size.
            model: in place of the checkpoint's.
            score: from the model's output and the batch to records.
        """
        listed = self.lists[name]
        code = code_digest(self.card.constructor)
        key = digest([code, self.header["configuration"], name, variant, states(listed, state_here)])
        self._keys.append(key)
        records = self._unfinished.read(key, len(listed.images))
        done = {record["index"] for record in records}
        if len(done) < len(listed.images):
            if self.settings.no_model_eval:  # a record depends on its batch's other images
                records, done = [], set()
                self._unfinished.remove(key)
            with self._unfinished.open(key) as keep:
                test_set = make_test_set(listed, self.inputs, self.card, transform, None if model else self.model)
                records += evaluate(
                    model or Tiled(self.model, test_set.inputs),
                    test_set,
                    self.settings,
                    self.state,
                    self.settings.precision,
                    title=f"{name} {variant}",
                    score=score,
                    done=done,
                    keep=keep,
                )
        records.sort(key=lambda record: record["index"])
        return [{"dataset": name, **_of_the_list(name, listed, record["index"]), **record} for record in records]

    def finish(self, results: Header, records: Iterable[Record]) -> None:
        """Writes the results and all records; from here on nothing is resumed."""
        if self.state.is_main_process:
            path = Path(self.settings.output_dir, self.results_file)
            write_records(records_file(path), records)
            write_text(path, json.dumps(results, indent=2, default=str) + "\n")
        self.state.wait_for_everyone()
        self._unfinished.remove(*self._keys)

    @property
    def _unfinished(self) -> Unfinished:
        folder = Path(self.settings.output_dir, f"{Path(self.results_file).stem}_unfinished")
        return Unfinished(folder, self.header["weights"][:16], self.state.process_index)


def open_scoring(
    settings: TestSettings,
    model_flags: Mapping[str, Any] | None,
    files: Sequence[str],
    varied: Mapping[str, Any] | None = None,
    captures: bool = True,
    command: str = "",
) -> Scoring:
    """Reads and checks the data, and restores the model as its checkpoint describes it.

    Args:
        files: that the verb writes, the results first.
        varied: what else decides the results.
        captures: as `speed_up` takes it.
        command: that the files are entered for in the ledger, if not the results' name.

    Raises:
        DiffIMLError: in the output folder others' files, or figures of other weights, data or settings; bad data,
            checkpoint or device.
    """
    path = find_checkpoint(settings.checkpoint_path)
    weights = file_digest(path)
    if not settings.test_data_path:
        raise DiffIMLError("give the test data by --test_data_path")
    sets = read_test_sets(settings.test_data_path)
    lists = {name: each_once(listed, settings.strict) for name, listed in sets.items()}
    require_other_images(lists, settings.strict)
    if launch.is_main_process():
        make_folder(settings.output_dir)
    state = launch.start_inference(settings.device)
    require_one_process(settings, state.num_processes)
    opened = open_model(settings.checkpoint_path, settings, state.device, settings.model, model_flags)
    card, inputs = opened.card, opened.inputs
    mirrored = settings.tta and not card.mirrors_itself
    if mirrored and card.reads_jpeg:
        raise DiffIMLError(f"{card.name} reads the JPEG file's coefficients, which cannot be mirrored; say --tta false")
    precision = launch.actual_precision(settings.precision, state.device.type == "cpu")  # "auto" depends on the device
    values = {**asdict(settings), **opened.flags, **asdict(inputs), "precision": precision}
    configuration = deciding_settings(values)
    data = data_settings(lists.items())
    deciding = {"model": card.name, "weights": weights, **data, **configuration, **(varied or {})}
    if state.num_processes > 1:
        files_of = [(name, *map(name_and_size, (*listed.images, *listed.masks))) for name, listed in lists.items()]
        own = {"model": card.name, "weights": weights, "images or masks": digest(files_of)}
        launch.require_alike({**own, **configuration, **(varied or {})})
    begin(settings.output_dir, command or files[0], deciding, [Path(settings.output_dir, name) for name in files])
    checked = check_lists(list(lists.values()), settings.keep_going)
    left_out = {name: count for name, count in zip(lists, checked.left_out, strict=True) if count}
    lists = dict(zip(lists, checked.lists, strict=True))
    if state.is_main_process:
        inputs.warn_if_cut(checked.longest, card.size_multiple)
    header: Header = {
        "command": shlex.join(sys.argv),
        "configuration": digest([card.name, weights, configuration]),
        "model": card.name,
        "checkpoint": str(path),
        "weights": weights,
        "left_out": left_out,
        "threshold": opened.threshold,
        "settings": values,
    }
    model = opened.build().to(state.device)
    require_unchanged(path, weights)
    speed_up(model, state.device, settings.precision, settings.compile, captures)
    if mirrored:  # DiffIML mirrors by itself, with noise of its own
        model = _Mirrored(model)
    return Scoring(files[0], settings, card, lists, state, model, inputs, header)


def _of_the_list(name: str, listed: ImageList, index: int) -> Record:
    """What the list says of an image; "kind" only where it does, or the image's name in a dataset of that name."""
    image = listed.images[index]
    kind = (listed.kinds[index] if listed.kinds else "") or kind_of(name, image)
    said: Record = {"path": image, "mask": listed.masks[index]}
    if kind:
        said["kind"] = kind
    return said


class _Mirrored(nn.Module):
    """Test-time augmentation of any model: the mean of its predictions for an image and for its mirror image."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, **inputs: Any) -> dict[str, Tensor]:
        require_inputs(self.model, inputs)
        flipped = {
            key: value.flip(-1) if isinstance(value, Tensor) and value.ndim == 4 else value
            for key, value in inputs.items()
        }
        upright = self.model(**inputs)  # which may change them
        mirrored = self.model(**flipped)
        mirrored["pred_mask"] = mirrored["pred_mask"].flip(-1)
        return {
            key: (upright[key] + mirrored[key]) / 2
            for key in ("pred_mask", "pred_label")
            if upright.get(key) is not None
        }
