"""`benco bench`: what a prediction costs on this device, beside the zoo's models and the device's own limits."""

import gc
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain, product
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from diffiml_plugin import launch
from diffiml_plugin.data.lists import NEGATIVE, ImageList
from diffiml_plugin.data.pairs import make_test_set
from diffiml_plugin.evaluation.scores import score_batch
from diffiml_plugin.files import write_figure, write_picture, write_text
from diffiml_plugin.framework.adapters import method_of
from diffiml_plugin.method.diffiml import DiffIML
from diffiml_plugin.models.checkpoints import save_checkpoint
from diffiml_plugin.models.compiled import forget_graphs, speed_up
from diffiml_plugin.models.cost import CountedOperators, count_flops, timed
from diffiml_plugin.models.inputs import InputSettings
from diffiml_plugin.models.registry import DIFFIML, RegisteredModel, find_model
from diffiml_plugin.models.untrained import blank_batch, build_untrained, untrained
from diffiml_plugin.prediction.detector import Detector
from diffiml_plugin.prediction.files import predict
from diffiml_plugin.settings import CommonSettings
from diffiml_plugin.table import Table

_logger = logging.getLogger(__name__)
DENOISERS, ENSEMBLE_SIZES, STEPS = ("light", "release"), (1, 5), (1, 8)
_REFERENCE = ("light", 1, 8)  # denoiser, N and S that others relate to
_FEWEST, _MOST = 5, 200  # timed calls
_WARM_UPS = {"cuda": 5, "cpu": 1}  # on a GPU a shape is captured when it comes again
_ROTATED = 4  # inputs that take turns, so that none is read from a cache that it warmed
_GAIN = 1.05  # a doubled batch must be so many times faster, or the search for the best ends
_LARGEST_BATCH = {"cuda": 128, "cpu": 2}
_PRODUCT = {"cuda": 8192, "cpu": 1024}  # side of the matrices whose product is the ceiling of arithmetic
_COPIED = {"cuda": 2**30, "cpu": 2**26}  # bytes copied for the ceiling of traffic
_LINES = {"N": (1, 2, 5, 10), "S": (1, 2, 4, 8), "image side": (256, 512, 768)}  # one is varied around N=5, S=8, 512


@dataclass(frozen=True)
class Bench:
    """What is measured: on which device, of images of which size, for about how long each time.

    Args:
        image_size: in pixels, of DiffIML's images; the zoo's models have their own.
        seconds: of one timing, after its warm-up.
        zoo: names of other models.
        encoder: DiffIML's.
    """

    device: torch.device
    image_size: int = 512
    seconds: float = 2.0
    zoo: tuple[str, ...] = ()
    encoder: str = "segformer_b3"

    @property
    def clock(self) -> Callable[[], float]:
        """On one thread of a CPU, its own time, which other processes do not lengthen."""
        alone = self.device.type == "cpu" and torch.get_num_threads() == 1
        return time.process_time if alone else time.perf_counter


