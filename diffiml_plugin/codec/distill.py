"""Trains LightVAE: Eq. 6 with a teacher, reconstruction and a bounded latent without one."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from math import cos, isfinite, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from diffiml_plugin.codec.drawn_masks import MaskMixture
from diffiml_plugin.codec.metrics import encode_maps, latent_statistics, reconstruction_f1
from diffiml_plugin.codec.settings import DistillSettings
from diffiml_plugin.data.masks import resized, stacked
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.method.distillation import distillation_loss
from diffiml_plugin.method.edges import edge_map
from diffiml_plugin.method.lightvae import TARGETS, LightVAE
from diffiml_plugin.weights.files import read_metadata
from diffiml_plugin.weights.lightvae import load_lightvae, save_lightvae

WEIGHTS, LOG = "lightvae.safetensors", "log.jsonl"
_WARMUP = 100  # steps
_EMA_DECAY = 0.999
_MAX_GRADIENT = 1.0  # norm
_CHECKS = 12  # validations, and stored weights, of a run
_SCALE_MASKS = 64  # masks that the latent scale is computed from


def distill(
    settings: DistillSettings,
    mixture: MaskMixture,
    held_out: Sequence[np.ndarray],
    output_dir: Path,
    provenance: dict[str, Any],
    teacher: nn.Module | None = None,
    device: str | torch.device = "cpu",
    say: Callable[[str], None] = tqdm.write,  # above the bar
) -> LightVAE:
    """Trains a LightVAE and stores it in `output_dir`, with its log, at every validation.

    Args:
        held_out: masks [H, W] in {0, 1} to validate on, brought to `image_size`.
        provenance: what the caller knows about data and teacher; settings and figures are added, and the whole
            provenance of weights that this run goes on from.
        teacher: a codec whose latents the student learns (an `SDVAE`).

    Returns:
        The moving average of the weights, its latent scale set from data.

    Raises:
        DiffIMLError: the loss is not finite, with the step; no LightVAE to go on from.
    """
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    held_out = [resized(mask, settings.image_size) for mask in held_out]
    scale_masks = _scale_masks(mixture, settings.image_size, np.random.default_rng(settings.seed))
    student = load_lightvae(settings.student) if settings.student else LightVAE(settings.width)
    provenance = provenance | asdict(settings) | {"width": student.width}
    if settings.student:
        provenance["went_on_from"] = read_metadata(settings.student)["provenance"]
    student = student.to(device, memory_format=torch.channels_last)
    average = AveragedModel(student, avg_fn=_moving_average)
    optimizer = torch.optim.AdamW(
        student.parameters(), settings.lr, betas=(0.9, 0.99), weight_decay=settings.weight_decay
    )
    log, started, checked = output_dir / LOG, time.monotonic(), 0
    log.write_text("")
    for step in tqdm(range(settings.steps + 1), "distill", settings.steps, unit="step", leave=False, disable=None):
        progress = max(step / settings.steps, (time.monotonic() - started) / 60 / (settings.minutes or float("inf")))
        if progress * _CHECKS >= checked + 1 or progress >= 1:  # 1. validate and store
            checked = int(progress * _CHECKS)
            codec = average.module
            set_latent_scale(codec, scale_masks)
            figures = validation(codec, held_out)
            save_lightvae(
                output_dir / WEIGHTS,
                codec,
                provenance
                | {"steps": step, "minutes": round((time.monotonic() - started) / 60, 1), "validation": figures},
            )
            _note(log, {"step": step, **figures})
            say(f"step {step} ({progress:.0%}): " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items()))
        if progress >= 1:
            return codec
        for group in optimizer.param_groups:  # 2. the rate: warm-up, then a cosine
            group["lr"] = settings.lr * min(1, (step + 1) / _WARMUP) * (1 + cos(pi * progress)) / 2
        maps, edges = _batch(mixture, settings, rng)  # 3. one step of Eq. 6
        maps = maps.to(device, memory_format=torch.channels_last)
        teacher_latents = None if teacher is None else _teacher_latents(teacher, maps, edges)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=settings.precision == "bf16"):
            loss = distillation_loss(student, maps, edges, teacher_latents, settings.latent_weight, settings.noise)
        if not isfinite(loss.loss.item()):
            raise DiffIMLError(f"the loss is {loss.loss.item()} at step {step}; try a lower --lr (now {settings.lr})")
        optimizer.zero_grad()
        loss.loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), _MAX_GRADIENT)
        optimizer.step()
        average.update_parameters(student)
        if step % 50 == 0:
            _note(
                log,
                {
                    "step": step,
                    "reconstruction": loss.reconstruction.item(),
                    "latent": loss.latent.item(),
                    "lr": optimizer.param_groups[0]["lr"],
                    "seconds": round(time.monotonic() - started, 1),
                },
            )


def set_latent_scale(codec: LightVAE, masks: Sequence[np.ndarray]) -> None:
    """Sets the codec's latent mean and standard deviation to those of these masks and of their edge maps."""
    codec.latent_mean.zero_()
    codec.latent_std.fill_(1)
    for row, maps in enumerate((masks, [edge_map(mask) for mask in masks])):
        mean, std = latent_statistics(encode_maps(codec, maps, TARGETS[row]))
        codec.latent_mean[row] = torch.tensor(mean)
        codec.latent_std[row] = torch.tensor(std).clamp(min=1e-4)  # a channel without information stays finite


