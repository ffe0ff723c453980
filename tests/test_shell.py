"""The scripts of shell/: each that is numbered is one command of benco, which takes further flags."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SHELL = Path(__file__).parent.parent / "shell"
NUMBERED = sorted(SHELL.glob("[0-9]*.sh"))


@pytest.fixture
def environment(tmp_path):
    """Of a shell that has a `benco` on its path, and the datasets' folder."""
    benco = tmp_path / "bin" / "benco"
    benco.parent.mkdir()
    benco.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m diffiml_plugin "$@"\n')
    benco.chmod(0o755)
    path = f"{benco.parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "DATA_ROOT": "/data", "PATH": path, "PYTHONPATH": str(SHELL.parent), "DIFFIML_HOOK": "0"}


def test_the_trainings_and_the_robustness_have_scripts():
    assert {path.name for path in NUMBERED} >= {"20_train_mvss.sh", "21_train_catnet.sh", "40_robust.sh"}


@pytest.mark.parametrize("script", SHELL.glob("*.sh"), ids=lambda path: path.name)
def test_every_script_stops_at_a_mistake_and_says_how_to_use_it(script):
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash" and "set -euo pipefail" in lines
    assert os.access(script, os.X_OK) and (script.name == "install.sh" or any("usage: " in line for line in lines))


@pytest.mark.parametrize("script", NUMBERED, ids=lambda path: path.name)
def test_a_numbered_script_is_one_command_that_takes_flags(script, environment, tmp_path):
    code = [line for line in script.read_text().splitlines() if line and not line.startswith("#")]
    assert code[0] == "set -euo pipefail" and len(code) == 2
    assert code[1].startswith("exec benco ") and code[1].endswith(' "$@"')
    words = [script, "--output_dir", "elsewhere", "--dry_run"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "output_dir: elsewhere " in done.stdout and "/data/CASIA" in done.stdout
