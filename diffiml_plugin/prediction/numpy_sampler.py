"""Masks by an exported DiffIML: Algorithm 2 of the paper in numpy, without torch. README.md beside it says more.

python sample.py photo.npy mask.npy        [H, W, 3] uint8 RGB to [H, W] float32, the probability of manipulation
"""

import argparse
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Graph = Callable[..., list[np.ndarray]]
Graphs = dict[str, Graph]  # condition, step and decoder


def load(folder: str | Path = ".") -> tuple[Graphs, dict[str, Any]]:
    """The graphs of an exported folder, and the content of its config.json."""
    config = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
    return {name: open_graph(Path(folder, f"{name}.onnx")) for name in ("condition", "step", "decoder")}, config


def open_graph(file: Path) -> Graph:
    """A graph of onnxruntime as a function from arrays to arrays."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))


def predict(graphs: Graphs, config: dict[str, Any], photo: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
    """A photo [H, W, 3] uint8 → its maps [K, H, W] float32 in [0, 1]: the mask and, of a model that has it, the edges.

    `noise` is as `sample` takes it; without it the photo's own pixels decide on it.
    """
    image = prepare(config["input"], photo)  # [1, 3, h, w]
    maps = sample(graphs, config, image, draw_noise(config["sampling"], image) if noise is None else noise)
    height, width = photo.shape[:2]
    if config["input"]["if_padding"]:
        return maps[:, :height, :width]
    return resize(maps.transpose(1, 2, 0), height, width).transpose(2, 0, 1)


def sample(graphs: Graphs, config: dict[str, Any], image: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Algorithm 2: image [1, 3, h, w], normalised, and noise [V, D, N, C, h/8, w/8] → maps [K, h, w] in [0, 1]."""
    own, views = config["sampling"], []
    bound = own["clip_latents"] or np.inf
    for view in range(1 + own["tta"]):
        seen = image[..., ::-1].copy() if view else image
        (condition,) = graphs["condition"](seen)  # once for all steps and members
        z = noise[view, 0]  # [N, C, h/8, w/8]
        for number, (t, abar, abar_next) in enumerate(schedule(config), start=1):
            (z0,) = graphs["step"](z, np.array([t], np.int64), condition)
            clean = np.clip(z0, -bound, bound)
            if own["sampler"] == "ddim":
                eps = (z - abar**0.5 * z0) / (1 - abar) ** 0.5
                z = abar_next**0.5 * clean + (1 - abar_next) ** 0.5 * eps
            else:  # ancestral
                beta, fresh = 1 - abar / abar_next, noise[view, number % noise.shape[1]]
                mean = (z + beta * (abar**0.5 * clean - z) / (1 - abar)) / (1 - beta) ** 0.5
                z = mean + (beta * (1 - abar_next) / (1 - abar)) ** 0.5 * fresh
        latents = z.mean(0, keepdims=True) if own["ensemble_space"] == "latent" else z
        maps = np.concatenate([each.mean(0) for each in graphs["decoder"](latents)])  # [K, h, w]
        views.append(maps[..., ::-1] if view else maps)
    maps = np.max(views, 0) if own["tta_fusion"] == "max" else np.mean(views, 0)
    odds = np.exp(own["mask_bias"])  # those of the mask, maps[0], are multiplied by it
    return np.concatenate([odds * maps[:1] / (1 + (odds - 1) * maps[:1]), maps[1:]])


def schedule(config: dict[str, Any]) -> list[tuple[int, float, float]]:
    """The S steps as (t, abar_t, abar_next), from pure noise down to the clean latent, whose abar is 1."""
    betas, count = config["schedule"], config["sampling"]["num_inference_steps"]
    total = betas["num_train_timesteps"]
    abar = np.cumprod(1 - np.linspace(betas["beta_start"], betas["beta_end"], total)).tolist()
    if config["sampling"]["timestep_spacing"] == "leading":
        times = [total // count * i for i in reversed(range(count))]
    else:
        times = [round(total - i * total / count) - 1 for i in range(count)]
    return list(zip(times, [abar[t] for t in times], [*(abar[t] for t in times[1:]), 1.0], strict=True))


def draw_noise(sampling: dict[str, Any], image: np.ndarray) -> np.ndarray:
    """Normal noise [V, D, N, C, h/8, w/8]: V views, D draws (S of the ancestral sampler, else 1), N members."""
    draws = sampling["num_inference_steps"] if sampling["sampler"] == "ancestral" else 1
    cells = [side // sampling["latent_stride"] for side in image.shape[2:]]
    shape = (1 + sampling["tta"], draws, sampling["ensemble_size"], sampling["latent_channels"], *cells)
    seed = int.from_bytes(hashlib.sha256(image.tobytes()).digest(), "little")
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def prepare(settings: dict[str, Any], photo: np.ndarray) -> np.ndarray:
    """A photo [H, W, 3] uint8, padded or resized, then normalised → [1, 3, h, w] float32."""
    size, multiple = settings["image_size"], settings["multiple"]
    if settings["if_padding"]:
        reflects = settings["padding_mode"] == "reflect"
        frame = [-(-side // multiple) * multiple for side in photo.shape[:2]]
        frame = frame if reflects else [max(*frame, size)] * 2
        missing = [(0, whole - side) for whole, side in zip(frame, photo.shape[:2], strict=True)]
        photo = np.pad(photo, [*missing, (0, 0)], mode="reflect" if reflects else "constant")
    else:
        photo = np.round(resize(photo.astype(np.float32), size, size))
    image = (photo / 255 - np.array(settings["mean"])) / np.array(settings["std"])
    return image.transpose(2, 0, 1)[None].astype(np.float32)


def resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear: [H, W, C] float32 → [height, width, C]."""
    for axis, size in enumerate((height, width)):
        last = pixels.shape[axis] - 1
        place = np.clip((np.arange(size) + 0.5) * (last + 1) / size - 0.5, 0, last)
        low = np.floor(place).astype(int)
        share = (place - low).astype(np.float32).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        pixels = pixels.take(low, axis) * (1 - share) + pixels.take(np.minimum(low + 1, last), axis) * share
    return pixels


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", help="array [H, W, 3] of uint8, as numpy.save writes it")
    parser.add_argument("mask", help="file to write")
    parser.add_argument("--noise", help="array as sample() takes it; without it the photo's own pixels decide on it")
    args = parser.parse_args()
    drawn = np.load(args.noise) if args.noise else None
    np.save(args.mask, predict(*load(Path(__file__).parent), np.load(args.photo), drawn)[0])
