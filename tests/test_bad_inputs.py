"""Each row of the table of bad inputs, run in this process."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffiml_plugin.cli.main import main
from diffiml_plugin.cli.verbs import VERBS
from diffiml_plugin.ledger import LEDGER
from diffiml_plugin.models.checkpoints import save_checkpoint
from diffiml_plugin.models.registry import find_model

_spec = importlib.util.spec_from_file_location("bad_inputs", Path(__file__).with_name("bad_inputs.py"))
assert _spec and _spec.loader
table = sys.modules[_spec.name] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(table)
_WITHOUT = ("init", "env")  # the framework's


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_model) -> Path:
    folder = tmp_path_factory.mktemp("world")
    table.make_world(folder)
    torch.manual_seed(1)
    card = find_model("TinyIML")
    flags = card.resolve({})
    save_checkpoint(folder / "model.safetensors", card.build(flags), card.name, flags, input={"image_size": 64})
    return folder


@pytest.fixture
def here(world, tmp_path, monkeypatch) -> Path:
    """A copy of the world, which is the current directory."""
    _copy(world, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["benco"])
    for variable in ("DATA_ROOT", "RUNS", "STUDY_DATA", "PHOTOS"):  # which packaged configurations name
        monkeypatch.setenv(variable, "elsewhere")
    return tmp_path


@pytest.mark.parametrize("case", table.CASES, ids=[f"{number:03}" for number in range(len(table.CASES))])
def test_a_bad_input_is_told_in_a_sentence(case, here, capsys):
    before = _contents(here)
    status = main(shlex.split(case.words))
    out, err = capsys.readouterr()
    assert status == case.status, err
    said = " ".join(f"{out} {err}".split())
    assert re.search(".*".join(re.escape(part.strip()) for part in case.said.split("...")), said), said
    assert "Traceback" not in said
    assert not (here / "executed").exists()
    assert before.items() <= _contents(here).items()  # nothing that was there is another


@pytest.mark.parametrize(
    "words",
    [
        f"{table.TRAIN} set --output_dir out",
        f"{table.SET} --output_dir out",
        f"{table.SET.replace('test', 'robust', 1)} --output_dir out",
        f"{table.SWEEP} --vary ensemble_size=1 --output_dir out",
        f"{table.CALIBRATE} --output new.safetensors --output_dir out",
        f"{table.PREDICT} photos --output_dir out",
        "tamper photos --output_dir out",
        "datasets prepare mine --root set --output out.json",
        "distill --device cpu --output_dir out",
        "codec-report --masks set/Gt --device cpu --output out",
        "demo --device cpu --output_dir out",
        "report scored --output_dir out",
        "study scored --output_dir out",
    ],
)
def test_two_runs_at_once_do_not_write_to_one_folder(words, here, capsys, child_environment):
    folder = "out_masks" if "prepare" in words else "out"
    code = f"import diffiml_plugin.folders as folders\nwith folders.claimed('{folder}'): print(flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": child_environment}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as other:
        other.stdout.readline()
        before = _contents(here)
        assert main(shlex.split(words)) == 2
        assert f"error: {folder} is in use by process {other.pid} on" in capsys.readouterr().err.replace(f"{here}/", "")
        assert _contents(here) == before
        other.communicate(b"\n")


# By verb, a command that writes into `out`, and a flag with which it would write something else.
WRITERS = {
    "train": (f"{table.TRAIN} set --batch_size 2 --total_batch_size 2 --resume auto --output_dir out", "--seed 1"),
    "test": (f"{table.SET} --output_dir out", "--tta"),
    "test on another list": (f"{table.SET} --output_dir out", "--test_data_path set"),
    "robust": (f"{table.SET.replace('test', 'robust', 1)} --output_dir out", "--seed 1"),
    "sweep": (f"{table.SWEEP.replace('model', 'diffiml')} --vary ensemble_size=1 --output_dir out", "--noise_seeds 2"),
    "predict": (f"{table.PREDICT} photos --output_dir out", "--threshold 0.3"),
    "calibrate": (
        f"{table.CALIBRATE.replace('set/', 'many/')} --output out/new.safetensors --output_dir out",
        "--max_misses 0.3",
    ),
    "tamper": ("tamper photos --images 2 --contact_sheet --output_dir out", "--seed 1"),
    "datasets prepare": ("datasets prepare mine --root dots --output out/mine.json", "--root set"),
    "datasets check": ("datasets check set/list.json --json out/check.json", "--trained_on many/list.json"),
    "distill": (
        "distill --device cpu --num_workers 0 --masks set/Gt --image_size 64 --batch_size 8 --steps 2 --checks 1 "
        "--resume auto --output_dir out",
        "--seed 1",
    ),
    "report": ("report reports/a --output_dir out", "reports/b"),
    "study": ("study studied --output_dir out", "--compare a=b"),
    "complexity": ("complexity --model TinyIML --image_size 64 --json out/cost.json", "--image_size 96"),
    "release": ("release model.safetensors out/half.safetensors", "--data photographs"),
}
_ONCE = ("datasets check", "complexity", "tamper")  # what these make is never made again


@pytest.mark.parametrize(
    "verb", [pytest.param(verb, marks=[pytest.mark.slow] * (verb in ("robust", "sweep"))) for verb in WRITERS]
)
def test_nothing_is_overwritten_that_the_same_command_did_not_write(verb, here, stored, capsys):
    stored("DiffIML", encoder="segformer_b0", num_inference_steps=1).rename("diffiml.safetensors")
    _more_inputs()
    words, other = WRITERS[verb]
    run, run_otherwise = shlex.split(words), shlex.split(f"{words} {other}")
    # 1. What was made with other settings stays; the same command goes on.
    assert main(run) in (0, 1)
    found = _contents(Path("out"))
    ledgers = {name for name in found if Path(name).name == LEDGER}
    written = {name: content for name, content in found.items() if "tfevents" not in name and name not in ledgers}
    assert main(run_otherwise) == 2
    assert written.items() <= _contents(Path("out")).items()
    assert main(run) == (2 if verb in _ONCE else 0)
    # 2. What was changed since stays.
    for name in written:
        before = Path(name).read_bytes()
        for changed in (b"mine" + before, before + b"mine\n"):
            Path(name).write_bytes(changed)
            main(run)
            assert Path(name).read_bytes() == changed
        Path(name).write_bytes(before)
    # 3. What others put there stays, and is told before anything is written.
    for name in written:
        shutil.rmtree("out")
        Path(name).parent.mkdir(parents=True)
        Path(name).write_text("mine")
        capsys.readouterr()
        assert main(run) == 2 and Path(name).name in capsys.readouterr().err
        assert _contents(Path("out")) == {name: b"mine"}


def _more_inputs() -> None:
    """For the commands of WRITERS, in the current folder."""
    random = np.random.default_rng(1)
    pairs = []
    for number in range(12):
        name = f"many/{number}.png"
        Path(name).parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (32, 48, 3), dtype=np.uint8)).save(name)
        pairs.append([name[5:], "Negative" if number % 2 else "../set/Gt/0.png"])
    Path("many/list.json").write_text(json.dumps(pairs))
    record = {"dataset": "a", "index": 0, "name": "x", "path": "x", "mask": "y", "label": 1, "score": 0.5, "f1": 0.5}
    header = {"command": "benco test", "configuration": "0", "model": "TinyIML", "checkpoint": "x", "settings": {}}
    for folder in ("reports/a", "reports/b", "studied/a/0/test", "studied/b/0/test"):
        Path(folder).mkdir(parents=True)
        Path(folder, "per_image.jsonl").write_text(json.dumps(record) + "\n")
        results = {**header, "datasets": {"a": {"images": 1, "pixel-level F1": 0.5}}, "mean": {"pixel-level F1": 0.5}}
        Path(folder, "results.json").write_text(json.dumps(results))
    for row in ("a", "b"):
        Path(f"studied/{row}/0/run.json").write_text(json.dumps([{"command": "benco train"}]))
        Path(f"studied/{row}/0/log.jsonl").write_text(json.dumps({"update": 1, "loss": {"loss": 1.0}}) + "\n")
    Path("out").mkdir()


def test_every_verb_has_its_rows():
    assert len(table.CASES) >= 120
    assert {case.words.split()[0] for case in table.CASES} >= VERBS.keys()


def test_the_page_is_that_of_the_table():
    assert table.PAGE.read_text(encoding="utf-8") == table.page()


def _copy(source: str | Path, target: str | Path) -> None:
    """A folder with its links and pipes as they are."""
    for entry in os.scandir(source):
        place = os.path.join(target, entry.name)
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), place)
        elif entry.is_dir():
            os.mkdir(place)
            _copy(entry.path, place)
        elif entry.is_file():
            shutil.copy2(entry.path, place)
        else:
            os.mkfifo(place)


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        os.path.join(place, name): Path(place, name).read_bytes()
        for place, _, names in os.walk(folder)
        for name in names
        if os.path.isfile(os.path.join(place, name))
    }
