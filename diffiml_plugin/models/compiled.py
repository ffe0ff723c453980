"""DiffIML's predictions, faster: its networks compiled, weights in half precision, one CUDA graph for each shape."""

import atexit
import logging
import os
import platform
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial, wraps
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffiml_plugin import launch
from diffiml_plugin.errors import DiffIMLError, device_failed, first_line, wanted_memory
from diffiml_plugin.folders import user_cache
from diffiml_plugin.method.diffiml import DiffIML

_logger = logging.getLogger(__name__)
_MOST_GRAPHS = 4  # shapes that are captured; each holds the memory of its activations
_WARM_UPS = 3  # runs before a capture, in which kernels are compiled and chosen


def speed_up(model: nn.Module, device: torch.device, precision: str, compile_mode: str, captures: bool = True) -> None:
    """Prepares DiffIML in `model`, if it holds one, for predictions under `launch.autocast(device, precision)`.

    Args:
        model: on `device`, in evaluation mode from here on; it is changed in place.
        precision: of `settings.PRECISIONS`. In half precision the weights that autocast would cast in every call are
            stored so, which gives the same results.
        compile_mode: of `settings.COMPILE_MODES`; "auto" is "on" on a GPU and "off" on the CPU. "on" compiles the
            encoder, the denoiser and the decoder, and on a GPU captures whole predictions as CUDA graphs.
        captures: False for a caller of `DiffIML.condition` and `sample`, who makes no whole predictions.

    What cannot be compiled or captured runs as it is, after a warning that says why.
    """
    compiling = compile_mode == "on" or (compile_mode == "auto" and device.type == "cuda")
    if compiling:
        _keep_what_is_compiled()
    for method in (module for module in model.modules() if isinstance(module, DiffIML)):
        if dtype := launch.half_precision(device, precision):
            for network in ("condition_encoder", "denoiser"):
                _store_weights_in(dtype, method.get_submodule(network))
        if compiling:
            parts = _Parts(captures and device.type == "cuda")
            for title, part, call in (
                ("the condition encoder", method.condition_encoder, "forward"),
                ("the denoiser", method.denoiser, "forward"),
                ("the decoder", method.codec, "decode"),
            ):
                setattr(part, call, parts.add(title, getattr(part, call)))
            if parts.captures:
                torch.backends.cudnn.benchmark = True  # shapes repeat
                method.forward = _Captured(method, parts)  # type: ignore[method-assign]


def _keep_what_is_compiled() -> None:
    """In the user's own cache, or for this process alone. It is kept as pickles, which torch runs when it reads them,
    and by default in a folder of /tmp that anyone may have made."""
    place = os.environ.get("TORCHINDUCTOR_CACHE_DIR", "")  # torch says its default there too
    folder, name = os.path.split(place)
    if not place or (folder == tempfile.gettempdir() and name.startswith("torchinductor_")):
        kept = user_cache(f"compiled_{_processor()}")
        if kept is None:
            kept = Path(tempfile.mkdtemp())
            atexit.register(shutil.rmtree, kept, ignore_errors=True)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(kept)


def _options() -> dict[str, Any] | None:
    """Of `torch.compile`. Its headers, which become part of what runs, lie in a folder of /tmp, whatever
    TORCHINDUCTOR_CACHE_DIR says; versions before they were precompiled have no such option."""
    from torch._inductor import list_options  # seconds

    headers = "cpp_cache_precompile_headers"
    return {headers: False} if headers in list_options() else None


def _processor() -> str:
    """Stands for what this processor can do: another computer of the same home may not run what is compiled here."""
    known = f"{platform.machine()} {platform.processor()}"
    with suppress(OSError):  # no Linux
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        known += " ".join(sorted({line for line in lines if line.startswith(("flags", "Features"))}))
    return sha256(known.encode()).hexdigest()[:8]


def forget_graphs(model: nn.Module) -> None:
    """Frees the graphs that `speed_up` let `model` capture; shapes are captured anew when they come again."""
    for captured in (vars(module).get("forward") for module in model.modules() if isinstance(module, DiffIML)):
        if isinstance(captured, _Captured):
            for known in (captured.graphs, captured.seen, captured.too_large):
                known.clear()


