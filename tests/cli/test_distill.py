import numpy as np
import pytest
import yaml
from diffusers import AutoencoderKL
from PIL import Image

from diffiml_plugin.cli.main import main
from diffiml_plugin.weights.files import read_metadata

TINY = [
    "--width",
    "2",
    "--image_size",
    "32",
    "--batch_size",
    "8",
    "--steps",
    "2",
    "--device",
    "cpu",
    "--num_workers",
    "0",
]


@pytest.fixture
def masks(tmp_path):
    folder = tmp_path / "Gt"
    folder.mkdir()
    for index in range(12):
        Image.fromarray(np.tri(40, 60, index, dtype=np.uint8) * 255).save(folder / f"{index}.png")
    return folder


def test_distils_a_teacher_from_a_folder(tmp_path, masks, capsys):
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4,) * 4,
        norm_num_groups=2,
        latent_channels=4,
    ).save_pretrained(tmp_path / "vae")
    output = tmp_path / "out"
    assert (
        main(
            [
                "distill",
                "--teacher",
                str(tmp_path / "vae"),
                "--masks",
                str(masks),
                "synthetic",
                "--output_dir",
                str(output),
                *TINY,
            ]
        )
        == 0
    )
    provenance = read_metadata(output / "lightvae.safetensors")["provenance"]
    assert provenance["teacher"] == str(tmp_path / "vae") and provenance["steps"] == 2
    assert provenance["data"] == "10 masks from files, synthetic masks"
    assert "f1_mean" in capsys.readouterr().out


def test_the_published_corpus_as_prepare_lists_it(tmp_path, miniatures, monkeypatch):
    miniatures.fabricate("CASIAv2", tmp_path / "CASIAv2")
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    assert main(["datasets", "prepare", "CASIAv2", "--root", str(tmp_path)]) == 0
    assert main(["distill", "--config", "distill", "--output_dir", str(tmp_path / "out"), *TINY]) == 0
    assert "masks from files" in read_metadata(tmp_path / "out" / "lightvae.safetensors")["provenance"]["data"]


def test_a_missing_teacher_is_one_clear_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    given = ["distill", "--teacher", str(tmp_path / "none_here"), "--output_dir", str(tmp_path / "out")]
    assert main([*given, *TINY]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "none_here" in error and "diffusion_pytorch_model.safetensors" in error


def test_grey_masks_need_the_flag(masks, tmp_path, capsys):
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(masks / "grey.png")
    given = ["distill", "--masks", str(masks), "--output_dir", str(tmp_path / "out"), *TINY]
    assert main(given) == 2 and "grey.png" in capsys.readouterr().err
    assert main([*given, "--binarise"]) == 0
    assert "warning: " in (told := capsys.readouterr().err) and "grey.png is not binary" in told


def test_the_configuration_with_a_teacher_weighs_it_as_eq_6(capsys, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", "/data")
    assert main(["distill", "--config", "codec/distill#taught", "--dry_run"]) == 0
    settings = yaml.safe_load(capsys.readouterr().out)
    assert settings["teacher"] == "stabilityai/sd-vae-ft-mse" and settings["latent_weight"] == 0.1


def test_stored_weights_are_not_overwritten(tmp_path, capsys):
    (tmp_path / "lightvae.safetensors").write_text("of hours")
    assert main(["distill", "--output_dir", str(tmp_path), *TINY]) == 2
    assert "holds lightvae.safetensors of a run without its training_state.pt" in capsys.readouterr().err
    (tmp_path / "training_state.pt").write_text("of hours")
    assert main(["distill", "--output_dir", str(tmp_path), *TINY]) == 2
    assert "holds a training run already; go on with --resume auto" in capsys.readouterr().err
    assert (tmp_path / "lightvae.safetensors").read_text() == "of hours"
