import importlib.util
import os
from pathlib import Path

import pytest


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