def validation(codec: LightVAE, masks: Sequence[np.ndarray]) -> dict[str, float]:
    """Pixel-F1 on masks, exact and with latent noise of std 0.3, and on their edge maps."""
    f1 = reconstruction_f1(codec, masks)
    return {
        "f1_mean": f1.mean().item(),
        "f1_p5": np.percentile(f1, 5).item(),
        "f1_noise_0.3": reconstruction_f1(codec, masks, noise=0.3).mean().item(),
        "f1_edge": reconstruction_f1(codec, [edge_map(mask) for mask in masks], "edge").mean().item(),
    }


def _scale_masks(mixture: MaskMixture, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Masks as they will be met: those from files if there are any, else drawn ones."""
    if len(mixture.masks):
        chosen = rng.permutation(len(mixture.masks))[:_SCALE_MASKS]
        return [resized(mixture.masks[index], size) for index in chosen]
    return [mixture.draw(size, rng) for _ in range(_SCALE_MASKS)]


def _batch(mixture: MaskMixture, settings: DistillSettings, rng: np.random.Generator) -> tuple[Tensor, int]:
    """Maps [B, 1, S, S] and how many of them, at the end, are edge maps."""
    whole = rng.random() < 0.25
    size, count = (
        (settings.image_size, settings.batch_size // 4) if whole else (settings.image_size // 2, settings.batch_size)
    )
    edges = round(count * settings.edge_share)
    masks = [mixture.draw(size, rng) for _ in range(count)]
    return torch.from_numpy(
        stacked(masks[: count - edges] + [edge_map(mask) for mask in masks[count - edges :]])
    ), edges


@torch.no_grad()
def _teacher_latents(teacher: nn.Module, maps: Tensor, edges: int) -> Tensor:
    kinds = zip(maps.split([len(maps) - edges, edges]), TARGETS, strict=True)
    return torch.cat([teacher.encode(kind, target).float() for kind, target in kinds if len(kind)])


def _moving_average(average: Tensor, current: Tensor, count: Tensor) -> Tensor:
    decay = min(_EMA_DECAY, (1 + count.item()) / (10 + count.item()))  # the first steps are soon forgotten
    return torch.lerp(current, average, decay)


def _note(log: Path, entry: dict[str, Any]) -> None:
    with open(log, "a") as file:
        file.write(json.dumps(entry) + "\n")
