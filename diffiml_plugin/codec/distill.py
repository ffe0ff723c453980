"""Trains LightVAE: Eq. 6 with a teacher, reconstruction and a bounded latent without one."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from diffiml_plugin import signals
from diffiml_plugin.codec.drawn_masks import MaskMixture
from diffiml_plugin.codec.metrics import MEANS, averaging, encode_maps, latent_statistics, reconstruction_f1
from diffiml_plugin.codec.settings import DistillSettings
from diffiml_plugin.data.masks import resized
from diffiml_plugin.data.order import seed_all, start_worker, worker_count
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.method.distillation import DistillationLoss, distillation_loss, release_distillation_loss
from diffiml_plugin.method.edges import edge_map
from diffiml_plugin.method.lightvae import TARGETS, LightVAE
from diffiml_plugin.method.lightvae_release import ReleaseLightVAE
from diffiml_plugin.method.protocols import LatentCodec
from diffiml_plugin.signals import Stopped
from diffiml_plugin.training.log import Log
from diffiml_plugin.training.optimization import Learner, learning_rate, require_finite
from diffiml_plugin.training.resume import STATE, require_same, restoring, save_state, state_to_resume
from diffiml_plugin.weights.codecs import build_lightvae
from diffiml_plugin.weights.files import read_metadata
from diffiml_plugin.weights.lightvae import load_lightvae, save_lightvae

WEIGHTS = "lightvae.safetensors"
_WARMUP = 0.02  # share of the run
_EMA_DECAY = 0.999
_MAX_GRADIENT = 1.0  # norm
_SCALE_MASKS = 64  # masks that the latent scale is computed from
_LOGGED = 50  # steps between losses in the log
_WHOLE = 0.25  # share of the steps that see whole maps, not windows


def distill(
    settings: DistillSettings,
    mixture: MaskMixture,
    held_out: Sequence[np.ndarray],
    output_dir: Path,
    provenance: dict[str, Any],
    teacher: LatentCodec | None = None,
    device: str | torch.device = "cpu",
    say: Callable[[str], None] = tqdm.write,  # above the bar
) -> LightVAE | ReleaseLightVAE:
    """Trains a LightVAE, ours or the release's.

    At every validation it stores the codec, its log and the state to go on from in `output_dir`; the state also where
    Ctrl-C or SIGTERM ends it, which raises `Stopped`.

    Args:
        held_out: masks [H, W] in {0, 1} to validate on, brought to `image_size`.
        provenance: what the caller knows about data and teacher; settings and figures are added, and the whole
            provenance of weights that this run goes on from.
        teacher: a codec whose latents the student learns (an `SDVAE`).

    Returns:
        The moving average of the weights; of ours, its latent scale set from data.

    Raises:
        DiffIMLError: the loss is not finite, with the step; no LightVAE to go on from; the run in `output_dir`
            that `resume` goes on with had other settings or masks, or another kind of device.
    """
    # 1. The student, anew or where an earlier run left it.
    configuration = provenance | asdict(settings)
    state = state_to_resume(output_dir, settings.resume, configuration, asdict(DistillSettings()))
    content = _content(mixture, held_out)
    seed_all(settings.seed)
    run = _Run(settings, torch.device(device), teacher)
    provenance = configuration | {"width": run.learner.model.width}  # of the file, if it goes on from one
    if settings.student:
        provenance["went_on_from"] = read_metadata(settings.student).get("provenance", {})
    if state:
        require_same(state, run.device.type, content=content)
        with restoring():
            run.restore(state)
        if run.progress() >= 1 and _steps_of(output_dir / WEIGHTS) == run.step:
            say(f"the run in {output_dir} is finished, after {run.step} steps")
            return load_lightvae(output_dir / WEIGHTS).to(run.device)
    log = Log(output_dir, "step", run.step + 1 if state else 0)
    # 2. The masks.
    held_out = [resized(mask, settings.image_size) for mask in held_out]
    scale_masks = _scale_masks(mixture, settings.image_size, np.random.default_rng(settings.seed))
    batches = _batches(mixture, settings, run.step, run.device)
    checked = int(run.progress() * settings.checks)

    def keep() -> None:
        where = {"device": run.device.type, "content": content}
        save_state(output_dir / STATE, {"settings": configuration, **where, **run.state()})

    keep()  # from here on the folder is this run's
    bar = tqdm(None, "distill", settings.steps, False, initial=run.step, unit="step", disable=None)
    with bar, signals.noted() as request:
        while True:
            progress = run.progress()
            if progress * settings.checks >= checked + 1 or progress >= 1:  # 3. validate and store
                checked = int(progress * settings.checks)
                codec = run.learner.tested.eval()
                if isinstance(codec, LightVAE):
                    set_latent_scale(codec, scale_masks)
                figures = validation(codec, held_out)
                done = {"steps": run.step, "minutes": round(run.minutes(), 1), "validation": figures}
                log.add({"step": run.step, **figures})
                save_lightvae(output_dir / WEIGHTS, codec, provenance | done)
                keep()
                listed = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
                say(f"step {run.step} ({progress:.0%}): {listed}")
            if progress >= 1:
                return codec
            if request.number:
                keep()
                raise Stopped(request.number, f"go on with --resume auto, from the state in {output_dir}")
            loss = run.update(*next(batches), progress)  # 4. one step of Eq. 6
            if (run.step - 1) % _LOGGED == 0:
                log.add(run.record(loss))
            bar.update()


class _Run:
    """The student with its moving average and optimizer, and the time that training took so far."""

    def __init__(self, settings: DistillSettings, device: torch.device, teacher: LatentCodec | None):
        self.settings, self.device, self.teacher = settings, device, teacher
        student = _student(settings).train().to(device).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(
            student.parameters(), settings.lr, betas=(0.9, 0.99), weight_decay=settings.weight_decay
        )
        self.learner = Learner(student, optimizer, _EMA_DECAY)
        self._started, self._minutes_before = time.monotonic(), 0.0

    @property
    def step(self) -> int:
        """Steps of the optimizer so far."""
        return self.learner.updates

    def minutes(self) -> float:
        """Of training so far, with those before an interruption."""
        return self._minutes_before + (time.monotonic() - self._started) / 60

    def progress(self) -> float:
        """The share of the steps or of the minutes that is spent, whichever is more."""
        return max(self.step / self.settings.steps, self.minutes() / (self.settings.minutes or float("inf")))

    def update(self, maps: Tensor, edges: int, progress: float) -> DistillationLoss:
        """One step of the optimizer.

        Args:
            maps: [B, 1, S, S] uint8 in {0, 1}; the last `edges` of them are edge maps.

        Raises:
            DiffIMLError: the loss is not finite; names the step.
        """
        settings, student = self.settings, self.learner.model
        seed_all(settings.seed, self.step)  # so that a resumed run needs no stored random state
        maps = maps.to(self.device, non_blocking=True).float().contiguous(memory_format=torch.channels_last)
        teacher_latents = None if self.teacher is None else _teacher_latents(self.teacher, maps, edges)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            if isinstance(student, ReleaseLightVAE):
                loss = release_distillation_loss(student, maps, teacher_latents, settings.latent_weight)
            else:
                loss = distillation_loss(
                    student,
                    maps,
                    edges,
                    teacher_latents,
                    settings.latent_weight,
                    settings.noise,
                    settings.mean_weight,
                    settings.mean_members,
                )
        require_finite(loss.loss, self.step)
        loss.loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), _MAX_GRADIENT)
        self.learner.update(learning_rate(progress, settings.lr, warmup=_WARMUP))
        return loss

    def record(self, loss: DistillationLoss) -> dict[str, float]:
        """What the log says of the last step."""
        return {
            "step": self.step,
            "reconstruction": loss.reconstruction.item(),
            "mean": loss.mean.item(),
            "latent": loss.latent.item(),
            "lr": self.learner.rate,
            "seconds": round(60 * self.minutes(), 1),
        }

    def state(self) -> dict[str, Any]:
        """All that `restore` needs."""
        return {**self.learner.state(), "minutes": self.minutes()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state` was taken."""
        self.learner.restore(state)
        self._minutes_before = state["minutes"]


