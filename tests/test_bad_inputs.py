"""Each row of the table of bad inputs, run in this process."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diffiml_plugin.cli.main import VERBS, main
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
    ],
)
def test_two_runs_at_once_do_not_write_to_one_folder(words, here, capsys, child_environment):
    folder = "out_masks" if "prepare" in words else "out"
    code = f"import diffiml_plugin.files as files\nwith files.claimed('{folder}'): print(flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": child_environment}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as other:
        other.stdout.readline()
        before = _contents(here)
        assert main(shlex.split(words)) == 2
        assert f"error: {folder} is in use by process {other.pid} on" in capsys.readouterr().err.replace(f"{here}/", "")
        assert _contents(here) == before
        other.communicate(b"\n")


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
