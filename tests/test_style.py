"""The formatter, the linter and the type checker have nothing to say."""

import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]


@pytest.mark.parametrize("words", [("format", "--check"), ("check",)], ids=" ".join)
def test_ruff(words):
    run("ruff", *words, ".")


@pytest.mark.slow
def test_mypy(tmp_path):
    run("mypy", "--cache-dir", str(tmp_path))


def run(*command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=CHECKOUT, capture_output=True, text=True)
    assert not done.returncode, done.stdout + done.stderr