def bench(settings: Bench, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Measures everything, and gives `keep` the results each time there is more, so that a lost device costs no more.

    Returns:
        {"device", "ceilings", "rows", "shares_ms", "lines", "ratios"}. A row has the model, N, S, precision, compiled,
        image_size, latency_ms {median, p95} of single images, images_per_second at batch_size, the fastest, peak_mb,
        launches of one prediction, and for DiffIML floor_ms, which the ceilings allow; or an `error`. What this device
        has no figure for is None.

    Raises:
        DiffIMLError: an unknown model.
    """
    for name in settings.zoo:
        find_model(name)  # an unknown one is said now
    results: dict[str, Any] = {
        "device": device_name(settings.device),
        "ceilings": ceilings(settings),
        "rows": [],
        "shares_ms": {},
        "lines": {},
        "ratios": {},
    }
    for row in chain(_our_rows(settings, results["ceilings"]), _zoo_rows(settings)):
        results["rows"].append(row)
        results["ratios"] = ratios(results["rows"], settings.image_size)
        keep(results)
    with _built(settings, "light") as (model, method):
        results["lines"] = _lines(settings, model, method)
        keep(results)
    results["shares_ms"], per_forward = _shares(settings)
    results["ratios"] |= {"predict_over_bare": per_forward, "scoring_ms_per_image": results["shares_ms"]["scoring"]}
    keep(results)
    return results


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}"


def ratios(rows: Sequence[Mapping[str, Any]], image_size: int) -> dict[str, float | None]:
    """Between medians: N=5 over N=1 in the fastest way of this device, and the fastest model of the zoo at the same
    size over our N=1, both in plain fp32; None where one of the two is missing."""

    def time_of(members: int, precision: str, compiled: bool) -> float | None:
        denoiser, _, steps = _REFERENCE
        wanted = {"denoiser": denoiser, "N": members, "S": steps, "precision": precision, "compiled": compiled}
        found = (
            row for row in rows if row["model"] == DIFFIML.name and wanted.items() <= row.items() and "error" not in row
        )
        return next((row["latency_ms"]["median"] for row in found), None)

    def over(one: float | None, other: float | None) -> float | None:
        return one / other if one and other else None

    best = ("bf16", True) if time_of(5, "bf16", True) else ("fp32", False)
    peers = [
        row["latency_ms"]["median"]
        for row in rows
        if row["model"] != DIFFIML.name and row["image_size"] == image_size and "error" not in row
    ]
    return {
        "N5_over_N1": over(time_of(5, *best), time_of(1, *best)),
        f"fastest_zoo_{image_size}_over_N1": over(min(peers, default=None), time_of(1, "fp32", False)),
        f"fastest_zoo_{image_size}_over_fastest_N1": over(min(peers, default=None), time_of(1, *best)),
    }


def ceilings(settings: Bench) -> dict[str, float]:
    """What this device reaches: TFLOP/s of a matrix product by precision, and GB/s, read and written, of a copy."""
    device, reached = settings.device, {}
    side = _PRODUCT[device.type]
    for precision in ("fp32", "bf16") if device.type == "cuda" else ("fp32",):
        dtype = launch.half_precision(device, precision) or torch.float32
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        reached[f"{precision}_tflops"] = 2 * side**3 / _median(settings, [partial(torch.matmul, a, b)]) / 1e12
    source = torch.zeros(_COPIED[device.type] // 4, device=device)
    target = torch.empty_like(source)
    reached["copy_gb_s"] = 2 * 4 * source.numel() / _median(settings, [lambda: target.copy_(source)]) / 1e9
    return reached


@contextmanager
def _built(settings: Bench, denoiser: str) -> Iterator[tuple[nn.Module, DiffIML]]:
    """DiffIML with random weights on the device; freed afterwards."""
    with untrained(settings.device.type):
        flags = {"encoder": settings.encoder, "denoiser": denoiser}
        model, _ = build_untrained(DIFFIML, flags, settings.image_size)
        model.to(settings.device)
    yield model, method_of(model)
    del model
    gc.collect()
    if settings.device.type == "cuda":
        torch.cuda.empty_cache()


def _our_rows(settings: Bench, reached: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    on_gpu = settings.device.type == "cuda"
    ways = list(product(("fp32", "bf16") if on_gpu else ("fp32",), (False, True) if on_gpu else (False,)))
    cases = list(product(DENOISERS, ways))
    for denoiser, (precision, compiled) in tqdm(cases, "DiffIML", disable=None):
        with _built(settings, denoiser) as (model, method):
            counted = _counted(settings, method)
            speed_up(model, settings.device, precision, "on" if compiled else "off")
            for members, steps in product(ENSEMBLE_SIZES, STEPS):
                method.config = replace(method.config, ensemble_size=members, num_inference_steps=steps)
                row = {
                    "model": DIFFIML.name,
                    "denoiser": denoiser,
                    "N": members,
                    "S": steps,
                    "precision": precision,
                    "compiled": compiled,
                    "image_size": settings.image_size,
                }
                flops, moved = counted(members, steps)
                floor = max(
                    flops / reached[f"{precision}_tflops"] / 1e12, moved[precision] / reached["copy_gb_s"] / 1e9
                )
                predicting = _Predicting(settings, method, precision)
                yield {**row, **_measured(settings, predicting), "floor_ms": 1e3 * floor, "gflops": flops / 1e9}
                forget_graphs(model)


class _Predicting:
    """Calls of DiffIML's `forward` on batches of any size, on inputs that take turns."""

    def __init__(self, settings: Bench, method: DiffIML, precision: str):
        self.settings, self.method, self.precision = settings, method, precision

    def calls(self, batch_size: int, side: int | None = None) -> list[Callable[[], Tensor]]:
        """One for each of the inputs, which are on the device already."""
        side, device = side or self.settings.image_size, self.settings.device
        generator = torch.Generator().manual_seed(0)
        inputs = []
        for number in range(_ROTATED):
            names = [f"{number}/{i}" for i in range(batch_size)]
            image = torch.randn(batch_size, 3, side, side, generator=generator)
            inputs.append((image.to(device), self.method.draw_noise(names, (side, side)).to(device)))
        return [partial(self._call, image, noise) for image, noise in inputs]

    def _call(self, image: Tensor, noise: Tensor) -> Tensor:
        with torch.no_grad(), launch.autocast(self.settings.device, self.precision):
            return self.method(image, noise)[0]


def _zoo_rows(settings: Bench) -> Iterator[dict[str, Any]]:
    for name in tqdm(settings.zoo, "zoo", disable=None):
        yield _zoo_row(settings, find_model(name))
        gc.collect()


def _zoo_row(settings: Bench, card: RegisteredModel) -> dict[str, Any]:
    size = card.input.get("image_size", 512)
    row = {"model": card.name, "N": None, "S": None, "precision": "fp32", "compiled": False, "image_size": size}
    try:
        with untrained(settings.device.type):
            model, _ = build_untrained(card, {}, size)
            batch = blank_batch(model.to(settings.device), size)
            return {**row, **_measured(settings, _PeerPredicting(settings, model, batch))}
    except Exception as error:  # the zoo's models fail in ways of their own, and none may end the run
        return {**row, "error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}


class _PeerPredicting:
    """As `_Predicting`, of a model of the zoo."""

    def __init__(self, settings: Bench, model: nn.Module, batch: Mapping[str, Any]):
        self.settings, self.model, self.batch = settings, model, batch

    def calls(self, batch_size: int) -> list[Callable[[], Tensor]]:
        generator = torch.Generator().manual_seed(0)
        image = self.batch["image"]
        many = {
            key: value.repeat(batch_size, *[1] * (value.ndim - 1)) if isinstance(value, Tensor) else value * batch_size
            for key, value in self.batch.items()
        }
        images = [
            torch.randn(batch_size, *image.shape[1:], generator=generator).to(image.device) for _ in range(_ROTATED)
        ]
        return [partial(self._call, {**many, "image": one}) for one in images]

    def _call(self, batch: dict[str, Any]) -> Tensor:
        with torch.no_grad(), launch.autocast(self.settings.device, "fp32"):
            return self.model(**batch)["pred_mask"]


def _measured(settings: Bench, predicting: _Predicting | _PeerPredicting) -> dict[str, Any]:
    """Latency of single images, throughput at the best batch, memory and launches; or why there are none."""
    on_gpu = settings.device.type == "cuda"
    try:
        calls = predicting.calls(1)
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(settings.device)
        seconds = _seconds(settings, calls)
        peak = torch.cuda.max_memory_allocated(settings.device) / 2**20 if on_gpu else None
        per_second, batch_size = _throughput(settings, predicting, 1 / median(seconds))
    except torch.OutOfMemoryError as error:
        return {"error": str(error).splitlines()[0]}
    return {
        "latency_ms": {"median": 1e3 * median(seconds), "p95": 1e3 * quantiles(seconds, n=20)[-1]},
        "images_per_second": per_second,
        "batch_size": batch_size,
        "peak_mb": peak,
        "launches": _launches(settings, calls[0]),
    }


def _throughput(settings: Bench, predicting: _Predicting | _PeerPredicting, single: float) -> tuple[float, int]:
    """The most images per second, and at which batch; batches double while that pays and memory lasts."""
    best, size = (single, 1), 2
    while size <= _LARGEST_BATCH[settings.device.type]:
        try:
            per_second = size / _median(settings, predicting.calls(size))
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        if per_second < _GAIN * best[0]:
            return max(best, (per_second, size))
        best, size = (per_second, size), 2 * size
    return best


def _median(settings: Bench, calls: Sequence[Callable[[], Any]]) -> float:
    return median(_seconds(settings, calls))


def _seconds(settings: Bench, calls: Sequence[Callable[[], Any]]) -> list[float]:
    """Of single calls in turn, each until the device has done it, after some that warm up."""
    warm_ups = _WARM_UPS[settings.device.type]
    timed(calls[:1], warm_ups, warm_ups, settings.seconds)
    return timed(calls, _FEWEST, _MOST, settings.seconds, settings.clock)


def _launches(settings: Bench, call: Callable[[], Tensor]) -> int:
    """Of one call: kernels, copies and graphs that the driver was asked for; without a GPU the operators."""
    if settings.device.type == "cpu":
        with CountedOperators() as counted:
            call()
        return counted.launches
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        call()
        torch.cuda.synchronize(settings.device)
    asked = ("LaunchKernel", "GraphLaunch", "MemcpyAsync", "MemsetAsync")
    return sum(event.count for event in profiled.key_averages() if any(word in event.key for word in asked))


def _counted(settings: Bench, method: DiffIML) -> Callable[[int, int], tuple[float, dict[str, float]]]:
    """From N and S to a prediction's floating-point operations (2 for a multiply-add) and bytes by precision.

    The bytes are those of the heavy operators' arguments and results; all else can be fused into these.
    """
    side = settings.image_size
    image = torch.zeros(1, 3, side, side, device=settings.device)
    encoding = _Encoding(method)
    fixed = 2 * count_flops(encoding, image) + 2 * count_flops(_Decoding(method), _latent(method, image))
    with torch.no_grad(), CountedOperators() as counted:
        fused = encoding(image)
        _Decoding(method)(_latent(method, image))
    fixed_values = counted.values

    @cache
    def step_cost(members: int) -> tuple[float, int]:
        z = _latent(method, image).expand(members, -1, -1, -1)
        time_ = method.denoiser.embed(method.schedule.timesteps[:1])
        with torch.no_grad(), CountedOperators() as step:
            method.denoiser(z, time_, fused)
        return 2 * count_flops(method.get_submodule("denoiser"), z, time_, fused), step.values

    def cost(members: int, steps: int) -> tuple[float, dict[str, float]]:
        flops, values = step_cost(members)
        moved = fixed_values + steps * values
        return fixed + steps * flops, {"fp32": 4 * moved, "bf16": 2 * moved}

    return cost


class _Encoding(nn.Module):
    def __init__(self, method: DiffIML):
        super().__init__()
        self.method = method

    def forward(self, image: Tensor) -> Tensor:
        return self.method.condition(image)[0]


class _Decoding(_Encoding):
    def forward(self, z: Tensor) -> Tensor:
        return self.method._decode(z)


def _latent(method: DiffIML, image: Tensor) -> Tensor:
    return method.draw_noise(["counted"], image.shape[-2:])[0, 0, 0, :1].to(image.device)


def _lines(settings: Bench, model: nn.Module, method: DiffIML) -> dict[str, list[tuple[int, float]]]:
    """Median milliseconds of one image against N, S and the image's side, in the device's usual way."""
    speed_up(model, settings.device, "auto", "auto")
    base = replace(method.config, ensemble_size=5, num_inference_steps=8)
    lines: dict[str, list[tuple[int, float]]] = {}
    for name, values in _LINES.items():
        for value in values:
            changed: dict[str, Any] = {"N": {"ensemble_size": value}, "S": {"num_inference_steps": value}}.get(name, {})
            method.config = replace(base, **changed)
            side = value if name == "image side" else settings.image_size
            calls = _Predicting(settings, method, "auto").calls(1, side)
            lines.setdefault(name, []).append((value, 1e3 * _median(settings, calls)))
            forget_graphs(model)
    return lines


def _shares(settings: Bench) -> tuple[dict[str, float], float]:
    """Milliseconds of the parts of one image's way through `benco test`; and `benco predict` of a folder, image by
    image, over the bare prediction."""
    side, device = settings.image_size, settings.device
    with tempfile.TemporaryDirectory() as folder, _built(settings, "light") as (model, method):
        photographs, checkpoint = Path(folder, "photographs"), Path(folder, "weights.safetensors")
        _photographs(photographs, side)
        flags = DIFFIML.resolve({"encoder": settings.encoder})
        save_checkpoint(checkpoint, model, DIFFIML.name, flags, input={"image_size": side})
        files = sorted(photographs.iterdir())
        listed = ImageList("photographs", tuple(map(str, files)), (NEGATIVE,) * len(files))
        dataset = make_test_set(listed, InputSettings(side), DIFFIML)
        speed_up(model, device, "auto", "auto")
        image = torch.randn(1, 3, side, side, device=device)
        noise = method.draw_noise(["a"], (side, side)).to(device)
        mask = (torch.rand(1, 1, side, side, device=device) < 0.1).double()
        batch = {"mask": mask, "label": torch.ones(1), "name": ["a"], "index": torch.zeros(1)}
        output = {"pred_mask": torch.rand(1, 1, side, side, device=device)}
        latents = noise[:, 0, 0]
        with torch.no_grad(), launch.autocast(device, "auto"):
            conditions = method.condition(image)
            parts: dict[str, list[Callable[[], Any]]] = {
                "data": [partial(dataset.__getitem__, i) for i in range(len(files))],
                "encoder": [lambda: method.condition(image)],
                "sampler": [lambda: method.sample(conditions, noise)],
                "decoder": [lambda: method._decode_mean(latents)],
                "scoring": [lambda: score_batch(output, batch, complete=True)],
            }
            shares = {name: 1e3 * _median(settings, calls) for name, calls in parts.items()}
        shares["sampler"] -= shares["decoder"]
        bare = _median(settings, _Predicting(settings, method, "auto").calls(1))
        detector = Detector(checkpoint, CommonSettings(device=device.type))
        predict(detector, [str(photographs)], Path(folder, "warm"))
        started = settings.clock()
        predict(detector, [str(photographs)], Path(folder, "out"))
        return shares, (settings.clock() - started) / len(files) / bare


def _photographs(folder: Path, side: int, count: int = 8) -> None:
    """JPEGs of about the detail of photographs: noise of all sizes."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        layers = [
            np.asarray(
                Image.fromarray(random.integers(0, 256, (side >> k, side >> k, 3), np.uint8)).resize((side, side))
            )
            for k in range(6)
        ]
        write_picture(folder / f"{number}.jpg", np.mean(layers, 0).astype(np.uint8), quality=90)


def table(results: Mapping[str, Any]) -> Table:
    """One line for each row."""
    head = (
        "model",
        "size",
        "N",
        "S",
        "precision",
        "compiled",
        "ms",
        "p95",
        "images/s",
        "batch",
        "MB",
        "launches",
        "× floor",
    )
    lines = []
    for row in results["rows"]:
        name = " ".join(filter(None, (row["model"], row.get("denoiser"))))
        start = (name, row["image_size"], row["N"], row["S"], row["precision"], "yes" if row["compiled"] else "no")
        if "error" in row:
            lines.append([*start, row["error"][:60], *[None] * 6])
            continue
        latency, floor = row["latency_ms"], row.get("floor_ms")
        lines.append(
            [
                *start,
                f"{latency['median']:.2f}",
                f"{latency['p95']:.2f}",
                f"{row['images_per_second']:.1f}",
                row["batch_size"],
                None if row["peak_mb"] is None else f"{row['peak_mb']:.0f}",
                row["launches"],
                None if floor is None else f"{latency['median'] / floor:.1f}",
            ]
        )
    return Table(head, lines, f"Cost of one prediction on {results['device']}")


def plot(path: Path, results: Mapping[str, Any]) -> None:
    """Three panels: milliseconds against N, S and the image's area."""
    figure = Figure(figsize=(12, 3.4))
    for axis, (name, points) in zip(figure.subplots(1, 3), results["lines"].items(), strict=True):
        values, milliseconds = zip(*points, strict=True)
        axis.plot([value**2 / 1e6 for value in values] if name == "image side" else values, milliseconds, "o-")
        axis.set_xlabel("image area, megapixels" if name == "image side" else name)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel(f"ms, {results['device']}")
    write_figure(path, figure, dpi=150)


def write(path: Path, results: Mapping[str, Any]) -> None:
    """The results so far."""
    write_text(path, json.dumps(results, indent=1) + "\n")
