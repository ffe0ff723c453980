import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """Registers TinyIML; the script that is the command with it."""
    script = Path(__file__).with_name("tiny_model.py")
    spec = importlib.util.spec_from_file_location("tiny_model", script)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return script


@pytest.fixture(scope="session")
def child_environment() -> dict[str, str]:
    """For processes that tests start: this checkout, one thread each."""
    checkout = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [checkout, os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def stored(tmp_path: Path) -> Callable[..., Path]:
    """Makes a checkpoint of random weights."""

    def make(name: str = "TinyIML", size: int = 64, **flags) -> Path:
        from diffiml_plugin.bench.checkpoints import save_checkpoint
        from diffiml_plugin.bench.models import build_model, resolve_flags

        torch.manual_seed(1)
        resolved = resolve_flags(name, flags)
        model = build_model(name, resolved, pretrained=name == "DiffIML")  # the zoo's would be downloaded
        path = tmp_path / f"{name}.safetensors"
        save_checkpoint(path, model, name, resolved, input={"image_size": size})
        return path

    return make


@pytest.fixture
def scored_settings(tiny_dataset: Path, tmp_path: Path, stored):
    """Settings that score TinyIML on the tiny dataset."""
    from diffiml_plugin.bench.settings import TestSettings

    return TestSettings(checkpoint_path=str(stored()), test_data_path=str(tiny_dataset / "list.json"),
                        output_dir=str(tmp_path / "out"), device="cpu", num_workers=0)
