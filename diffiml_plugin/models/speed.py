"""What one prediction costs on this device: milliseconds, images per second, memory and launches."""

import gc
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from tqdm import tqdm

from diffiml_plugin import launch
from diffiml_plugin.errors import device_failed, wanted_memory
from diffiml_plugin.framework.adapters import method_of
from diffiml_plugin.method.config import DENOISERS
from diffiml_plugin.method.diffiml import DiffIML
from diffiml_plugin.models.compiled import forget_graphs, speed_up
from diffiml_plugin.models.cost import ENSEMBLE_SIZES, count_all, timed
from diffiml_plugin.models.registry import DIFFIML, RegisteredModel, find_model
from diffiml_plugin.models.untrained import blank_batch, build_untrained, untrained

_logger = logging.getLogger(__name__)
STEPS = (1, 8)
_HEAVY = ("convolution", "mm", "scaled_dot_product")  # whose bytes nothing can fuse away
_FEWEST, _MOST = 5, 200  # timed calls
_WARM_UPS = {"cuda": 5, "cpu": 1}  # on a GPU a shape is captured when it comes again
_ROTATED = 4  # inputs that take turns, so that none is read from a cache that it warmed
_GAIN = 1.05  # a larger batch must be so many times faster, or the search for the best ends
_BATCHES = {"cuda": (4, 16, 64), "cpu": (2,)}  # each is compiled anew, which takes a minute
_PRODUCT = {"cuda": 8192, "cpu": 1024}  # side of the matrices whose product is the ceiling of arithmetic
_COPIED = {"cuda": 2**30, "cpu": 2**26}  # bytes copied for the ceiling of traffic
_LINES = {"N": (1, 2, 5, 10), "S": (1, 2, 4, 8), "image side": (256, 512, 768)}  # one is varied around N=5, S=8, 512
_Calls = Sequence[Callable[[], Any]]  # equal ones, on inputs that take turns


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

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those that are measured; bf16 on a CPU only where its library has it."""
        has_bf16 = self.device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return ("fp32", "bf16") if has_bf16 else ("fp32",)

    def seconds_of(self, calls: _Calls) -> list[float]:
        """Of single calls in turn, each until the device has done it, after some that warm up."""
        warm_ups = _WARM_UPS[self.device.type]
        timed(calls[:1], warm_ups, warm_ups, self.seconds)
        return timed(calls, _FEWEST, _MOST, self.seconds, self.clock)

    def median_of(self, calls: _Calls) -> float:
        return median(self.seconds_of(calls))

    def total_of(self, calls: _Calls, count: int) -> float:
        """Seconds of `count` calls in turn."""
        return sum(timed(calls, count, count, self.seconds, self.clock))


def ceilings(settings: Bench) -> dict[str, float]:
    """What this device reaches: TFLOP/s of a matrix product by precision, and GB/s, read and written, of a copy."""
    device, reached = settings.device, {}
    side = _PRODUCT[device.type]
    for precision in settings.precisions:
        dtype = launch.half_precision(device, precision) or torch.float32
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        reached[f"{precision}_tflops"] = 2 * side**3 / settings.median_of([partial(torch.matmul, a, b)]) / 1e12
    source = torch.zeros(_COPIED[device.type] // 4, device=device)
    target = torch.empty_like(source)
    reached["copy_gb_s"] = 2 * 4 * source.numel() / settings.median_of([lambda: target.copy_(source)]) / 1e9
    return reached


@contextmanager
def built(settings: Bench, denoiser: str) -> Iterator[tuple[nn.Module, DiffIML]]:
    """DiffIML with random weights on the device; freed afterwards."""
    with untrained(settings.device.type):
        flags = {"encoder": settings.encoder, "denoiser": denoiser}
        model, _ = build_untrained(DIFFIML, flags, settings.image_size)
        model.to(settings.device)
    yield model, method_of(model)
    del model
    torch.compiler.reset()  # after eight shapes of one network, in all models, it would compile no more
    gc.collect()
    if settings.device.type == "cuda":
        torch.cuda.empty_cache()


def our_rows(settings: Bench, reached: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """DiffIML with each denoiser, in each way of this device, of each N and S. `reached`: the `ceilings`."""
    ways = list(product(settings.precisions, (False, True) if settings.device.type == "cuda" else (False,)))
    for denoiser, (precision, compiled) in tqdm([*product(DENOISERS, ways)], "DiffIML", disable=None):
        with built(settings, denoiser) as (model, method):
            cases = [
                replace(method.config, ensemble_size=members, num_inference_steps=steps)
                for members, steps in product(ENSEMBLE_SIZES, STEPS)
            ]
            counted = []
            for method.config in cases:
                counted.append(_counted(settings, model, method))
            speed_up(model, settings.device, precision, "on" if compiled else "off")
            for method.config, (flops, values) in zip(cases, counted, strict=True):
                moved = values * (2 if precision == "bf16" else 4)  # bytes
                floor = max(flops / reached[f"{precision}_tflops"] / 1e12, moved / reached["copy_gb_s"] / 1e9)
                yield {
                    "model": DIFFIML.name,
                    "denoiser": denoiser,
                    "N": method.config.ensemble_size,
                    "S": method.config.num_inference_steps,
                    "precision": precision,
                    "compiled": compiled,
                    "image_size": settings.image_size,
                    **_measured(settings, partial(our_calls, settings, method, precision)),
                    "floor_ms": 1e3 * floor,
                    "gflops": flops / 1e9,
                }
                forget_graphs(model)


def our_calls(
    settings: Bench,
    method: DiffIML,
    precision: str,
    batch_size: int = 1,
    side: int | None = None,
    members: bool = False,
) -> list[Callable[[], Any]]:
    """DiffIML's `forward` on a batch of images of `side` pixels, which are on the device already.

    Args:
        members: decodes them too, for their spread.
    """
    side, device = side or settings.image_size, settings.device
    calls: list[Callable[[], Any]] = []
    generator = torch.Generator().manual_seed(0)
    for number in range(_ROTATED):
        names = [f"{number}/{i}" for i in range(batch_size)]
        image = torch.randn(batch_size, 3, side, side, generator=generator).to(device)
        noise = method.draw_noise(names, (side, side)).to(device)
        calls.append(partial(_call, settings, precision, partial(method, image, noise, members)))
    return calls


def _call(settings: Bench, precision: str, predict: Callable[[], Any]) -> Any:
    with torch.no_grad(), launch.autocast(settings.device, precision):
        return predict()


def zoo_rows(settings: Bench) -> Iterator[dict[str, Any]]:
    """The other models, each at its own size; one that cannot be measured has an `error`."""
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
            return {**row, **_measured(settings, partial(_zoo_calls, settings, model, batch))}
    except Exception as error:  # the zoo's models fail in ways of their own, and none may end the run
        if device_failed(error):
            raise
        return {**row, "error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}


def _zoo_calls(
    settings: Bench, model: nn.Module, batch: dict[str, Any], batch_size: int = 1
) -> list[Callable[[], Any]]:
    """As `our_calls`, of a model of the zoo. `batch`: its `blank_batch`."""
    many = {
        key: value.repeat(batch_size, *[1] * (value.ndim - 1)) if isinstance(value, Tensor) else value * batch_size
        for key, value in batch.items()
    }

    def predict(image: Tensor) -> Tensor:
        return model(**{**many, "image": image})["pred_mask"]

    generator = torch.Generator().manual_seed(0)
    images = (torch.randn(many["image"].shape, generator=generator).to(settings.device) for _ in range(_ROTATED))
    return [partial(_call, settings, "fp32", partial(predict, image)) for image in images]


def _measured(settings: Bench, calls: Callable[[int], _Calls]) -> dict[str, Any]:
    """Latency of single images, throughput at the best batch, memory and launches; or why there are none.

    Args:
        calls: those of a batch of that size.
    """
    on_gpu = settings.device.type == "cuda"
    try:
        single = calls(1)
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(settings.device)
        seconds = settings.seconds_of(single)
        peak = torch.cuda.max_memory_allocated(settings.device) / 2**20 if on_gpu else None
        per_second, batch_size = _throughput(settings, calls, 1 / median(seconds))
    except torch.OutOfMemoryError as error:
        return {"error": str(error).splitlines()[0]}
    return {
        "latency_ms": {"median": 1e3 * median(seconds), "p95": 1e3 * quantiles(seconds, n=20, method="inclusive")[-1]},
        "images_per_second": per_second,
        "batch_size": batch_size,
        "peak_mb": peak,
        "launches": _launches(settings, single[0]),
    }


def _throughput(settings: Bench, calls: Callable[[int], _Calls], single: float) -> tuple[float, int]:
    """The most images per second, and at which batch; batches grow while that pays and memory lasts."""
    rates = [(single, 1)]
    for size in _BATCHES[settings.device.type]:
        try:
            rates.append((size / settings.median_of(calls(size)), size))
        except torch.OutOfMemoryError as error:
            _logger.warning(f"the memory is full with {size} images, {rates[-1][1]} fit ({wanted_memory(error)})")
            break
        if rates[-1][0] < _GAIN * rates[-2][0]:
            break
    return max(rates)


def _launches(settings: Bench, call: Callable[[], Any]) -> int:
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


def _counted(settings: Bench, model: nn.Module, method: DiffIML) -> tuple[float, int]:
    """A prediction's floating-point operations, 2 for a multiply-add, and the values that its heavy operators read and
    write: all else can be fused into these."""
    with untrained(settings.device.type):
        members = method.config.ensemble_size
        gflops = count_all(DIFFIML, model, blank_batch(model, settings.image_size), [members])["run"][f"N={members}"]
    with CountedOperators() as counted:
        our_calls(settings, method, "fp32")[0]()
    return 2e9 * (gflops or 0.0), counted.values


def lines(settings: Bench) -> dict[str, list[tuple[int, float]]]:
    """Median milliseconds of one image against N, S and the image's side, in the device's usual way."""
    points: dict[str, list[tuple[int, float]]] = {}
    with built(settings, "light") as (model, method):
        speed_up(model, settings.device, "auto", "auto")
        base = replace(method.config, ensemble_size=5, num_inference_steps=8)
        for name, value in ((name, value) for name, values in _LINES.items() for value in values):
            changed: dict[str, Any] = {"N": {"ensemble_size": value}, "S": {"num_inference_steps": value}}.get(name, {})
            method.config = replace(base, **changed)
            side = value if name == "image side" else settings.image_size
            seconds = settings.median_of(our_calls(settings, method, "auto", side=side))
            points.setdefault(name, []).append((value, 1e3 * seconds))
            forget_graphs(model)
    return points


class CountedOperators(TorchDispatchMode):
    """Counts operators without those that only look at memory anew, and the heavy ones' values, read and written."""

    def __init__(self) -> None:
        super().__init__()
        self.launches, self.values = 0, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        aliases = [returned.alias_info for returned in function._schema.returns]
        looks = any(alias is not None and not alias.is_write for alias in aliases) or "view" in function._schema.name
        self.launches += not looks
        if any(name in function._schema.name for name in _HEAVY):
            results = result if isinstance(result, tuple) else (result,)
            self.values += sum(value.numel() for value in (*args, *results) if isinstance(value, Tensor))
        return result
