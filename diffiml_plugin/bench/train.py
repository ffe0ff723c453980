"""`benco train`: one engine for every model of the registry, on the CPU, one GPU or many."""

import errno
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import nn
from torch.utils.data import Dataset

from diffiml_plugin.bench import checkpoints, launch
from diffiml_plugin.bench.data import (
    InputSettings,
    MicroBatch,
    PairsDataset,
    SeededDataset,
    make_loader,
    plan_epoch,
    read_training_set,
    seed_all,
    test_transform,
    to_device,
    train_transform,
    worker_count,
)
from diffiml_plugin.bench.imagecheck import check_lists
from diffiml_plugin.bench.imagelists import read_test_sets
from diffiml_plugin.bench.models import build_model, post_function, resolve_flags
from diffiml_plugin.bench.optimization import LossMeter, accumulation, learning_rate, require_finite
from diffiml_plugin.bench.scores import PIXEL_FIGURES, average, summarise
from diffiml_plugin.bench.settings import TrainSettings
from diffiml_plugin.bench.test import evaluate, testing_mode
from diffiml_plugin.bench.tracking import Tracker, describe_run, picture_strips
from diffiml_plugin.errors import DiffIMLError

# What a continuation may change: where and how it runs, not what is trained.
_MAY_CHANGE = {"batch_size", "device", "find_unused_parameters", "gpus", "log_dir", "log_per_epoch_count",
               "num_workers", "output_dir", "resume", "save_period", "test_batch_size"}
_STRIPS = 4  # images shown in TensorBoard


@dataclass(frozen=True)
class Trained:
    """`f1`: the best validation pixel-F1, None without a validation set. `folder` holds the checkpoints."""

    folder: Path
    f1: float | None


def train(
    settings: TrainSettings, model_flags: Mapping[str, Any] | None = None, dataset: Dataset | None = None
) -> Trained:
    """Trains a model and leaves checkpoints, logs and the run's description in `settings.output_dir`.

    Args:
        model_flags: constructor flags of the model.
        dataset: of the framework's samples, instead of the one `settings.data_path` names.

    Raises:
        DiffIMLError: bad data, flags or device, said before training starts where it can be known; a loss that is
            not finite; a full disk.
    """
    try:
        return _Run(settings, dict(model_flags or {}), dataset).train()
    except torch.OutOfMemoryError as error:
        raise DiffIMLError(f"the GPU's memory is full: lower --batch_size {settings.batch_size} (the total stays "
                           f"{settings.total_batch_size}); {str(error).splitlines()[0]}") from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiffIMLError(f"the disk of {settings.output_dir} is full; free some space and go on with --resume auto "
                           "(earlier checkpoints are untouched)") from error


