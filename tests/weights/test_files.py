import hashlib
import resource
from contextlib import contextmanager

import pytest
import safetensors.torch
import torch
from torch import nn

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.method.config import DiffIMLConfig
from diffiml_plugin.weights.files import load_into, load_weights, read_metadata, save_weights

METADATA = {"model": "DiffIML", "config": {"encoder": "segformer_b3", "denoiser": "light"}, "epoch": 3}


@pytest.fixture
def state():
    return {"a.weight": torch.randn(4, 3), "b.half": torch.randn(5).bfloat16(), "steps": torch.tensor(7)}


def test_what_is_written_is_read(tmp_path, state):
    path = tmp_path / "w.safetensors"
    save_weights(path, state, METADATA)
    loaded, metadata = load_weights(path)
    assert metadata == METADATA == read_metadata(path)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], tensor) and loaded[key].dtype == tensor.dtype for key, tensor in state.items())
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]


def test_views_and_shared_tensors_are_written_whole(tmp_path):
    base = torch.randn(6, 4)
    state = {"transposed": base.T, "same": base, "row": base[1], "expanded": base[:1].expand(3, 4)}
    save_weights(tmp_path / "w.safetensors", state, {})
    loaded, _ = load_weights(tmp_path / "w.safetensors")
    assert all(torch.equal(loaded[key], state[key]) for key in state)


@contextmanager
def largest_file(size: int):
    """What a full disk looks like to one process: writing past `size` bytes is an OSError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_failed_write_leaves_the_earlier_file_and_nothing_else(tmp_path, state):
    path = tmp_path / "w.safetensors"
    save_weights(path, state, METADATA)
    before = path.read_bytes()
    with largest_file(10_000), pytest.raises(DiffIMLError, match=rf"cannot write .* {path}.*File too large"):
        save_weights(path, {"large": torch.zeros(10_000)}, METADATA)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_named(tmp_path, state):
    path = tmp_path / "nowhere" / "w.safetensors"
    with pytest.raises(DiffIMLError, match=rf"{path}.*No such file or directory"):
        save_weights(path, state, METADATA)
    with pytest.raises(DiffIMLError, match=rf"{path}.*No such file or directory"):
        load_weights(path)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(DiffIMLError, match=rf"{tmp_path} is a folder"):
        load_weights(tmp_path)


@pytest.mark.parametrize("damage", ["empty", "header only", "tail lost", "pickle", "text"])
def test_a_damaged_or_foreign_file_is_refused_by_name_and_sha256(tmp_path, state, damage):
    path = tmp_path / "w.safetensors"
    save_weights(path, state, METADATA)
    content = path.read_bytes()
    if damage == "pickle":
        torch.save(state, path)
    else:
        path.write_bytes(
            {
                "empty": b"",
                "header only": content[:60],
                "tail lost": content[:-1],
                "text": b"version https://git-lfs.github.com/spec/v1\n",
            }[damage]
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for read in (load_weights, read_metadata):
        with pytest.raises(
            DiffIMLError, match=rf"{path} \(\d+ bytes, sha256 {digest}\) is (truncated|a file of PyTorch)"
        ):
            read(path)


def test_safetensors_of_others_are_refused(tmp_path, state):
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(state, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(DiffIMLError, match=f"{digest}.*not of this package"):
        load_weights(path)


class Model(nn.Sequential):
    def __init__(self, width: int):
        super().__init__(nn.Linear(3, width), nn.BatchNorm1d(width))


@pytest.fixture
def stored(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, Model(4).state_dict(), METADATA)
    return path


def test_load_into(stored):
    model, (state, _) = Model(4), load_weights(stored)
    assert not torch.equal(model[0].weight, state["0.weight"])
    load_into(model, state, stored)
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())


def test_another_architecture_is_one_error_that_names_both(stored):
    model = Model(5)
    model[1].config = DiffIMLConfig(encoder="segformer_b0", denoiser="light")
    before = model[0].weight.clone()
    with pytest.raises(DiffIMLError) as error:
        load_into(model, load_weights(stored)[0], stored)
    message = str(error.value)
    assert f"{stored} holds DiffIML (encoder='segformer_b3'), but the model is" in message
    assert "but the model is Model (encoder='segformer_b0')" in message
    assert "6 of another shape (0.weight [4, 3] for [5, 3], 0.bias [4] for [5], 1.weight [4]" in message
    assert torch.equal(model[0].weight, before)


def test_missing_and_unexpected_keys_are_named(stored):
    state, _ = load_weights(stored)
    state["head.weight"] = state.pop("0.bias")
    with pytest.raises(DiffIMLError, match=r"1 missing \(0.bias\); 1 unexpected \(head.weight\)"):
        load_into(Model(4), state, stored)


def test_tensors_of_a_file_without_metadata_are_still_compared(tmp_path):
    with pytest.raises(DiffIMLError, match="holds an unnamed model, but the model is Model"):
        load_into(Model(4), {}, tmp_path / "elsewhere.pth")


@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
def test_no_file_is_replaced_by_one_whose_metadata_no_reader_takes(tmp_path, number):
    path = tmp_path / "x.safetensors"
    save_weights(path, {"a": torch.ones(1)}, {"provenance": {"f1": 0.5}})
    before = path.read_bytes()
    with pytest.raises(DiffIMLError, match="x.safetensors is not written, because a figure .* is not finite"):
        save_weights(path, {"a": torch.ones(1)}, {"provenance": {"f1": number}})
    assert path.read_bytes() == before
