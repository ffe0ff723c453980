import subprocess
import sys
from collections import Counter

import pytest

from diffiml_plugin.cli import predict as verb
from diffiml_plugin.cli.command_line import parse_arguments
from diffiml_plugin.settings import CommonSettings


@pytest.mark.parametrize("failed, status", [(0, 0), (1, 1)])
def test_exit_status_tells_of_failures(monkeypatch, capsys, failed, status):
    room, given = "diffiml_plugin.prediction", {}
    monkeypatch.setattr(f"{room}.detector.Detector", lambda *arguments: given.setdefault("detector", arguments))
    monkeypatch.setattr(f"{room}.files.predict", lambda *arguments: Counter({"tampered": 2, "failed": failed}))
    words = "x.jpg --checkpoint_path w --output_dir o --device cpu --model diffiml --tta".split()
    assert verb.run(parse_arguments("benco predict", verb, words)) == status
    assert "2 tampered" in capsys.readouterr().out
    assert given["detector"][:4] == ("w", CommonSettings(device="cpu"), "DiffIML", {"tta": True})


def test_one_photo_is_predicted_without_imports_that_it_needs_not(tiny_dataset, tmp_path, child_environment):
    """Each takes from a third of a second to seconds; of training, scoring and the framework, `predict` needs none."""
    code = "import sys; from diffiml_plugin.cli.main import main; main(sys.argv[1:]); print(*sys.modules)"
    words = ["predict", str(tiny_dataset / "Tp" / "0.png"), "--checkpoint_path", "small", "--device", "cpu"]
    words += ["--num_inference_steps", "1", "--ensemble_size", "1", "--output_dir", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env=child_environment)
    imported = set(done.stdout.splitlines()[-1].split())
    assert (tmp_path / "out" / "0_mask.png").exists() and "torch" in imported
    assert not imported & {"IMDLBenCo", "accelerate", "albumentations", "diffusers", "sklearn", "tensorboard"}
