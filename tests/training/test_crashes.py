"""Processes that are killed, and processes beside each other."""

import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from diffiml_plugin.ledger import LEDGER

pytestmark = pytest.mark.slow
KILLS = 20


@pytest.fixture
def start(monkeypatch, tmp_path):
    """Starts the command in a process of its own; what it says is in tmp_path / "said"."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)  # of the server
    import forked

    started = []

    def run(words, rank=None, processes=1, port=0):
        said = tmp_path / "said" / f"{len(started)}"
        said.parent.mkdir(exist_ok=True)
        group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        group |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {name: str(value) for name, value in group.items()} if processes > 1 else {}
        started.append(forked.start([str(word) for word in words], said, **environment))
        return started[-1]

    def together(words, processes):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        return [run(words, rank, processes, port) for rank in range(processes)]

    yield together
    for process in started:
        process.kill()


def finished(processes, within=600):
    """The exit statuses."""
    end = time.monotonic() + within
    for process in processes:
        process.join(max(0, end - time.monotonic()))
    return [process.exitcode for process in processes]


def words(verb, **flags):
    return [verb, *(f"--{name}={value}" for name, value in flags.items())]


@pytest.fixture
def flags(tiny_dataset, tmp_path):
    """Of a training of 25 updates an epoch, whose dropout differs in each, and which stores its state after each."""
    pairs = json.loads((tiny_dataset / "list.json").read_text())
    (tiny_dataset / "many.json").write_text(json.dumps((pairs * 13)[:50]))
    return {
        "model": "TinyIML",
        "dropout": 0.3,
        "data_path": tiny_dataset / "many.json",
        "image_size": 64,
        "device": "cpu",
        "batch_size": 1,
        "total_batch_size": 2,
        "lr": 0.01,
        "num_workers": 0,
        "save_minutes": 1e-9,
        "resume": "auto",
        "output_dir": tmp_path / "run",
    }


def changed(state, before, process):
    """Waits until the run's state is another one."""
    while not state.exists() or state.stat().st_mtime_ns == before:
        assert process.exitcode is None, "it has ended"
        time.sleep(0.005)


def killed_twenty_times(start, command, folder):
    """Runs the command, killed at random moments after it stored one to four states."""
    state, moments = folder / "training_state.pt", random.Random(0)
    for _ in range(KILLS):
        before = state.stat().st_mtime_ns if state.exists() else 0
        (process,) = start(command, 1)
        for _ in range(moments.randint(1, 4)):
            changed(state, before, process)
            before = state.stat().st_mtime_ns
        time.sleep(moments.random() / 50)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it must not be done before it was killed"
    assert finished(start(command, 1)) == [0]
    assert [file.name for file in folder.glob(".*")] == [LEDGER], "nothing half written, and no claim, is left"


def test_twenty_kills_leave_a_training_as_it_was(start, flags, tiny_dataset, tmp_path, weights, equal):
    flags |= {"epochs": 16, "test_period": 2, "test_data_path": tiny_dataset / "list.json", "ema_decay": 0.9}
    straight = flags | {"output_dir": tmp_path / "straight", "save_minutes": 0}
    assert finished(start(words("train", **straight), 1)) == [0]
    killed_twenty_times(start, words("train", **flags), tmp_path / "run")
    for name in ("last", "best"):
        assert equal(*(weights(tmp_path / folder, name) for folder in ("straight", "run")))
    logs = [(tmp_path / folder / "log.jsonl").read_text().splitlines() for folder in ("straight", "run")]
    for one, other in zip(*logs, strict=True):
        assert json.loads(one)["loss"] == json.loads(other)["loss"]


def test_twenty_kills_leave_a_distillation_as_it_was(start, tmp_path, weights, equal):
    flags = {"image_size": 32, "batch_size": 8, "width": 4, "steps": 400, "checks": 200, "num_workers": 0}
    flags |= {"device": "cpu", "resume": "auto", "output_dir": tmp_path / "run"}
    assert finished(start(words("distill", **flags | {"output_dir": tmp_path / "straight"}), 1)) == [0]
    killed_twenty_times(start, words("distill", **flags), tmp_path / "run")
    assert equal(*(weights(tmp_path / folder, "lightvae") for folder in ("straight", "run")))


def test_a_killed_process_ends_the_others_which_say_so(start, flags, tmp_path):
    processes, state = start(words("train", **flags | {"epochs": 10**5}), 2), tmp_path / "run" / "training_state.pt"
    changed(state, 0, processes[0])
    changed(state, state.stat().st_mtime_ns, processes[0])
    processes[1].kill()
    assert finished(processes, within=30) == [2, -signal.SIGKILL]
    said = (tmp_path / "said" / "0").read_text()
    assert "another process of this run has ended" in said and "--resume auto" in said and "Traceback" not in said