def _store_weights_in(dtype: torch.dtype, network: nn.Module) -> None:
    """Casts what autocast casts: the weights of matrix products and convolutions, not those of norms."""
    for layer in network.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            layer.to(dtype)


class _Parts:
    """Functions that run plainly, or compiled for each shape, or compiled for any, as `way` says.

    Args:
        captures: whether a `_Captured` sets the way; else it is "any" for good.
    """

    def __init__(self, captures: bool):
        self.captures, self.way = captures, "plain" if captures else "any"

    def add(self, name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        """`plain` in the present way; itself where compiling fails."""
        options = _options()
        compiled = {
            "each": torch.compile(plain, dynamic=False, options=options),
            "any": torch.compile(plain, options=options),
        }
        fails = False

        @wraps(plain)
        def run(*inputs: Any, **options: Any) -> Any:
            nonlocal fails
            if fails or self.way == "plain":
                return plain(*inputs, **options)
            try:
                return compiled[self.way](*inputs, **options)
            except (DiffIMLError, torch.OutOfMemoryError):
                raise
            except Exception as error:  # compilers fail in many ways, and none may end a run
                if device_failed(error):
                    raise
                fails = True
                _logger.warning(f"{name} runs without compiling, which failed: {first_line(error)}")
                return plain(*inputs, **options)

        return run


class _Captured:
    """`DiffIML.forward` of `method`, replayed as a CUDA graph for shapes that come again.

    A shape that comes once, such as a last batch's, runs plainly: compiling and capturing it would take far longer.
    Of more than `_MOST_GRAPHS` shapes, such as images at their own sizes, the networks are compiled for any size.
    """

    def __init__(self, method: DiffIML, parts: _Parts):
        self.method, self.function, self.parts = method, method.forward, parts
        self.seen: Counter = Counter()
        self.graphs: dict[Any, _Graph] = {}
        self.too_large: set[Any] = set()  # shapes whose graph the memory does not hold
        self.fails = False

    def __call__(self, image: Tensor, noise: Tensor, members: bool = False) -> tuple[Tensor, ...]:
        key = (image.shape, noise.shape, members, self.method.config)
        self.seen[key] += 1
        if key in self.graphs:
            return self.graphs[key](image, noise)
        repeated = self.seen[key] > 1 and len(self.graphs) < _MOST_GRAPHS
        self.parts.way = "each" if repeated else "any" if len(self.seen) > _MOST_GRAPHS else "plain"
        try:
            if repeated and not self.fails and key not in self.too_large:
                try:
                    self.graphs[key] = _Graph(partial(self.function, members=members), image, noise)
                    return self.graphs[key](image, noise)
                except torch.OutOfMemoryError as error:
                    self.too_large.add(key)
                    _logger.warning(
                        f"predictions of {len(image)} images of this size run without a CUDA graph, which the GPU's "
                        f"memory does not hold: {wanted_memory(error)}"
                    )
                except Exception as error:  # a capture fails in as many ways as compiling
                    self.fails = True
                    _logger.warning(f"predictions run without a CUDA graph, whose capture failed: {first_line(error)}")
            return self.function(image, noise, members)
        finally:
            self.parts.way = "plain"


class _Graph:
    """A function of tensors of fixed shapes, recorded once; a call costs a single launch, whatever is inside."""

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], *inputs: Tensor):
        self.inputs = [tensor.clone() for tensor in inputs]
        self.graph = torch.cuda.CUDAGraph()
        caches = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)  # its casts would be freed under the graph
        try:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(_WARM_UPS):
                    function(*self.inputs)
            torch.cuda.current_stream().wait_stream(side)
            with torch.cuda.graph(self.graph):
                self.outputs = function(*self.inputs)
        finally:
            torch.set_autocast_cache_enabled(caches)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given, non_blocking=True)
        self.graph.replay()
        return tuple(output.clone() for output in self.outputs)  # the next replay overwrites them
