"""`benco train`: one engine for every model of the registry, on the CPU, one GPU or many."""

import errno
import logging
import math
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from diffiml_plugin import launch, signals
from diffiml_plugin.data import pairs as data
from diffiml_plugin.data.examined import check_lists
from diffiml_plugin.data.lists import each_once, read_test_sets, require_other_images
from diffiml_plugin.data.order import (
    EpochLoader,
    MicroBatch,
    Samples,
    SeededDataset,
    ends_of_updates,
    make_loader,
    plan_test,
    plan_turns,
    seed_all,
    worker_count,
)
from diffiml_plugin.data.packed import unpack
from diffiml_plugin.errors import DiffIMLError, wanted_memory
from diffiml_plugin.evaluation.evaluate import evaluate, require_one_process
from diffiml_plugin.evaluation.scores import PIXEL_FIGURES, average, score_batch, summarise
from diffiml_plugin.files import file_digest
from diffiml_plugin.folders import claimed
from diffiml_plugin.models import checkpoints
from diffiml_plugin.models.inputs import InputSettings
from diffiml_plugin.models.opened import open_model
from diffiml_plugin.models.passes import forward_explained
from diffiml_plugin.models.registry import RegisteredModel, require_inputs
from diffiml_plugin.models.tiles import Tiled
from diffiml_plugin.signals import Stopped
from diffiml_plugin.training.log import LOG
from diffiml_plugin.training.optimization import (
    Learner,
    LossMeter,
    LossWatch,
    accumulation,
    adamw,
    keeping,
    learning_rate,
)
from diffiml_plugin.training.resume import (
    STATE,
    Writer,
    begin_training,
    deciding,
    require_same,
    restoring,
    save_state,
    snapshot,
    state_to_resume,
)
from diffiml_plugin.training.settings import TrainSettings
from diffiml_plugin.training.sources import bytes_digest, files_digest, parts_of, read_training_set, streams_digest
from diffiml_plugin.training.tracking import (
    CONFIG,
    RUN,
    EpochRecord,
    PassRecord,
    Tracker,
    curves_folder,
    describe_run,
    failing_once,
    picture_strips,
)
from diffiml_plugin.weights.files import save_weights

_logger = logging.getLogger(__name__)
_STRIPS = 4  # images shown in TensorBoard
_KEPT = "epoch_{}.safetensors"  # each --save_period


@dataclass(frozen=True)
class Trained:
    """`folder` holds the checkpoints; `f1` is the best validation pixel-F1, None without tampered images to test."""

    folder: Path
    f1: float | None


def train(
    settings: TrainSettings, model_flags: Mapping[str, Any] | None = None, dataset: Samples | None = None
) -> Trained:
    """Trains a model and leaves checkpoints, logs and the run's description in `settings.output_dir`.

    Args:
        model_flags: constructor flags of the model.
        dataset: of the framework's samples, instead of the one `settings.data_path` names.

    Raises:
        DiffIMLError: another run's folder; bad data, flags or device, said before training starts where it can be
            known; a loss that is not finite; full memory or a full disk.
    """
    try:
        claim = claimed(settings.output_dir) if launch.is_main_process() else nullcontext()
        with claim, failing_once(), launch.deterministic(settings.deterministic):
            folder = Path(settings.output_dir)
            weights = (checkpoints.LAST, checkpoints.BEST, *(file.name for file in folder.glob(_KEPT.format("*"))))
            flags = dict(model_flags or {})
            begin_training(folder, "train", {**asdict(settings), **flags}, weights, (RUN, CONFIG, LOG))
            return _Run(settings, flags, dataset).train()
    except torch.cuda.OutOfMemoryError as error:
        raise DiffIMLError(
            f"the GPU's memory is full: lower --batch_size {settings.batch_size} (the total stays "
            f"{settings.total_batch_size}); {wanted_memory(error)}"
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiffIMLError(
            f"the disk of {settings.output_dir} is full; free some space and go on with --resume auto "
            "(earlier checkpoints are untouched)"
        ) from error
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):  # torch's
            raise
        raise DiffIMLError(
            f"{settings.model} normalises over the images of a batch, and --batch_size {settings.batch_size} gives it "
            "one; raise that to 2 or more"
        ) from error


def _checkpoint_encoder(card: RegisteredModel, model: nn.Module) -> None:
    """Lets the backward pass compute the encoder's activations anew, block by block, in place of keeping them.

    Raises:
        DiffIMLError: a model without an encoder of ours.
    """
    if card.backbone is None:
        raise DiffIMLError(f"--checkpoint_encoder is of DiffIML's encoders; {card.name} has none: leave it out")
    encoder: Any = card.backbone(model)
    encoder.set_grad_checkpointing()