def test_sigterm_stops_all_processes_after_one_update(start, flags, tmp_path, weights, equal):
    """One goes on alone, to the weights of one that never was two."""
    flags |= {"epochs": 8}
    processes, state = start(words("train", **flags), 2), tmp_path / "run" / "training_state.pt"
    changed(state, 0, processes[0])
    changed(state, state.stat().st_mtime_ns, processes[0])
    os.kill(processes[1].pid, signal.SIGTERM)  # the other hears of it
    assert finished(processes, within=60) == [143, 143]
    assert "ended by SIGTERM; go on with --resume auto" in (tmp_path / "said" / "0").read_text()
    assert finished(start(words("train", **flags), 1)) == [0]
    straight = flags | {"output_dir": tmp_path / "straight", "save_minutes": 0}
    assert finished(start(words("train", **straight), 1)) == [0]
    assert equal(*(weights(tmp_path / folder) for folder in ("straight", "run")), tolerance=1e-5)


@pytest.fixture
def scoring(stored, tmp_path):
    """Flags that score a small DiffIML on seven images of two shapes, three of them authentic."""
    small = {"encoder": "segformer_b0", "codec_weights": "none", "ensemble_size": 2, "num_inference_steps": 2}
    random, pairs = np.random.default_rng(0), []
    for number in range(7):
        image = random.integers(0, 256, (64, 96, 3) if number % 3 else (80, 48, 3), dtype=np.uint8)
        mask = np.zeros(image.shape[:2], np.uint8)
        mask[4 * number : 40, 8:32] = 255
        Image.fromarray(image).save(tmp_path / f"{number}.png")
        Image.fromarray(mask).save(tmp_path / f"mask{number}.png")
        pairs.append([f"{number}.png", f"mask{number}.png" if number < 4 else "Negative"])
    (tmp_path / "list.json").write_text(json.dumps(pairs))
    return {"checkpoint_path": stored("DiffIML", **small), "test_data_path": tmp_path / "list.json", "device": "cpu"}


def figures_equal(start, tmp_path, scoring, verb, grid):
    """Scores with each (processes, batch, workers) of the grid, and compares the records of each image."""
    found = []
    for processes, batch, workers in grid:
        folder = tmp_path / f"{processes}{batch}{workers}"
        flags = scoring | {"test_batch_size": batch, "num_workers": workers, "output_dir": folder}
        assert set(finished(start(words(verb, **flags), processes))) == {0}
        (file,) = folder.glob("*per_image.jsonl")
        found.append([json.loads(line) for line in file.open()])
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            assert one.keys() == same.keys() and one["f1"] == same["f1"]
            for key, value in one.items():
                assert same[key] == (pytest.approx(value, abs=1e-6) if isinstance(value, float | list) else value), key


def test_processes_batches_and_workers_change_no_figure(start, scoring, tmp_path):
    figures_equal(start, tmp_path, scoring, "test", itertools.product((1, 2, 3), (1, 3), (0, 2)))


def test_nor_any_under_perturbations_in_frames_of_their_own(start, scoring, tmp_path):
    scoring |= {"if_padding": True, "padding_mode": "reflect"}
    figures_equal(start, tmp_path, scoring, "robust", [(1, 1, 0), (1, 3, 2), (2, 3, 0), (3, 1, 2)])


def test_a_killed_process_of_gpus_ends_the_job_with_its_reason(scoring, child_environment, tmp_path):
    """`--gpus 2` on a machine that says it has two, which then compute on the CPU."""
    code = "import torch; torch.cuda.device_count = lambda: 2; from diffiml_plugin.cli.main import main; exit(main())"
    flags = scoring | {"num_workers": 0, "device": "auto", "gpus": 2, "output_dir": tmp_path / "out"}
    job = subprocess.Popen(
        [sys.executable, "-c", code, *words("robust", **flags)],
        env=child_environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(tmp_path.glob("out/*unfinished/*.1.jsonl")):
        assert job.poll() is None, "it has ended"
        time.sleep(0.05)
    (second,) = (child for child in psutil.Process(job.pid).children() if child.environ()["RANK"] == "1")
    second.kill()
    _, said = job.communicate(timeout=30)
    assert job.returncode > 0 and "process 1 of 2 was killed by SIGKILL, and the others were ended" in said
    assert "Traceback" not in said
