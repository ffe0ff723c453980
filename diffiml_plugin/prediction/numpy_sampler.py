"""Masks by an exported DiffIML: Algorithm 2 of the paper in numpy, without torch. README.md beside it says more.

python sample.py photo.npy mask.npy        [H, W, 3] uint8 RGB to [H, W] float32, the probability of manipulation
"""

import argparse
import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

Graph = Callable[..., list[np.ndarray]]
Graphs = dict[str, Graph]  # condition, step and decoder

# The key by which ONNX names a file beside a graph, however its field and its length are spelled.
_ELSEWHERE = re.compile(rb"(\n|\x8a\x80*\x00)(\x08|\x88\x80*\x00)location")
SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2"}  # of the graphs' files
CONFIG = {  # what config.json says: of each field its type, its words, or the lowest and highest number
    "checkpoint": str,
    "weights": str,
    "format": tuple(SUFFIXES),
    "graphs": {"condition": str, "step": str, "decoder": str},  # their SHA-256
    "model": dict,  # texts for people
    "input": {
        "image_size": (1, 4096),
        "if_padding": bool,
        "padding_mode": ("constant", "reflect"),
        "multiple": (32, 32),
        "mean": [(0.0, 1.0)] * 3,
        "std": [(0.01, 1.0)] * 3,
    },
    "schedule": {"num_train_timesteps": (1, 10_000), "beta_start": (1e-6, 1.0), "beta_end": (1e-6, 1.0)},
    "sampling": {
        "num_inference_steps": (1, 10_000),
        "ensemble_size": (1, 100),
        "sampler": ("ddim", "ancestral"),
        "timestep_spacing": ("trailing", "leading"),
        "clip_latents": (0.0, 1000.0),
        "ensemble_space": ("latent", "pixel"),
        "tta": bool,
        "tta_fusion": ("mean", "max"),
        "mask_bias": (-10.0, 10.0),
        "latent_channels": (4, 8),
        "latent_stride": (8, 8),
    },
    "threshold": (0.0, 1.0),
}


def load(folder: str | Path = ".") -> tuple[Graphs, dict[str, Any]]:
    """The graphs of an exported folder, and the content of its config.json. Raises ValueError as `load_config`."""
    config = load_config(folder)
    if config["format"] != "onnx":
        raise ValueError(f"the graphs in {folder} are for torch.export.load; README.md there shows how they are run")
    return {name: open_graph(Path(folder, f"{name}.onnx")) for name in config["graphs"]}, config


def load_config(folder: str | Path = ".") -> dict[str, Any]:
    """The content of config.json. Raises ValueError as `require_config`; for graphs that it was not written with."""
    text = Path(folder, "config.json").read_text(encoding="utf-8")
    try:
        config = json.loads(text, object_pairs_hook=_fields)
    except RecursionError as error:
        raise ValueError("config.json is nested too deeply") from error
    require_config(config)
    for name, digest in config["graphs"].items():
        file = Path(folder, f"{name}{SUFFIXES[config['format']]}")
        content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError(f"{file} is not the graph that config.json was written with; export the model anew")
        if config["format"] == "onnx" and _ELSEWHERE.search(content):
            raise ValueError(f"{file} has numbers in another file, which has no digest; export the model anew")
    return config


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(fields := dict(pairs)) < len(pairs):
        raise ValueError(f"config.json: a field stands twice among {', '.join(name for name, _ in pairs)}")
    return fields


def require_config(config: Any) -> None:
    """Raises ValueError unless a configuration has all fields of `CONFIG`, no others, and each as it says."""
    _require(config, CONFIG, "config.json")
    betas, steps = config["schedule"], config["sampling"]["num_inference_steps"]
    if steps > betas["num_train_timesteps"] or betas["beta_start"] > betas["beta_end"]:
        raise ValueError(f"config.json: {steps} sampling steps of the schedule {betas}; one of these is too large")
    kept = (1 - betas["beta_start"]) * (1 - betas["beta_end"])  # of a signal in two steps; after all of them:
    if kept ** (betas["num_train_timesteps"] / 2) < 2e-45:
        raise ValueError(f"config.json: the schedule {betas} leaves nothing of a latent; sampling would divide by zero")


