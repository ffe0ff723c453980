import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from diffiml_plugin.training.settings import TrainSettings


@pytest.fixture
def settings(tiny_model, tiny_dataset, tmp_path) -> TrainSettings:
    """A run of two epochs over four images, in updates of two."""
    return TrainSettings(
        model="TinyIML",
        data_path=str(tiny_dataset / "list.json"),
        test_data_path=str(tiny_dataset / "list.json"),
        image_size=64,
        batch_size=2,
        total_batch_size=2,
        test_batch_size=3,
        epochs=2,
        lr=1e-2,
        test_period=1,
        num_workers=0,
        device="cpu",
        output_dir=str(tmp_path / "run"),
    )


@pytest.fixture
def windows(settings, tiny_dataset) -> TrainSettings:
    """A run over windows of 32 and of 64 pixels, ten an epoch."""
    stream = replace(settings, data_path=f"synth:{tiny_dataset / 'Tp'}", test_data_path="", augmentation="turns")
    stream = replace(stream, synth_windows="32,64", synth_samples=10, if_padding=True)
    return replace(stream, batch_size=4, total_batch_size=8)


@pytest.fixture
def seven(tiny_dataset) -> str:
    """A list of seven pairs, of which an epoch makes four updates of two."""
    pairs = json.loads((tiny_dataset / "list.json").read_text())
    path = tiny_dataset / "seven.json"
    path.write_text(json.dumps((pairs * 2)[:7]))
    return str(path)


@pytest.fixture
def weights() -> Callable[..., dict[str, Tensor]]:
    """weights(folder, name="last"): the tensors that a run left."""
    return lambda folder, name="last": load_file(f"{folder}/{name}.safetensors")


@pytest.fixture
def equal() -> Callable[..., bool]:
    """equal(one, other, tolerance=0.0): whether two sets of tensors are equal, of the same names."""

    def compared(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float = 0.0) -> bool:
        assert one.keys() == other.keys()
        return all(torch.allclose(one[key], other[key], rtol=0, atol=tolerance) for key in one)

    return compared


@pytest.fixture
def log() -> Callable[[Path | str], list[dict]]:
    """log(folder): the records of a run."""
    return lambda folder: [json.loads(line) for line in open(f"{folder}/log.jsonl")]


@pytest.fixture
def points() -> Callable[[Path], dict[str, list[int]]]:
    """points(folder): the steps of each curve of TensorBoard."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def steps(folder: Path) -> dict[str, list[int]]:
        events = EventAccumulator(str(folder))
        events.Reload()
        return {tag: [point.step for point in events.Scalars(tag)] for tag in events.Tags()["scalars"]}

    return steps
