"""Processes and devices: starts torchrun, or joins what torchrun or SLURM started."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar, cast

import psutil
import torch
from torch import nn

from diffiml_plugin import launchers, signals
from diffiml_plugin.errors import DiffIMLError

if TYPE_CHECKING:  # its import takes a second, and `predict` does without
    from accelerate import Accelerator, PartialState

_logger = logging.getLogger(__name__)
_PATIENCE = timedelta(hours=12)  # the other processes wait while the first looks at every file of a large corpus
_SOON = 60  # seconds after which one is told that it waits
_CGROUPS = {  # by the controllers of a line of /proc/self/cgroup: the file of a group's limit
    "": "/sys/fs/cgroup{}/memory.max",
    "memory": "/sys/fs/cgroup/memory{}/memory.limit_in_bytes",
}
# How variables begin by which accelerate does more than it is asked for.
_OF_OTHER_LAUNCHERS = ("ACCELERATE_", "PMI_", "OMPI_", "MV2_")
_ROUNDS_FP32 = ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE")
_HAS_NAMES_OF_2_9 = hasattr(torch.backends, "fp32_precision")  # torch 2.9 calls the rounding to TF32 otherwise
MEMORY_SHARE = 0.9  # of the computer's memory that is taken where no limit is given
Sample = dict[str, Any]
_Value = TypeVar("_Value")


def spawn(gpus: int | None, device: str, arguments: Sequence[str]) -> int | None:
    """Runs `diffiml ARGUMENTS` once on each of `gpus` GPUs and returns the exit status.

    None if there is nothing to start: this process is one of them already, or one process is enough.

    Raises:
        DiffIMLError: more GPUs than the machine has, GPUs on the CPU, or another number than torchrun or SLURM started.
    """
    if gpus is None:
        return None
    environment = dict(os.environ)
    launchers.join_slurm(environment)
    if launchers.is_of_group(environment):
        started = launchers.processes_here(environment, unknown=gpus)
        if gpus != started:
            raise DiffIMLError(
                f"--gpus {gpus}, but {started} processes were started on this node; leave the flag out, "
                "or start one process for each GPU"
            )
        return None
    present = torch.cuda.device_count()
    if device == "cpu":
        raise DiffIMLError(
            f"--gpus {gpus} with --device cpu: leave one of them out (several CPU processes: "
            "torchrun --nproc_per_node 2 -m diffiml_plugin ...)"
        )
    if gpus > present:
        mend = f"ask for at most {present}" if present else "leave it out, and the CPU is used"
        raise DiffIMLError(f"--gpus {gpus}, but torch finds {present} on this machine; {mend}")
    if gpus == 1:
        return None
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        run.run(run.parse_args(["--standalone", f"--nproc_per_node={gpus}", "-m", "diffiml_plugin", *arguments]))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            _logger.error(f"process {rank} of {gpus} was killed by {name}, and the others were ended; was memory full?")
        return max(1, failure.exitcode)
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    return 0


def start(device: str, precision: str, find_unused_parameters: bool = False) -> "Accelerator":
    """This process's device, its process group if there are several, and autocast. For training.

    Raises:
        DiffIMLError: the device is not there, or cannot compute in that precision.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs

    launchers.join_slurm(os.environ)
    cpu = _use_cpu(device)
    _forget_earlier(cpu)
    name = actual_precision(precision, cpu)
    handlers = [
        DistributedDataParallelKwargs(
            find_unused_parameters=find_unused_parameters,
            gradient_as_bucket_view=True,  # no second copy of the gradients
        ),
        InitProcessGroupKwargs(timeout=_PATIENCE),
    ]
    with _joining_others():
        return Accelerator(cpu=cpu, mixed_precision="no" if name == "fp32" else name, kwargs_handlers=handlers)


def one_device(device: str) -> torch.device:
    """This process's device, for work that needs no other process, whatever launched it."""
    if _use_cpu(device):
        return torch.device("cpu")
    rank = launchers.local_rank(os.environ)
    return torch.device("cuda", rank if 0 <= rank < torch.cuda.device_count() else 0)  # each may see its own alone


def start_inference(device: str) -> "PartialState":
    """This process's device, and its process group if there are several."""
    from accelerate import PartialState

    launchers.join_slurm(os.environ)
    cpu = _use_cpu(device)
    _forget_earlier(cpu)
    with _joining_others():
        return PartialState(cpu=cpu, timeout=_PATIENCE)


