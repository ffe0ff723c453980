import json
import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
import torch
from accelerate import PartialState

from diffiml_plugin import launch
from diffiml_plugin.errors import DiffIMLError

GROUP = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


def test_more_gpus_than_the_machine_has(alone):
    present = torch.cuda.device_count()
    with pytest.raises(DiffIMLError, match=rf"--gpus {present + 1}, but torch finds {present} on this machine"):
        launch.spawn(present + 1, "auto", [])
    with pytest.raises(DiffIMLError, match="--gpus 2 with --device cpu"):
        launch.spawn(2, "cpu", [])


def test_nothing_to_start_for_one_process_or_inside_a_group(alone):
    assert launch.spawn(None, "cpu", []) is None
    for name, value in {**GROUP, "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "8"}.items():
        alone.setenv(name, value)
    assert launch.spawn(8, "cuda", []) is None
    with pytest.raises(DiffIMLError, match="8 processes were started"):
        launch.spawn(2, "cuda", [])
    for name in ("LOCAL_RANK", "WORLD_SIZE"):
        alone.delenv(name)
    alone.setenv("RANK", "0")  # alone, which is no group
    with pytest.raises(DiffIMLError, match="--gpus 99, but torch finds"):
        launch.spawn(99, "cuda", [])


def test_a_process_of_no_group_works_by_itself(alone):
    """As `calibrate`, which torchrun starts twice, and which needs no other process."""
    alone.setenv("RANK", "1")
    assert launch.from_first(lambda: 3) == 3


@pytest.mark.parametrize(("arguments", "status"), [(["--help"], 0), (["no-such-verb"], 2)])
def test_a_process_for_each_gpu_runs_the_command(alone, child_environment, arguments, status):
    code = (
        "import sys, torch; torch.cuda.device_count = lambda: 2; from diffiml_plugin.launch import spawn; "
        f"sys.exit(spawn(2, 'auto', {arguments!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=child_environment, capture_output=True, text=True)
    assert done.returncode == status
    said = "unknown verb 'no-such-verb'" if status else "usage: diffiml VERB"
    times = (done.stdout + done.stderr).count(said)
    assert times == 2 or (status and times == 1)  # the first to fail may end the other before it speaks
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_waits_for_others_ends_by_a_signal(child_environment, tmp_path, rank, number, status):
    """Of two, the other of which never comes."""
    (tmp_path / "list.json").write_text(json.dumps([["a.png", "Negative"]]))
    words = ["test", "--checkpoint_path", "small", "--test_data_path", str(tmp_path / "list.json"), "--device", "cpu"]
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        if rank == 1:
            other.listen()
        else:
            other.close()
        group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
        process = subprocess.Popen(
            [sys.executable, "-m", "diffiml_plugin", *words, "--output_dir", str(tmp_path / "out")],
            env={**child_environment, "MASTER_ADDR": "127.0.0.1", **{key: str(value) for key, value in group.items()}},
            stderr=subprocess.PIPE,
            text=True,
        )
        held = [other.accept()] if rank == 1 else []  # without an answer
        while rank == 0 and process.poll() is None and not _listens(port):
            time.sleep(0.1)
        process.send_signal(number)
        try:
            said = process.communicate(timeout=120)[1]  # a second, unless it waits for ever
        finally:
            process.kill()
            held.clear()
    assert process.returncode == status and said.splitlines()[-1] in ("ended by SIGTERM", "interrupted")


def test_waiting_for_others_is_told(alone, monkeypatch, caplog):
    monkeypatch.setattr(launch, "_SOON", 0.01)
    with launch._joining_others():
        time.sleep(0.1)
    assert not caplog.messages  # alone, it waits for nobody
    for name, value in GROUP.items():
        monkeypatch.setenv(name, value)
    with launch._joining_others():
        for _ in range(1000):
            if not caplog.messages:
                time.sleep(0.01)
    assert "rank 1 of 2 processes waits for others at 127.0.0.1:1" in caplog.text


def _listens(port: int) -> bool:
    return any(one.laddr.port == port and one.status == psutil.CONN_LISTEN for one in psutil.net_connections("tcp"))


def test_device_and_precision_that_are_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DiffIMLError, match="torch finds no usable GPU"):
        launch.start_inference("cuda")
    with pytest.raises(DiffIMLError, match="fp16 needs a GPU"):
        with launch.autocast(torch.device("cpu"), "fp16"):
            pass


def test_bf16_on_the_cpu():
    layer = torch.nn.Linear(2, 2)
    with launch.autocast(torch.device("cpu"), "bf16"):
        assert layer(torch.ones(1, 2)).dtype == torch.bfloat16
    with launch.autocast(torch.device("cpu"), "auto"):
        assert layer(torch.ones(1, 2)).dtype == torch.float32


def test_auto_is_the_finer_half_precision_of_a_gpu():
    assert [launch.actual_precision("auto", cpu) for cpu in (True, False)] == ["fp32", "fp16"]


def test_fp32_is_not_rounded_to_tf32():
    inside = []
    torch.set_float32_matmul_precision("high")  # as TORCH_ALLOW_TF32_CUBLAS_OVERRIDE does
    try:
        for precision in ("fp32", "bf16"):
            with launch.autocast(torch.device("cpu"), precision):
                inside.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
        assert inside == [(False, False), (True, False)] and torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.skipif(not launch._HAS_NAMES_OF_2_9, reason="of a newer torch")
@pytest.mark.parametrize(
    "said",
    [
        "",
        "torch.set_float32_matmul_precision('high')",
        "backends.fp32_precision = 'tf32'",
        "backends.fp32_precision = 'ieee'",
        "backends.cuda.matmul.fp32_precision = 'tf32'",
        "backends.cudnn.fp32_precision = 'tf32'",
        "backends.mkldnn.matmul.fp32_precision = 'bf16'",
        "backends.mkldnn.conv.fp32_precision = 'bf16'",
        "backends.fp32_precision = 'tf32'; torch.set_float32_matmul_precision('high')",
    ],
)
def test_fp32_is_not_rounded_by_torchs_newer_names_either(child_environment, said):
    """In a process of its own: torch does not forget that it was told by both names."""
    code = f"""import torch; from diffiml_plugin.launch import autocast
backends = torch.backends
{said}
def now(): return [one.fp32_precision for one in (backends, backends.cudnn, backends.mkldnn, *parts)]
parts = backends.cuda.matmul, backends.mkldnn.matmul, backends.mkldnn.conv, backends.cudnn.conv
before = now()
for precision in ("fp32", "bf16"):
    with autocast(torch.device("cpu"), precision):
        *others, convolution = now()[3:]
        assert set(others) <= {{"ieee", "none"}} and (convolution == "tf32") == (precision == "bf16"), now()
        assert torch.get_float32_matmul_precision() == "highest"
    assert now() == before, (before, now())"""
    done = subprocess.run([sys.executable, "-c", code], env=child_environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]


def test_what_rounds_fp32_by_the_environment_is_refused(monkeypatch):
    monkeypatch.setenv("ONEDNN_DEFAULT_FPMATH_MODE", "strict")
    launch.require_torchs_defaults()
    monkeypatch.setenv("DNNL_DEFAULT_FPMATH_MODE", "BF16")
    with pytest.raises(DiffIMLError, match="DNNL_DEFAULT_FPMATH_MODE=BF16, by which oneDNN rounds"):
        launch.require_torchs_defaults()


def test_a_process_may_train_in_one_precision_after_another():
    assert [launch.precision_of(launch.start("cpu", precision)) for precision in ("fp32", "bf16")] == ["fp32", "bf16"]


def test_variables_of_accelerate_and_mpi_decide_nothing(monkeypatch):
    variables = {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "16", "ACCELERATE_USE_DEEPSPEED": "true"}
    variables |= {"ACCELERATE_DEBUG_MODE": "1x", "ACCELERATE_TORCH_DEVICE": "meta", "ACCELERATE_USE_FSDP": "true"}
    variables |= {"ACCELERATE_USE_MEGATRON_LM": "true", "ACCELERATE_MIXED_PRECISION": "bf16"}
    variables |= {"PMI_SIZE": "2", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    launch._forget_earlier(cpu=True)
    PartialState._reset_state()
    accelerator = launch.start("cpu", "fp32")
    assert accelerator.gradient_accumulation_steps == 1 and accelerator.device.type == "cpu"
    assert launch.precision_of(accelerator) == "fp32" and accelerator.distributed_type == "NO"
    PartialState._reset_state()
    assert launch.start_inference("cpu").device.type == "cpu"
    assert variables.items() <= os.environ.items()


def test_what_a_gpu_reads_is_pinned_and_what_the_cpu_reads_is_not(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 1)  # there is no GPU to pin it for
    batch = {"image": torch.zeros(1), "name": ["a"]}
    assert launch.pinned(batch, torch.device("cpu")) is batch
    assert launch.pinned(batch, torch.device("cuda")) == {"image": torch.ones(1), "name": ["a"]}


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/job/step", {"job/step/memory.max": "max", "job/memory.max": "3000", "memory.max": "4000"}, 3000),
        ("0::/", {"memory.max": "2000"}, 2000),  # as a container sees it
        ("4:memory:/docker/x\n0::/", {"memory/memory.limit_in_bytes": "5000"}, 5000),  # the host's name for it
        ("0::/", {}, None),
        (None, {}, None),  # no Linux
    ],
)
def test_what_a_container_or_a_job_is_held_to_is_all_there_is(tmp_path, monkeypatch, groups, limits, expected):
    monkeypatch.setattr(launch, "Path", lambda path: tmp_path / path.lstrip("/"))
    for name, limit in limits.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{limit}\n")
    if groups:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(f"{groups}\n")
    assert launch.host_memory() == (expected or psutil.virtual_memory().total)
