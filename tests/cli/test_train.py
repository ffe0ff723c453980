"""`train` and `test` from the command line, on DiffIML as small as it gets."""

import json

import pytest
import torch
import yaml

from diffiml_plugin.cli.main import main
from diffiml_plugin.ledger import Ledger
from diffiml_plugin.training.resume import STATE

SMALL = {
    "encoder": "segformer_b0",
    "encoder_weights": "xavier",
    "codec_weights": "none",
    "image_size": 32,
    "batch_size": 2,
    "total_batch_size": 4,
    "epochs": 1,
    "num_workers": 0,
    "device": "cpu",
    "ensemble_size": 1,
    "num_inference_steps": 1,
}


@pytest.fixture
def config(tmp_path, tiny_dataset):
    """A config file that trains on four images."""
    path = tmp_path / "small.yaml"
    data = {name: str(tiny_dataset / "list.json") for name in ("data_path", "test_data_path")}
    path.write_text(yaml.safe_dump({**SMALL, **data, "output_dir": str(tmp_path / "run")}))
    return str(path)


def test_train_then_test(config, tmp_path, tiny_dataset, capsys):
    assert main(["train", "--config", config]) == 0
    run = tmp_path / "run"
    assert main(["train", "--config", str(run / "config.yaml"), "--resume", "auto"]) == 0  # what it wrote reads back

    words = ["test", "--checkpoint_path", str(run), "--test_data_path", str(tiny_dataset), "--device", "cpu"]
    assert main([*words, "--output_dir", str(tmp_path / "out"), "--ensemble_size", "2"]) == 0
    assert "pixel F1" in capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["model"] == "DiffIML" and results["datasets"]["tiny"]["images"] == 3
    settings = results["settings"]
    assert (settings["encoder"], settings["ensemble_size"], settings["image_size"]) == ("segformer_b0", 2, 32)


def test_a_run_that_was_killed_behind_its_best_weights_goes_on(config, tmp_path, capsys):
    assert main(["train", "--config", config]) == 0
    file = tmp_path / "run" / STATE
    torch.save({**torch.load(file, weights_only=True), "best": None}, file)
    Ledger(file.parent).enter(file, file)
    assert main(["train", "--config", config, "--resume", "auto"]) == 0
    assert f"weights: {tmp_path / 'run' / 'last.safetensors'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--data_path", "/nowhere"], "/nowhere does not exist"),
        (["--gpus", "99"], "--gpus 99"),
        (["--total_batch_size", "3"], "choose --batch_size 1 or 3"),
        (["--encoder", "segformer_b9"], "did you mean 'segformer_b"),
        (["--image_size", "100"], "not a multiple of 32"),
        (["--model", "SPAN"], "SPAN needs --weight_path"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(config, capsys, words, error):
    assert main(["train", "--config", config, *words]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and error in said and "\n" not in said
