"""Ten thousand photos, one in a hundred broken, through `benco predict`, which is killed three times."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

PHOTOS, BROKEN = 10_000, 100  # every BROKEN-th is
KILLED_AT = (500, 2000, 4000)  # lines of results.jsonl
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(PHOTOS):
        file = folder / f"{number // 1000}" / f"{number:05}.jpg"
        file.parent.mkdir(exist_ok=True)
        pixels = random.integers(0, 256, (int(random.integers(16, 64)), 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
        if number % BROKEN == 0:
            file.write_bytes(file.read_bytes()[: number % 300])
    return folder


def lines(out: Path) -> int:
    return (out / "results.jsonl").read_bytes().count(b"\n") if (out / "results.jsonl").exists() else 0


def test_none_is_lost_in_flat_memory_and_three_kills(photos, tiny_model, stored, child_environment, tmp_path):
    out = tmp_path / "out"
    words = [sys.executable, str(tiny_model), "predict", str(photos), "--checkpoint_path", str(stored())]
    words += ["--output_dir", str(out), "--device", "cpu", "--skip_existing"]
    for kill_at in KILLED_AT:
        run = subprocess.Popen(words, env=child_environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while lines(out) < kill_at:
            assert run.poll() is None
            time.sleep(0.05)
        run.kill()
        run.wait()
    with open(tmp_path / "said", "w") as said:
        started = time.monotonic()
        run = subprocess.Popen(words, env=child_environment, stdout=said, stderr=said)
        measured = []  # lines, bytes, open files
        process = psutil.Process(run.pid)
        while run.poll() is None:
            done = lines(out)
            if done > KILLED_AT[-1] + 200 and done < PHOTOS:
                measured.append((done, process.memory_info().rss, process.num_fds()))
            time.sleep(0.2)
        seconds = time.monotonic() - started
    assert run.returncode == 1  # some failed

    entries = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert len(entries) == len({entry["image"] for entry in entries}) == PHOTOS  # none lost, none twice
    failed = {Path(entry["image"]).stem for entry in entries if "error" in entry}
    assert failed == {f"{number:05}" for number in range(0, PHOTOS, BROKEN)}
    masks = {entry["mask"] for entry in entries if "mask" in entry}
    assert len(masks) == PHOTOS - PHOTOS // BROKEN
    for mask in sorted(masks)[::97]:
        Image.open(out / mask).verify()
    assert not list(out.rglob(".*.tmp"))

    _, memory, handles = np.array(measured).T
    half = len(measured) // 2
    assert memory[half:].max() - memory[:half].max() < 32e6, memory
    assert handles.max() - handles.min() < 16, handles
    page = (out / "report.html").read_text()
    assert page.count("_thumb.jpg") == PHOTOS - PHOTOS // BROKEN and len(page) < 20e6
    resumed = int(re.search(r"(\d+) photos were done already", (tmp_path / "said").read_text())[1])
    print(
        f"{(PHOTOS - resumed) / seconds:.0f} photos/s, {memory.min() / 1e6:.0f} to {memory.max() / 1e6:.0f} MB, "
        f"{handles.min()} to {handles.max()} open files, report.html {len(page) / 1e6:.1f} MB"
    )
