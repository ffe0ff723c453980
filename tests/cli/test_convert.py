import json

import pytest
import torch

from diffiml_plugin.cli.main import main
from diffiml_plugin.training import engine
from diffiml_plugin.weights.files import load_weights, read_metadata


@pytest.fixture
def source(authors_release, tmp_path):
    """A checkpoint of the authors', synthetic, with a codec that works."""
    torch.manual_seed(0)
    tensors = authors_release.checkpoint("b0", authors_release.averaging_light_vae())
    torch.save({"model": tensors, "epoch": 59}, tmp_path / "checkpoint-59.pth")
    return tmp_path / "checkpoint-59.pth"


def test_what_it_says(source, tmp_path, capsys):
    target = tmp_path / "x.safetensors"
    assert main(["convert", str(source), "--output", str(target)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(
        f"{target}: the release's model on segformer_b0 with lightvae-release; pixel-F1 of a mask 0.9"
    )
    assert (
        main(["convert", str(source), "--output", str(target)]) == 2 and "is there already" in capsys.readouterr().err
    )
    other = str(tmp_path / "y.safetensors")
    assert main(["convert", str(source), "--output", other, "--activation", "silu"]) == 2
    assert "--force converts it as it is" in capsys.readouterr().err


@pytest.mark.slow
def test_every_verb_takes_a_converted_checkpoint(source, tiny_dataset, tmp_path, capsys, monkeypatch):
    def run(verb, *words):
        """On the smallest input; a failure shows what was said."""
        folder = ["--output_dir", str(tmp_path / verb)]
        assert main([verb, *words, *folder, "--device", "cpu"]) == 0, capsys.readouterr().err

    weights, data = str(tmp_path / "x.safetensors"), str(tiny_dataset / "list.json")
    assert main(["convert", str(source), "--output", weights]) == 0
    scored = ["--checkpoint_path", weights, "--test_data_path", data, "--image_size", "64", "--num_workers", "0"]
    run("predict", str(tiny_dataset / "Tp"), "--checkpoint_path", weights, "--image_size", "64")
    assert len((tmp_path / "predict" / "results.jsonl").read_text().splitlines()) == 3
    fast = ["--num_inference_steps", "2", "--ensemble_size", "1"]
    run("test", *scored, *fast)
    settings = json.loads((tmp_path / "test" / "results.json").read_text())["settings"]
    assert (settings["timestep_spacing"], settings["clip_latents"], settings["tta_fusion"]) == ("leading", 1.0, "max")
    run(
        "sweep", *scored, *fast, "--vary", "clip_latents=0,1", "timestep_spacing=leading,trailing", "--noise_seeds", "1"
    )
    assert len(json.loads((tmp_path / "sweep" / "sweep.json").read_text())["rows"]) == 4
    run("robust", *scored, *fast, "--tta", "false")
    training = ["--checkpoint_path", weights, "--data_path", data, "--image_size", "64", "--num_workers", "0"]
    training += ["--batch_size", "2", "--total_batch_size", "2", "--resume", "auto"]
    training += ["--epochs", "2", "--edge_target", "band", "--edge_mask_width", "7"]
    train_epoch = engine._Run._train_and_keep_epoch

    def one_epoch(training_run):
        train_epoch(training_run)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine._Run, "_train_and_keep_epoch", one_epoch)
        with pytest.raises(AssertionError):  # exit status 130
            run("train", *training)
    run("train", *training)
    assert len((tmp_path / "train" / "log.jsonl").read_text().splitlines()) == 2
    last = tmp_path / "train" / "last.safetensors"
    config = read_metadata(last)["config"]
    assert (config["denoiser"], config["codec_layout"], config["edge_target"]) == ("release", "8-batch-relu", "band")
    before, after = load_weights(weights)[0], load_weights(last)[0]
    trained, frozen = "diffiml.denoiser.mix.1.running_mean", "diffiml.codec.encoder.1.running_mean"
    assert not torch.equal(before[trained], after[trained]) and torch.equal(before[frozen], after[frozen])
