import os
import subprocess
import sys

import pytest

# Packages that torch, its TensorBoard, accelerate and Pillow look for, and that no environment of the tests has.
OPTIONAL = ("torch_xla", "torch_npu", "tensorflow", "olefile", "deepspeed")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 cannot leave the current folder out")
@pytest.mark.parametrize("first", ["diffiml_plugin.framework.imdlbenco", "diffiml_plugin.hook, IMDLBenCo.cli"])
def test_nothing_is_imported_from_the_current_folder(tmp_path, child_environment, first):
    for folder in (tmp_path, tmp_path / "modules"):
        folder.mkdir(exist_ok=True)
        for name in OPTIONAL:
            (folder / f"{name}.py").write_text("open('imported', 'w')")
    code = (
        f"import sys, {first}, torch.utils.tensorboard\n"
        "from PIL import Image; Image.init()\n"
        "print([entry for entry in sys.path if entry.startswith('.')])"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        env={**child_environment, "PYTHONSAFEPATH": "1", "DIFFIML_KEPT_AWAY": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert said.stdout.endswith("[]\n"), said.stderr
    assert not os.path.exists(tmp_path / "imported")