def _steps_of(weights: Path) -> int | None:
    """After how many steps a run stored them; None where there are none."""
    provenance: dict[str, Any] = read_metadata(weights).get("provenance", {}) if weights.exists() else {}
    return provenance.get("steps")


def _content(mixture: MaskMixture, held_out: Sequence[np.ndarray]) -> str:
    """A digest of all maps that are trained and validated on, in their order."""
    described = sha256()
    for maps in (mixture.masks, mixture.label_maps, held_out):
        described.update(f"{len(maps)}\n".encode())
        for pixels in maps:
            described.update(f"{pixels.shape} {pixels.dtype}\n".encode())
            described.update(pixels.tobytes())
    return described.hexdigest()


def _student(settings: DistillSettings) -> LightVAE | ReleaseLightVAE:
    """The codec to train, with random weights or those of a file."""
    release = settings.latent_codec == "lightvae-release"
    if settings.student:
        student = load_lightvae(settings.student)
        if isinstance(student, ReleaseLightVAE) != release:
            other = "lightvae" if release else "lightvae-release"
            raise DiffIMLError(f"--student {settings.student} holds a codec of --latent_codec {other}; say that")
        return student
    width = settings.width
    layout = "" if width is None else f"{width}-batch-relu" if release else str(width)
    return build_lightvae(settings.latent_codec, layout)


