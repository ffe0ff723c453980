"""The formatter and the linter have nothing to say."""

import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]


@pytest.mark.parametrize("words", [("format", "--check"), ("check",)], ids=" ".join)
def test_ruff(words):
    done = subprocess.run([sys.executable, "-m", "ruff", *words, "."], cwd=CHECKOUT, capture_output=True, text=True)
    assert not done.returncode, done.stdout + done.stderr
