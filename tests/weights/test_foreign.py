import argparse
import hashlib

import numpy as np
import pytest
import safetensors.torch
import torch

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.weights.foreign import read_foreign, unpickle


@pytest.fixture
def state():
    return {"a.weight": torch.randn(4, 3), "b.half": torch.randn(5).bfloat16(), "steps": torch.tensor(7)}


def of_script(state):
    """What the framework's scripts and the authors' keep beside the weights."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))]).state_dict()
    return {"model": state, "optimizer": optimizer, "epoch": 59, "scaler": {}, "args": argparse.Namespace(model="X")}


@pytest.mark.parametrize(
    "write",
    [
        lambda state, path: safetensors.torch.save_file(state, path.with_suffix(".safetensors")),
        lambda state, path: torch.save(state, path.with_suffix(".bin")),
        lambda state, path: torch.save({"state_dict": state, "epoch": 4}, path.with_suffix(".pth")),
        lambda state, path: torch.save(of_script(state), path.with_suffix(".pth")),
        lambda state, path: torch.save({f"module.{key}": state[key] for key in state}, path.with_suffix(".pth")),
        lambda state, path: torch.save({"model": {f"module.{k}": state[k] for k in state}}, path.with_suffix(".pth")),
    ],
)
def test_tensors_of_other_programs(tmp_path, state, write):
    write(state, tmp_path / "w")
    (path,) = tmp_path.iterdir()
    tensors = read_foreign(path).tensors
    assert tensors.keys() == state.keys() and all(torch.equal(tensors[key], state[key]) for key in state)


def test_arguments_of_the_script_are_kept(tmp_path, state):
    torch.save(of_script(state), tmp_path / "w.pth")
    assert read_foreign(tmp_path / "w.pth").arguments == {"model": "X"}
    torch.save({"module.a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "w.pth")
    assert list(read_foreign(tmp_path / "w.pth").tensors) == ["module.a", "b"]  # no wrapper, a name


class Malicious:
    ran = False

    def __reduce__(self):
        return setattr, (Malicious, "ran", True)


@pytest.mark.parametrize("content", [Malicious(), {"a": 3}, [torch.zeros(1)], {}, b"", b"PK\3\4"])
def test_a_foreign_pickle_is_refused_and_not_run(tmp_path, content):
    path = tmp_path / "w.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(DiffIMLError, match=digest) as error:
        read_foreign(path)
    assert len(str(error.value).splitlines()) == 1 and not Malicious.ran


def halved(state):
    def write(path):
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[:-100])

    return write


@pytest.mark.parametrize(
    "write, message",
    [
        (lambda path: torch.save({"a": np.float64(3)}, path), "more than tensors and plain values .*scalar.* was run"),
        (lambda path: torch.save(Malicious(), path), r"more than tensors and plain values \((builtins\.)?setattr\)"),
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "is a Git LFS pointer"),
        (lambda path: path.write_bytes(b"<!doctype html>"), "is a web page"),
        (halved({"a": torch.zeros(1000)}), "is truncated or no file of weights"),
        (lambda path: path.write_bytes(b""), "is truncated or no file of weights"),
        (lambda path: torch.save({"model": {"a": 3}}, path), "no named tensors, neither at its top nor under model or"),
    ],
)
def test_messages_say_what_the_file_is(tmp_path, write, message):
    write(tmp_path / "w.pth")
    with pytest.raises(DiffIMLError, match=rf"w\.pth \(\d+ bytes, sha256 .*{message}") as error:
        read_foreign(tmp_path / "w.pth")
    assert "\x1b" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DiffIMLError, match=r"nowhere\.pth: No such file"):
        unpickle(tmp_path / "nowhere.pth")
