import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """Registers TinyIML; the script that is the command with it."""
    script = Path(__file__).with_name("tiny_model.py")
    spec = importlib.util.spec_from_file_location("tiny_model", script)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return script
