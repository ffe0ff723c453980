import json

import pytest
from torch import nn

from diffiml_plugin.cli.main import main
from diffiml_plugin.models.checkpoints import save_checkpoint
from diffiml_plugin.weights.files import read_metadata


@pytest.fixture
def checkpoint(tmp_path):
    save_checkpoint(tmp_path / "x.safetensors", nn.Linear(2, 2), "TinyIML", {})
    (tmp_path / "card.json").write_text(json.dumps({"data": "none"}))
    return tmp_path


def test_statement_and_figures_stand_in_the_file(checkpoint, capsys):
    (checkpoint / "results.json").write_text(json.dumps({"mean": {"pixel-level F1": 0.5}}))
    words = [
        "release",
        str(checkpoint / "x.safetensors"),
        str(checkpoint / "y.safetensors"),
        "--statement",
        str(checkpoint / "card.json"),
    ]
    assert main(words) == 0 and "figures" not in read_metadata(checkpoint / "y.safetensors")
    (checkpoint / "y.safetensors").unlink()
    assert main([*words, "--results", str(checkpoint / "results.json")]) == 0
    metadata = read_metadata(checkpoint / "y.safetensors")
    assert (metadata["data"], metadata["figures"]) == ("none", {"pixel-level F1": 0.5})
    assert capsys.readouterr().out.startswith(f"{checkpoint / 'y.safetensors'}: 0.0 MB")


def test_results_without_figures_are_refused(checkpoint, capsys):
    card = str(checkpoint / "card.json")
    words = ["release", str(checkpoint / "x.safetensors"), str(checkpoint / "y.safetensors"), "--statement", card]
    assert main([*words, "--results", card]) == 2 and "card.json holds no mean" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_statement_that_is_no_object_is_refused(checkpoint, capsys, text):
    (checkpoint / "card.json").write_text(text)
    words = ["release", str(checkpoint / "x.safetensors"), str(checkpoint / "y.safetensors")]
    assert main([*words, "--statement", str(checkpoint / "card.json")]) == 2
    assert "card.json cannot be read" in capsys.readouterr().err