def _require(said: Any, known: Any, place: str) -> None:
    if isinstance(known, list):  # as many values
        said = dict(enumerate(said)) if isinstance(said, (list, tuple)) else said
        known = dict(enumerate(known))
    if isinstance(known, dict):
        fields = said if isinstance(said, dict) else {}
        for name in fields.keys() - known.keys():
            raise ValueError(f"{place}: {name} is no field that is known")
        for name, kind in known.items():
            if name not in fields:
                raise ValueError(f"{place}: {name} is missing")
            _require(fields[name], kind, f"{place}: {name}")
        return
    if isinstance(known, type):
        fits, expected = isinstance(said, known), f"a {known.__name__}"
    elif isinstance(known[0], str):
        fits, expected = said in known, " or ".join(known)
    else:
        number = isinstance(said, (int, type(known[0]))) and not isinstance(said, bool)
        fits, expected = number and known[0] <= said <= known[1], f"{type(known[0]).__name__} in {list(known)}"
    if not fits:
        raise ValueError(f"{place} is {said!r:.200}; expected {expected}")


def open_graph(file: Path) -> Graph:
    """A graph of onnxruntime as a function from arrays to arrays."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))


def predict(graphs: Graphs, config: dict[str, Any], photo: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
    """A photo [H, W, 3] uint8 → its maps [K, H, W] float32 in [0, 1]: the mask and, of a model that has it, the edges.

    `noise` is as `sample` takes it; without it the photo's own pixels decide on it.

    Raises ValueError as `require_config`; for another photo, other noise, or maps that are not finite.
    """
    require_config(config)
    photo = np.asarray(photo)
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or not photo.size:
        raise ValueError(f"the photo is {list(photo.shape)} of {photo.dtype}; expected [H, W, 3] of uint8")
    image = prepare(config["input"], photo)  # [1, 3, h, w]
    noise = draw_noise(config["sampling"], image) if noise is None else np.asarray(noise)
    expected = noise_shape(config["sampling"], image)
    if list(noise.shape) != expected or noise.dtype != np.float32 or not np.isfinite(noise).all():
        raise ValueError(f"the noise is {list(noise.shape)} of {noise.dtype}; expected finite {expected} of float32")
    maps = sample(graphs, config, image, noise)
    if not np.isfinite(maps).all():
        raise ValueError("the maps are not finite; these graphs or their settings do not suit the photo")
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


def noise_shape(sampling: dict[str, Any], image: np.ndarray) -> list[int]:
    """[V, D, N, C, h/8, w/8]: V views, D draws (S of the ancestral sampler, else 1), N members."""
    draws = sampling["num_inference_steps"] if sampling["sampler"] == "ancestral" else 1
    cells = [side // sampling["latent_stride"] for side in image.shape[2:]]
    return [1 + sampling["tta"], draws, sampling["ensemble_size"], sampling["latent_channels"], *cells]


def draw_noise(sampling: dict[str, Any], image: np.ndarray) -> np.ndarray:
    """Normal noise of `noise_shape`, which the image's pixels decide on."""
    seed = int.from_bytes(hashlib.sha256(image.tobytes()).digest(), "little")
    return np.random.default_rng(seed).standard_normal(noise_shape(sampling, image), np.float32)


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


def read(path: str) -> np.ndarray:
    """The array of a .npy file. Raises OSError, or ValueError if it is none, or holds less than it says."""
    try:
        return np.array(open_memmap(path, "r"))  # as large as the file is, whatever its header says
    except OSError:
        raise
    except Exception as error:  # numpy raises whatever its parser of a header does
        raise ValueError(f"{path} is no array as numpy.save writes it: {error}") from error


def require_free(path: str) -> None:
    """Raises ValueError for a file that is no .npy, or is there, or whose folder is not."""
    if not path.endswith(".npy"):
        raise ValueError(f"{path} is no .npy file; name one")
    if not Path(path).absolute().parent.is_dir():
        raise ValueError(f"{path} is in no folder that is there; make it")
    if os.path.lexists(path):
        raise ValueError(f"{path} is there already and is not overwritten; name another file, or move that")


def write(path: str, array: np.ndarray) -> None:
    """Writes an array beside its place, which it then takes in one step. Raises OSError, ValueError."""
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "xb") as file:
            np.save(file, array)
        require_free(path)  # it may be there by now
        open(path, "xb").close()
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", help="array [H, W, 3] of uint8, as numpy.save writes it")
    parser.add_argument("mask", help="file to write: a .npy that is not there")
    parser.add_argument("--noise", help="array as sample() takes it; without it the photo's own pixels decide on it")
    args = parser.parse_args()
    try:
        require_free(args.mask)
        drawn = read(args.noise) if args.noise else None
        write(args.mask, predict(*load(Path(__file__).parent), read(args.photo), drawn)[0])
    except (OSError, ValueError) as error:
        parser.error(str(error))