@contextmanager
def _joining_others() -> Iterator[None]:
    """Inside, a process group is formed: by torchrun's variables alone. Those who wait for others are told so, and a
    signal ends them."""
    said = "rank {RANK} of {WORLD_SIZE} processes waits for others at {MASTER_ADDR}:{MASTER_PORT}; can it reach that?"
    timer = threading.Timer(_SOON, lambda: _logger.warning(said.format_map(os.environ)))
    timer.daemon = True
    if launchers.is_of_group(os.environ):
        timer.start()
    try:
        with signals.ending(), _without_variables_of_others():
            yield
    finally:
        timer.cancel()


@contextmanager
def _without_variables_of_others() -> Iterator[None]:
    """Inside, the environment has none of `accelerate launch` and none of MPI: accelerate takes them for more than what
    it is asked for, and one divides all gradients, others have it wait for processes that never come."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(_OF_OTHER_LAUNCHERS)}
    try:
        yield
    finally:
        os.environ.update(hidden)


def require_torchs_defaults() -> None:
    """Raises DiffIMLError if this program gives new tensors another type or device than torch does by itself, or its
    environment rounds fp32: networks, noise and figures would be others under the same settings."""
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    if dtype is not torch.float32 or device.type != "cpu":
        raise DiffIMLError(
            f"in this program new tensors are {dtype} on {device}, and results would be others; expected "
            "torch.set_default_dtype(torch.float32) and torch.set_default_device('cpu'), whatever --device says"
        )
    for name in _ROUNDS_FP32:
        if (mode := os.environ.get(name, "")).upper() not in ("", "STRICT"):
            raise DiffIMLError(
                f"the environment has {name}={mode}, by which oneDNN rounds what is to be fp32; unset it, and pass "
                "--precision bf16 where that is wanted"
            )


def host_group(processes: int) -> Any:
    """Of all processes, to speak without their GPUs; None if there is one process."""
    return torch.distributed.new_group(backend="gloo", timeout=_PATIENCE) if processes > 1 else None


def highest(value: int, group: Any) -> int:
    """The highest value of the processes of a `host_group`, all of which must call it together."""
    if group is None:
        return value
    values = torch.tensor(value)
    torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX, group=group)
    return int(values)


@contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """Inside, if `enabled`, torch computes the same to the bit whatever the number of cores: on one thread, and by
    deterministic algorithms, without which it raises RuntimeError.
    """
    threads, before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    if enabled:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(before)


def _forget_earlier(cpu: bool) -> None:
    """accelerate keeps a process's first device and precision for good, but a library's user may want two of them."""
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    state = PartialState._shared_state
    elsewhere = bool(state) and (state["device"].type == "cpu") != cpu
    alone = bool(state) and state["distributed_type"] == DistributedType.NO
    AcceleratorState._reset_state(reset_partial_state=elsewhere and alone)


def leave() -> None:
    """Leaves the process group, if there is one; NCCL complains of processes that just end."""
    from accelerate import PartialState

    PartialState().destroy_process_group()


def is_main_process() -> bool:
    """Rank 0, or the only process, by the launcher's variables: a process group need not exist."""
    launchers.join_slurm(os.environ)
    return launchers.rank(os.environ) == 0


def from_first(compute: Callable[[], _Value]) -> _Value:
    """What `compute` gives on the first process, on all of them; on one of no process group, what it gives there."""
    if not _is_grouped():
        return compute()
    value = [compute() if is_main_process() else None]
    with signals.ending():
        torch.distributed.broadcast_object_list(value)
    return cast(_Value, value[0])


def require_alike(started_with: Mapping[str, Any]) -> None:
    """For after the process group is there: all processes must call it together, each with what decides its results.

    Each has a command line and perhaps a disk of its own, where a copy may be an older one.

    Raises:
        DiffIMLError: on all of them, if they differ in something, which is named.
    """
    if not _is_grouped():
        return
    every: list[Any] = [None] * torch.distributed.get_world_size()
    with signals.ending():
        torch.distributed.all_gather_object(every, dict(started_with))
    names = dict.fromkeys(name for one in every for name in one)
    differing = [name for name in names if any(one.get(name) != every[0].get(name) for one in every)]
    if differing:
        leave()
        raise DiffIMLError(
            f"the processes of this run differ in {', '.join(differing)}; start all of them with the same flags, "
            "weights and data, on every node"
        )


