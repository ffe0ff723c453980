"""Twenty kills of each verb that fills a folder, each at a random moment: nothing is lost, and nothing is done twice.

A process kills itself before one of its own file operations, which a fixed seed chooses, so that no clock decides.
"""

import json
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffiml_plugin.ledger import LEDGER

pytestmark = pytest.mark.slow
KILLS = 20


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs the command in a process of its own, which may kill itself; returns its exit status."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)  # of the server
    import forked

    def once(words, killed_at=0):
        process = forked.start([str(word) for word in words], tmp_path / "said", killed_at, among=tmp_path)
        process.join(300)
        process.kill()
        return process.exitcode

    return once


@pytest.fixture
def pairs(tmp_path) -> Callable[..., Path]:
    """Makes a folder of images, three in four tampered, whose masks are white at `level`, and a list.json of them."""

    def make(count: int, level: int) -> Path:
        random, folder, listed = np.random.default_rng(0), tmp_path / "set", []
        for part in ("Tp", "Gt"):
            (folder / part).mkdir(parents=True)
        for number in range(count):
            name, mask = f"{number:03}.png", np.zeros((32, 48), np.uint8)
            mask[4 : 8 + number % 20, 8:24] = level
            Image.fromarray(random.integers(0, 256, (32, 48, 3), dtype=np.uint8)).save(folder / "Tp" / name)
            Image.fromarray(mask).save(folder / "Gt" / name)
            listed.append([f"Tp/{name}", f"Gt/{name}" if number % 4 else "Negative"])
        (folder / "list.json").write_text(json.dumps(listed))
        return folder

    return make


def killed(run: Callable[..., int], command: list[object], latest: int, look: Callable[[], None]) -> None:
    """Runs the command, killed KILLS times after at most `latest` file operations; then to its end.

    Args:
        look: called after each kill.
    """
    moments = random.Random(0)
    for number in range(KILLS):
        assert run(command, moments.randint(1, latest)) == -signal.SIGKILL, f"it was done before kill {number}"
        look()
    assert run(command) == 0


def contents(folder: Path) -> dict[str, bytes]:
    """What is in the folder, without what tells of times and of the command."""
    files = {str(file.relative_to(folder)): file for file in folder.rglob("*") if file.is_file()}
    return {
        name: file.read_bytes() for name, file in files.items() if file.name not in ("run.json", "report.html", LEDGER)
    }


def lines(*files: Path) -> list[dict]:
    """The whole lines of files of JSON."""
    texts = (line for file in files for line in file.read_text().splitlines(keepends=True))
    return [json.loads(line) for line in texts if line.strip() and line.endswith("\n")]


@pytest.mark.parametrize(("verb", "images"), [("test", 200), ("robust", 20)])
def test_a_score_is_that_of_a_run_which_no_one_killed(run, pairs, stored, tmp_path, verb, images):
    command = [verb, "--checkpoint_path", stored(), "--test_data_path", pairs(images, 255) / "list.json"]
    command += ["--device", "cpu", "--num_workers", "0", "--test_batch_size", "1", "--output_dir"]
    straight, out = tmp_path / "straight", tmp_path / "out"
    assert run([*command, straight]) == 0

    def each_once():
        for key in {file.name.split(".")[0] for file in out.glob("*_unfinished/*.jsonl")}:
            done = [record["index"] for line in lines(*out.glob(f"*_unfinished/{key}.*")) for record in line]
            assert len(done) == len(set(done))

    killed(run, [*command, out], 40, each_once)
    name = "results.json" if verb == "test" else "robust.json"
    one, other = (json.loads((folder / name).read_text()) for folder in (straight, out))
    assert {**one, "command": "", "settings": {}} == {**other, "command": "", "settings": {}}
    kept = [{key: value for key, value in contents(folder).items() if key != name} for folder in (straight, out)]
    assert kept[0].keys() == kept[1].keys()
    records = [key for key in kept[0] if key.endswith("per_image.jsonl")]
    assert [kept[0][key] for key in records] == [kept[1][key] for key in records] and len(records) == 1


def test_a_prediction_is_that_of_a_run_which_no_one_killed(run, pairs, stored, tmp_path):
    command = ["predict", pairs(60, 255) / "Tp", "--checkpoint_path", stored(), "--device", "cpu"]
    command += ["--skip_existing", "--output_dir"]
    straight, out = tmp_path / "straight", tmp_path / "out"
    assert run([*command, straight]) == 0
    done = {}

    def each_once():
        for entry in lines(out / "results.jsonl") if (out / "results.jsonl").exists() else ():
            when = (out / entry["mask"]).stat().st_mtime_ns
            assert done.setdefault(entry["image"], when) == when

    killed(run, [*command, out], 100, each_once)
    each_once()
    assert len(done) == len(lines(out / "results.jsonl")) == 60
    one, other = contents(straight), contents(out)
    assert one.keys() == other.keys()
    assert all(content == other[name] for name, content in one.items() if name != "results.jsonl")


def test_a_prepared_dataset_is_that_of_a_run_which_no_one_killed(run, pairs, tmp_path):
    command = ["datasets", "prepare", "mine", "--root", pairs(100, 1), "--output"]
    (tmp_path / "made").mkdir()
    output = tmp_path / "made" / "list.json"
    assert run([*command, output]) == 0
    expected = contents(tmp_path / "made")
    (tmp_path / "made").rename(tmp_path / "straight")
    (tmp_path / "made").mkdir()
    done = {}

    def each_once():
        unfinished = tmp_path / "made" / "list_masks" / "unfinished.jsonl"
        for pair in lines(unfinished) if unfinished.exists() else ():
            if pair["corrected"]:
                when = Path(pair["mask"]).stat().st_mtime_ns
                assert done.setdefault(pair["mask"], when) == when

    killed(run, [*command, output], 180, each_once)
    assert len(done) > KILLS and all(Path(mask).stat().st_mtime_ns == when for mask, when in done.items())
    assert contents(tmp_path / "made") == expected