class _Module(nn.Module):
    """What DDP and autocast wrap, so that the model inside stays plain for testing."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, Any], if_predict_label: bool) -> dict[str, Any]:
        return self.model(**batch, if_predcit_label=if_predict_label)  # the framework's spelling


class _Run:
    def __init__(self, settings: TrainSettings, model_flags: dict[str, Any], dataset: Dataset | None):
        self.settings, self.folder = settings, Path(settings.output_dir)
        self.inputs = InputSettings.of(settings)
        # 1. The data, looked at before anything costs time.
        post, check = post_function(settings.model), launch.is_main_process()
        if dataset is None:
            if not settings.data_path:
                raise DiffIMLError("give the training set with --data_path")
            framework = self.inputs.framework(train_transform(), post)
            dataset = read_training_set(settings.data_path, check, progress=True, **framework)
        self.dataset = SeededDataset(dataset, settings.seed)
        lists = read_test_sets(settings.test_data_path) if settings.test_data_path else {}
        if check:
            check_lists(list(lists.values()), progress=True)
        framework = self.inputs.framework(test_transform(), post)
        self.tests = {name: PairsDataset(listed, **framework) for name, listed in lists.items()}

        # 2. The device, and what follows from the number of processes.
        self.accelerator = launch.start(settings.device, settings.precision, settings.find_unused_parameters)
        self.device, self.processes = self.accelerator.device, self.accelerator.num_processes
        self.accumulation = accumulation(settings.total_batch_size, settings.batch_size, self.processes)

        # 3. The model and its optimizer.
        seed_all(settings.seed)
        shared = {**asdict(settings), **asdict(self.inputs), "device": str(self.device)}
        self.flags = resolve_flags(settings.model, model_flags, shared)
        model = build_model(settings.model, self.flags)
        if self.processes > 1 and self.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        self.model = model.to(self.device)
        optimizer = create_optimizer_v2(self.model, "adamw", lr=settings.lr, weight_decay=settings.weight_decay)
        self.ema = ModelEmaV3(self.model, settings.ema_decay, use_warmup=True) if settings.ema_decay else None
        self.epoch, self.update, self.best = 0, 0, None
        self.scaler = self.accelerator.scaler
        self._resume_or_begin(optimizer)
        self.step, self.optimizer = self.accelerator.prepare(_Module(self.model), optimizer)

    def train(self) -> Trained:
        settings, main = self.settings, self.accelerator.is_main_process
        if main:
            describe_run(self.folder, self._configuration())
        log_dir = Path(settings.log_dir or self.folder)
        self.tracker = Tracker(self.folder, log_dir, settings.epochs, len(self.dataset), self.epoch) if main else None
        for epoch in range(self.epoch, settings.epochs):
            started = time.monotonic()
            record = {"epoch": epoch, "loss": self._train_epoch(epoch), "update": self.update,
                      "lr": self.optimizer.param_groups[0]["lr"]}
            record["images_per_second"] = round(len(self.dataset) / (time.monotonic() - started), 2)
            last = epoch + 1 == settings.epochs
            if self.tests and (last or (epoch + 1) % settings.test_period == 0):
                record |= self._validate(epoch)
            self.epoch = epoch + 1
            if main:
                self._save(record)
                self.tracker.epoch(record)
            self.accelerator.wait_for_everyone()
        if main:
            self.tracker.close()
        return Trained(self.folder, self.best)

    def _train_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the data; returns the mean of each loss."""
        settings, rank = self.settings, self.accelerator.process_index
        # Noise and dropout follow from (seed, epoch, rank), so a resumed run needs no stored random state.
        seed_all(settings.seed, epoch, rank, 1)
        plan = plan_epoch(len(self.dataset), (settings.seed, epoch), settings.batch_size, self.accumulation, rank,
                          self.processes)
        loader = make_loader(self.dataset, epoch, [micro.indices for micro in plan],
                             worker_count(settings.num_workers, self.processes), self.device)
        updates = sum(micro.last for micro in plan)
        self.step.train()
        meter, done = LossMeter(), 0
        for micro, batch in zip(plan, loader, strict=True):
            with nullcontext() if micro.last else self.accelerator.no_sync(self.step):
                meter.add(self._backward(micro, to_device(batch, self.device)), micro.images)
            if self.tracker:
                self.tracker.step(micro.images * self.processes)
            if micro.last:
                self._optimize(epoch + done / updates)
                done += 1
                if done == updates or done % max(1, updates // settings.log_per_epoch_count) == 0:
                    losses = meter.point()
                    if self.tracker:
                        self.tracker.losses(losses, self.optimizer.param_groups[0]["lr"], self.update)
        return meter.mean()

    def _backward(self, micro: MicroBatch, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        batch.pop("index")
        output = self.step(batch, self.settings.if_predict_label)
        require_finite(output, batch["name"], self.update)
        self.accelerator.backward(output["backward_loss"] * micro.weight)
        return output["visual_loss"]

    def _optimize(self, progress: float) -> None:
        """One update; `progress` is the time in epochs."""
        rate = learning_rate(progress, self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.update += 1
        if self.ema:
            self.ema.update(self.model, self.update)

    def _validate(self, epoch: int) -> dict[str, Any]:
        model, state = self._tested_model(), self.accelerator.state
        summaries = {}
        for name, dataset in self.tests.items():
            summaries[name] = summarise(evaluate(model, dataset, self.settings, state, "fp32", name))
        if self.tracker:
            self._show(model, next(iter(self.tests.values())), epoch)
        return {"test": summaries, "f1": average(summaries.values()).get(PIXEL_FIGURES["f1"], 0.0)}

    def _show(self, model: nn.Module, dataset: PairsDataset, epoch: int) -> None:
        shown = tuple(range(min(_STRIPS, len(dataset))))
        batch = next(iter(make_loader(SeededDataset(dataset, self.settings.seed), 0, [shown], 0, self.device)))
        batch = to_device(batch, self.device)
        batch.pop("index")
        with testing_mode(model, self.settings.no_model_eval):
            self.tracker.pictures(picture_strips(batch, model(**batch, details=True)), epoch)

    def _tested_model(self) -> nn.Module:
        return self.ema.module if self.ema else self.model

    def _save(self, record: dict[str, Any]) -> None:
        """Last, best and every n-th weights, then the state to go on from."""
        settings = self.settings
        names = [checkpoints.LAST]
        if "f1" in record and (self.best is None or record["f1"] > self.best):
            self.best = record["f1"]
            names.append(checkpoints.BEST)
        if self.epoch % settings.save_period == 0:
            names.append(f"epoch_{self.epoch:04d}.safetensors")
        facts = {"input": asdict(self.inputs), "epoch": self.epoch, "f1": record.get("f1"), "ema": bool(self.ema)}
        for name in names:
            checkpoints.save_checkpoint(self.folder / name, self._tested_model(), settings.model, self.flags, **facts)
        checkpoints.save_state(self.folder / checkpoints.STATE, {
            "settings": self._configuration(),
            "model": self.model.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "epoch": self.epoch,
            "update": self.update,
            "best": self.best,
        })

    def _resume_or_begin(self, optimizer: torch.optim.Optimizer) -> None:
        path, wanted = self.folder / checkpoints.STATE, self.settings.resume
        if wanted not in ("", "auto"):
            path = Path(wanted)
        elif not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            return
        elif not wanted:
            raise DiffIMLError(f"{self.folder} holds a training run already; go on with --resume auto, or choose "
                               "another --output_dir")
        state = checkpoints.load_state(path)
        self._require_same(state["settings"], path)
        self.model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if self.ema:
            self.ema.module.load_state_dict(state["ema"])
        if self.scaler:
            self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.update, self.best = state["epoch"], state["update"], state["best"]

    def _require_same(self, stored: Mapping[str, Any], path: Path) -> None:
        now = self._configuration()
        changed = [name for name in now if name not in _MAY_CHANGE and stored.get(name) != now[name]]
        if changed:
            listed = ", ".join(f"--{name} {stored.get(name)} (now {now[name]})" for name in changed)
            raise DiffIMLError(f"{path} was trained with other settings: {listed}; give those, or start anew in "
                               "another --output_dir")

    def _configuration(self) -> dict[str, Any]:
        """Every flag with its value."""
        return {**asdict(self.settings), **asdict(self.inputs), **self.flags}