def _is_grouped() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def precision_of(accelerator: "Accelerator") -> str:
    """What `start` made of the precision asked for: fp32, bf16 or fp16."""
    return "fp32" if accelerator.mixed_precision == "no" else accelerator.mixed_precision


@contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """The forward pass in `precision` of `settings.PRECISIONS`; fp32 is that, where cuDNN by itself, and cuBLAS in some
    containers, would round to TF32.
    """
    dtype = half_precision(device, precision)
    with _rounding(convolutions=dtype is not None):
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            yield


@contextmanager
def _rounding(convolutions: bool) -> Iterator[None]:
    """Inside, no matrix product of fp32 is rounded to TF32, and only if asked for a convolution is."""
    backends: Any = torch.backends
    cudnn, mkldnn = backends.cudnn, backends.mkldnn
    of_all, of_cudnn, others = [], [], []
    if _HAS_NAMES_OF_2_9:
        of_all, of_cudnn = [backends, cudnn, mkldnn], [cudnn.conv, cudnn.rnn]
        others = [backends.cuda.matmul, mkldnn.matmul, mkldnn.conv, mkldnn.rnn]
    precisions = [(owner, owner.fp32_precision) for owner in (*of_all, *of_cudnn, *others)]
    try:
        by_older_names: tuple[str, bool] | None = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    except RuntimeError:  # the program said it by the newer names, and torch does not tell by the older
        by_older_names = None
    torch.set_float32_matmul_precision("highest")
    cudnn.allow_tf32 = convolutions
    for owner in of_cudnn:
        if (owner.fp32_precision == "tf32") != convolutions:
            owner.fp32_precision = "tf32" if convolutions else "ieee"
    for owner in others:
        if owner.fp32_precision in ("tf32", "bf16"):  # for all that is of its kind
            owner.fp32_precision = "ieee"
    try:
        yield
    finally:
        if by_older_names is not None:
            torch.set_float32_matmul_precision(by_older_names[0])
            cudnn.allow_tf32 = by_older_names[1]
        for owner, precision in precisions:
            if owner.fp32_precision != precision:
                owner.fp32_precision = precision


@contextmanager
def testing_mode(model: nn.Module, no_model_eval: bool = False) -> Iterator[None]:
    """Without gradients, and in test mode unless `no_model_eval`; afterwards as before."""
    was_training = model.training
    model.train(no_model_eval)
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def half_precision(device: torch.device, precision: str) -> torch.dtype | None:
    """What `precision` of `settings.PRECISIONS` means on a device; None for fp32."""
    name = actual_precision(precision, device.type == "cpu")
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(name)


def _use_cpu(device: str) -> bool:
    if device == "cuda" and not torch.cuda.is_available():
        raise DiffIMLError(
            "--device cuda, but torch finds no usable GPU here; pass --device cpu, or install the "
            "driver and a CUDA build of torch"
        )
    return device == "cpu" or not torch.cuda.is_available()


def actual_precision(precision: str, cpu: bool) -> str:
    """What `precision` of `settings.PRECISIONS` comes to, "auto" decided. Raises DiffIMLError for fp16 on the CPU."""
    if precision == "auto":
        return "fp32" if cpu else "fp16"  # as fast as bf16, which rounds eight times as coarsely
    if precision == "fp16" and cpu:
        raise DiffIMLError("--precision fp16 needs a GPU; pass fp32 or bf16 on the CPU")
    return precision


def host_memory() -> int:
    """Bytes of memory that this process may have: the computer's, or what its container or job is held to."""
    limits = [psutil.virtual_memory().total]
    with suppress(OSError):  # no Linux
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, kinds, group = line.split(":", 2)
            for folder in PurePosixPath(group, "_").parents if kinds in _CGROUPS else ():
                with suppress(OSError, ValueError):  # the host's, which a container does not see, or "max"
                    limits.append(int(Path(_CGROUPS[kinds].format(folder)).read_text()))
    return min(limits)


def pinned(batch: Sample, device: torch.device) -> Sample:
    """The tensors of a batch in memory that a GPU reads by itself; for the CPU as they are."""
    if device.type == "cpu":
        return batch
    return {k: v.pin_memory() if isinstance(v, torch.Tensor) else v for k, v in batch.items()}


def to_device(batch: Sample, device: torch.device) -> Sample:
    """Moves the tensors of a batch."""
    return {k: v.to(device, non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