def set_latent_scale(codec: LightVAE, masks: Sequence[np.ndarray]) -> None:
    """Sets the codec's latent mean and standard deviation to those of these masks and of their edge maps."""
    codec.latent_mean.zero_()
    codec.latent_std.fill_(1)
    for row, maps in enumerate((masks, [edge_map(mask) for mask in masks])):
        mean, std = latent_statistics(encode_maps(codec, maps, TARGETS[row]))
        codec.latent_mean[row] = torch.tensor(mean)
        codec.latent_std[row] = torch.tensor(std).clamp(min=1e-4)  # a channel without information stays finite


def validation(codec: LightVAE | ReleaseLightVAE, masks: Sequence[np.ndarray]) -> dict[str, float]:
    """Pixel-F1 on masks, exact and with latent noise of std 0.3, and on their edge maps; `averaging` of masks.

    Args:
        masks: [S, S] in {0, 1}.
    """
    f1 = reconstruction_f1(codec, masks)
    return {
        "f1_mean": f1.mean().item(),
        "f1_p5": np.percentile(f1, 5).item(),
        "f1_noise_0.3": reconstruction_f1(codec, masks, noise=0.3).mean().item(),
        "f1_edge": reconstruction_f1(codec, [edge_map(mask) for mask in masks], "edge").mean().item(),
        **{
            f"mean{members}_{name}": value
            for members in MEANS
            if members <= len(masks) and isinstance(codec, LightVAE)  # the release's is not trained for it
            for name, value in asdict(averaging(codec, masks, members)).items()
        },
    }


def _scale_masks(mixture: MaskMixture, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Masks as they will be met: those from files if there are any, else drawn ones."""
    if len(mixture.masks):
        chosen = rng.permutation(len(mixture.masks))[:_SCALE_MASKS]
        return [resized(mixture.masks[index], size) for index in chosen]
    return [mixture.draw(size, rng) for _ in range(_SCALE_MASKS)]


class _Batches(Dataset):
    """Step -> maps [B, 1, S, S] uint8 in {0, 1} and how many of them, at the end, are edge maps.

    A batch depends on (seed, step) alone, whichever process draws it.
    """

    def __init__(self, mixture: MaskMixture, settings: DistillSettings):
        self.mixture, self.settings = mixture, settings

    def __getitem__(self, step: int) -> tuple[Tensor, int]:
        settings, rng = self.settings, np.random.default_rng((self.settings.seed, step))
        whole = rng.random() < _WHOLE
        size = settings.image_size if whole else settings.image_size // 2
        count = settings.batch_size // 4 if whole else settings.batch_size
        edges = round(count * settings.edge_share)
        masks = [self.mixture.draw(size, rng) for _ in range(count)]
        maps = masks[: count - edges] + [edge_map(mask) for mask in masks[count - edges :]]
        return torch.from_numpy(np.stack(maps)[:, None]), edges


def _batches(
    mixture: MaskMixture, settings: DistillSettings, first: int, device: torch.device
) -> Iterator[tuple[Tensor, int]]:
    """The batches of all steps from `first` on, drawn ahead by other processes."""
    return iter(
        DataLoader(
            _Batches(mixture, settings),
            batch_size=None,
            sampler=range(first, settings.steps),
            num_workers=worker_count(settings.num_workers),
            pin_memory=device.type == "cuda",
            worker_init_fn=start_worker,
            generator=torch.Generator(),  # the loader's own draw leaves the global state alone
        )
    )


@torch.no_grad()
def _teacher_latents(teacher: LatentCodec, maps: Tensor, edges: int) -> Tensor:
    kinds = zip(maps.split([len(maps) - edges, edges]), TARGETS, strict=True)
    return torch.cat([teacher.encode(kind, target).float() for kind, target in kinds if len(kind)])
