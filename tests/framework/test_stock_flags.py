"""The framework's scripts parse our model's flags after their own, and argparse accepts abbreviations."""

import importlib.util
import inspect
import re
from pathlib import Path

import pytest

from diffiml_plugin.framework.adapters import DiffIMLModel

SCRIPTS = Path(importlib.util.find_spec("IMDLBenCo").origin).parent / "training_scripts"
OURS = tuple(inspect.signature(DiffIMLModel).parameters)


@pytest.mark.parametrize("script", ["train.py", "test.py", "test_robust.py", "test_complexity.py"])
def test_no_flag_of_the_model_is_eaten_by_a_flag_of_the_script(script):
    theirs = re.findall(r"['\"]--(\w+)['\"]", (SCRIPTS / script).read_text())
    assert len(theirs) > 5
    eaten = [(ours, flag) for ours in OURS for flag in theirs if flag.startswith(ours)]
    assert not eaten