class _Step(nn.Module):
    """What DDP and autocast wrap, so that the model inside stays plain for testing."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, Any], if_predict_label: bool) -> dict[str, Any]:
        return self.model(**batch, if_predcit_label=if_predict_label)  # the framework's spelling


class _Run:
    def __init__(self, settings: TrainSettings, model_flags: dict[str, Any], dataset: Samples | None):
        self.folder = Path(settings.output_dir)
        # 1. The device, and what follows from the number of processes.
        self.accelerator = launch.start(settings.device, settings.precision, settings.find_unused_parameters)
        self.device, self.processes = self.accelerator.device, self.accelerator.num_processes
        require_one_process(settings, self.processes)
        self.accumulation = accumulation(settings.total_batch_size, settings.batch_size, self.processes)

        # 2. The model, new or as it was left.
        seed_all(settings.seed)
        opened = open_model(settings.checkpoint_path or None, settings, self.device, settings.model, model_flags)
        card, self.flags, self.inputs = opened.card, opened.flags, opened.inputs
        for side in settings.windows:
            card.require_size(side, settings.windows_setting)
        if settings.encoder_lr and not card.backbone:
            raise DiffIMLError(f"--encoder_lr {settings.encoder_lr} is of DiffIML's encoders; {card.name} has none")
        self.settings = settings = replace(settings, model=card.name)
        self.configuration = {
            **asdict(settings),
            **asdict(self.inputs),
            **checkpoints.storable(self.flags),
            "precision": launch.precision_of(self.accelerator),
        }
        defaults = {**asdict(TrainSettings()), **asdict(InputSettings())}
        state = state_to_resume(self.folder, settings.resume, self.configuration, defaults)
        model = opened.build(pretrained=not state)
        if settings.checkpoint_encoder:
            _checkpoint_encoder(card, model)

        # 3. The data.
        dataset = self._read_data(card, model, dataset)
        if self.processes > 1:
            own = {"images or masks": self.data["content"], "photographs or styles": self.data["streams"]}
            own["weights"] = file_digest(opened.path) if opened.checkpoint else ""
            own[STATE] = str([state.get(name) for name in ("update", "epoch", "done")] if state else None)
            launch.require_alike({**deciding(self.configuration), **own})
        require_inputs(model, self.dataset[0, 0])

        # 4. The optimizer.
        if self.processes > 1 and self.device.type == "cuda":
            model = convert_sync_batchnorm(model)  # timm's: torch's drops the activations of timm's norms
        model = model.to(self.device)
        backbone = card.backbone and card.backbone(model)
        self.recomputed = list(backbone.buffers()) if backbone and settings.checkpoint_encoder else []
        optimizer = adamw(model, settings.lr, settings.weight_decay, backbone, settings.encoder_lr)
        self.learner = Learner(model, optimizer, settings.ema_decay)
        norms = (layer for layer in model.train().modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm))
        self.in_statistics = any(layer.training for layer in norms)  # frozen ones have theirs
        self.least = min(2 if self.in_statistics else 1, settings.batch_size)  # images that have a variance
        self.parts = parts_of(dataset, settings.batch_size)
        self.updates = sum(  # of an epoch
            math.ceil(images / (size * self.accumulation * self.processes)) for images, size in self.parts
        )
        workers = min(worker_count(settings.num_workers), self.updates * self.accumulation)
        self.loader = EpochLoader(self.dataset, workers, self.device)
        self.watch, self.meter, self.writer = LossWatch(), LossMeter(), Writer()
        self.votes = launch.host_group(self.processes)
        self.epoch = self.done = 0  # epochs done, and updates of the present one
        self.best: float | None = None  # pixel-F1
        self.resumed = bool(state)
        if state:
            with restoring():
                self._restore(state)
        self.kept_at = time.monotonic()
        # DDP need not look for the graph of a model that is the same in each step; accumulating changes it.
        self.accelerator.ddp_handler.static_graph = card.samples and self.accumulation == 1
        self.step, self.learner.optimizer = self.accelerator.prepare(_Step(model), optimizer)

    def _read_data(self, card: RegisteredModel, model: nn.Module, dataset: Samples | None) -> Samples:
        """The training set, read unless it is given; it and the test sets are looked at before training starts."""
        settings, check = self.settings, self.accelerator.is_main_process
        if dataset is None and not settings.data_path:
            raise DiffIMLError("give the training set with --data_path")
        if dataset is None:
            dataset = read_training_set(settings, self.inputs, card.post_function, check)
        self.dataset = SeededDataset(dataset, settings.seed)
        lists = read_test_sets(settings.test_data_path) if settings.test_data_path else {}
        if lists:
            checked = check_lists([each_once(listed) for listed in lists.values()], settings.keep_going)
            lists = dict(zip(lists, checked.lists, strict=True))
            if check:
                require_other_images(lists)
                self.inputs.warn_if_cut(checked.longest, card.size_multiple)
        self.tests = {
            name: data.make_test_set(listed, self.inputs, card, model=model) for name, listed in lists.items()
        }
        datasets = [dataset, *self.tests.values()]
        self.data = {
            "content": files_digest(datasets),
            "bytes": bytes_digest(datasets),
            "streams": streams_digest(datasets),
        }
        return dataset

    def train(self) -> Trained:
        self.tracker = None
        if self.accelerator.is_main_process:
            describe_run(self.folder, self.configuration)
            log_dir = curves_folder(self.folder, self.settings.log_dir)
            self.tracker = Tracker(
                self.folder, log_dir, self.settings.epochs, len(self.dataset), self.epoch, self.learner.updates
            )
            self.tracker.describe(self.configuration)
        try:
            if not self.resumed:
                self._keep()  # from here on the folder is this run's
            with signals.noted() as self.request:
                while self.epoch < self.settings.epochs:
                    self._train_and_keep_epoch()
        except KeyboardInterrupt as stopped:
            self.writer.wait()
            number = stopped.number if isinstance(stopped, Stopped) else signal.SIGINT
            raise Stopped(number, f"go on with --resume auto, from the state in {self.folder}") from None
        finally:
            try:
                self.writer.wait()
            finally:
                if self.tracker:
                    self.tracker.close()
        return Trained(self.folder, self.best)

    def _train_and_keep_epoch(self) -> None:
        record: EpochRecord = {"epoch": self.epoch, **self._train_epoch()}
        if self.tests and (self.epoch + 1 == self.settings.epochs or (self.epoch + 1) % self.settings.test_period == 0):
            self._keep_or_stop(now=True)
            with signals.raised():  # it may take longer than who stops it waits
                self._validate(record)
        self.epoch, self.done, self.meter = self.epoch + 1, 0, LossMeter()
        if self.tracker:
            self.tracker.epoch(record)  # first: a resumed run drops the lines of epochs that it repeats
        self._keep(self._weights_to_keep(record.get("f1")), record.get("f1"))
        self.accelerator.wait_for_everyone()

    def _train_epoch(self) -> PassRecord:
        """What is left of one pass over the data."""
        settings, epoch, started = self.settings, self.epoch, time.monotonic()
        plan = plan_turns(
            self.parts,
            (settings.seed, epoch),
            self.accumulation,
            self.accelerator.process_index,
            self.processes,
            self.least,
        )
        period = max(1, self.updates // settings.log_per_epoch_count)
        plan = plan[ends_of_updates(plan)[self.done] :]
        batches = self.loader.epoch(epoch, [micro.indices for micro in plan])
        waited = 0.0  # seconds without a batch to train on
        self.step.train()
        for micro in plan:
            asked = time.monotonic()
            batch = unpack(next(batches), self.device)
            waited += time.monotonic() - asked
            # Noise and dropout follow from the images' place in the order alone: a resumed run needs no stored
            # random state, and the number of processes does not matter for them.
            seed_all(settings.seed, epoch, micro.number, 1)
            with nullcontext() if micro.last else self.accelerator.no_sync(self.step):
                self.meter.add(self._backward(micro, batch), micro.images)
            if self.tracker:
                self.tracker.step(micro.images * self.processes)
            if micro.last:
                self.learner.update(self._rate())
                self.done += 1
                if self.done == self.updates or self.done % period == 0:
                    self._point()
                self._keep_or_stop()
        seconds = time.monotonic() - started
        images = sum(micro.images for micro in plan) * self.processes
        return {
            "loss": self.meter.mean(),
            "update": self.learner.updates,
            "lr": self.learner.rate,
            "images_per_second": round(images / seconds, 2),
            "data_wait": round(waited / seconds, 3),
        }

    def _rate(self) -> float:
        """The learning rate at this point of the run."""
        settings = self.settings
        progress = (self.epoch + self.done / self.updates) / settings.epochs
        return learning_rate(progress, settings.lr, settings.min_lr, settings.warmup_epochs / settings.epochs)

    def _point(self) -> None:
        self.watch.look()
        losses = self.meter.point()
        if self.tracker:
            self.tracker.losses(losses, self.learner.rate, self.learner.updates)

    def _keep_or_stop(self, now: bool = False) -> None:
        """Between two updates: stores the state, `now`, when it is time, or where a signal asks any process to end."""
        minutes = (time.monotonic() - self.kept_at) / 60
        due = now or (self.accelerator.is_main_process and 0 < self.settings.save_minutes < minutes)
        asked = launch.highest(2 if self.request.number else int(due), self.votes)
        if asked:
            self.watch.look()
            self._keep()
        if asked == 2:
            raise Stopped(self.request.number or signal.SIGTERM)

    def _backward(self, micro: MicroBatch, batch: dict[str, Any]) -> dict[str, Tensor]:
        batch.pop("index")
        with forward_explained(self.learner.model, batch["image"]):
            output = self.step(batch, self.settings.if_predict_label)
        self.watch.add(output["backward_loss"], self.learner.updates, batch["name"], output.get("timesteps"))
        with keeping(self.recomputed):
            self.accelerator.backward(output["backward_loss"] * micro.weight)
        return output["visual_loss"]

    def _validate(self, record: EpochRecord) -> None:
        """Adds the figures of each test set, and the pixel-F1 that decides which weights are best."""
        model, state, score = self.learner.tested, self.accelerator.state, partial(score_batch, complete=True)
        record["test"] = {
            name: summarise(evaluate(Tiled(model, dataset.inputs), dataset, self.settings, state, "fp32", name, score))
            for name, dataset in self.tests.items()
        }
        if self.tracker:
            self._show(self.tracker, next(iter(self.tests.values())))
        f1 = average(record["test"].values()).get(PIXEL_FIGURES["f1"])
        if f1 is not None:  # as of authentic images alone
            record["f1"] = f1

    def _show(self, tracker: Tracker, dataset: data.PairsDataset) -> None:
        shown = plan_test(dataset, range(min(_STRIPS, len(dataset))), _STRIPS)[:1]
        loader = make_loader(SeededDataset(dataset, self.settings.seed), 0, shown, 0, self.device)
        batch = unpack(next(iter(loader)), self.device)
        batch.pop("index")
        with launch.testing_mode(self.learner.tested), launch.autocast(self.device, "fp32"):
            output = self.learner.tested(**batch, details=True, uncertainty=True)
        tracker.pictures(picture_strips(batch, output), self.learner.updates)

    def _weights_to_keep(self, f1: float | None) -> list[str]:
        """The names under which an epoch's weights are stored: last, best and every n-th."""
        names = [checkpoints.LAST]
        if f1 is not None and (self.best is None or f1 > self.best):
            self.best = f1
            names.append(checkpoints.BEST)
        if self.epoch % self.settings.save_period == 0:
            names.append(_KEPT.format(f"{self.epoch:04d}"))
        return names

    def _keep(self, names: Sequence[str] = (), f1: float | None = None) -> None:
        """Stores the weights under these names, then the state to go on from. All processes must call it together."""
        losses = self.meter.state()
        self.kept_at = time.monotonic()
        if not self.accelerator.is_main_process:
            return
        facts = {"input": asdict(self.inputs), "epoch": self.epoch, "f1": f1, "ema": bool(self.learner.ema_decay)}
        description = checkpoints.described(self.settings.model, self.flags, **facts)
        scaler = self.accelerator.scaler
        tested, state = snapshot(
            (
                self.learner.tested.state_dict() if names else {},
                {
                    **self.learner.state(),
                    "settings": self.configuration,
                    "scaler": scaler and scaler.state_dict(),
                    "epoch": self.epoch,
                    "done": self.done,
                    "losses": losses,
                    "best": self.best,
                    "device": self.device.type,
                    "processes": self.processes,
                    **self.data,
                },
            )
        )

        def write() -> None:
            for name in names:
                save_weights(self.folder / name, tested, description)
            save_state(self.folder / STATE, state)

        self.writer.start(write)

    def _restore(self, state: dict[str, Any]) -> None:
        self.learner.restore(state)
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.epoch, self.done = state["epoch"], state.get("done", 0)
        if self.done > self.updates:
            raise ValueError("more updates than an epoch has")
        if self.learner.updates != self.epoch * self.updates + self.done:
            raise ValueError("other updates in all than its epochs have")
        here = self.settings.resume == "auto" or Path(self.settings.resume).resolve().parent == self.folder.resolve()
        self.best = state["best"] if here else None
        if not self.accelerator.is_main_process:
            return
        if "losses" in state:
            self.meter.restore(state["losses"])
        require_same(state, self.device.type, self.processes if self.in_statistics else 0, **self.data)
        if not here and state["best"] is not None:
            _logger.info(f"the best weights so far, of F1 {state['best']:.4f}, stay beside {self.settings.resume}")
        before, epochs = state["settings"]["epochs"], self.settings.epochs
        if self.epoch >= epochs:
            _logger.info(f"the run in {self.folder} is finished, {epochs} epochs of {epochs}; --epochs makes it longer")
        elif before != epochs:
            _logger.info(
                f"the run of {before} epochs goes on to {epochs}; its learning rate, {self.learner.rate:.2g} at the "
                f"last update, follows the schedule of {epochs} epochs from here on, at {self._rate():.2g}"
            )
