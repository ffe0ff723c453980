"""The scripts of shell/ on miniatures of the eleven datasets, with a configuration of seconds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffiml_plugin.datasets.catalogue import CATALOGUE
from diffiml_plugin.weights.files import read_metadata

SHELL = Path(__file__).parent.parent / "shell"
HERE = ["--device", "cpu", "--num_workers", "0"]
SMALL = [
    *HERE,
    "--encoder",
    "segformer_b0",
    "--encoder_weights",
    "none",
    "--image_size",
    "64",
    "--epochs",
    "1",
    "--batch_size",
    "4",
    "--total_batch_size",
    "8",
]
FEW = [*HERE, "--num_inference_steps", "1", "--ensemble_size", "1"]


@pytest.fixture
def script(tmp_path, miniatures):
    """Runs a script in an empty folder, with DATA_ROOT set and `benco` on the path."""
    for entry in CATALOGUE:
        miniatures.fabricate(entry.name, tmp_path / "data" / entry.name)
    benco = tmp_path / "bin" / "benco"
    benco.parent.mkdir()
    benco.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m diffiml_plugin "$@"\n')
    benco.chmod(0o755)
    environment = {
        **os.environ,
        "DATA_ROOT": str(tmp_path / "data"),
        "OMP_NUM_THREADS": "1",
        "DIFFIML_HOOK": "0",
        "PATH": f"{benco.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(SHELL.parent),
    }

    def run(name: str, *words: str, **variables: str) -> str:
        done = subprocess.run(
            [SHELL / name, *words], cwd=tmp_path, env=environment | variables, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{name}: {done.stderr[-3000:]}"
        return done.stdout

    return run


@pytest.mark.slow
def test_both_protocols_ablations_robustness_and_report(script, tmp_path):
    script("05_prepare.sh")
    assert "epoch 1/1" in script("20_train_mvss.sh", *SMALL, "--ensemble_size", "1")
    assert script("60_train_ablation.sh", "all", *SMALL).count("epoch 1/1") == 10
    assert "AutoSplice" in script("30_test_mvss.sh", *FEW)
    script("32_test_plain.sh", *FEW)
    script("61_test_ablation.sh", "all", *HERE)
    assert "epoch 1/1" in script("22_train_tampered.sh", *SMALL)
    script("40_robust.sh", *FEW)
    script("45_complexity.sh", "--zoo", "MantraNet", "--image_size", "64", "--encoder", "segformer_b0", *HERE[:2])
    script("50_sweep.sh", *FEW, "--vary", "ensemble_size=1,3", "--noise_seeds", "2")
    assert "epoch 1/1" in script("21_train_catnet.sh", *SMALL, "--samples_per_set", "2")
    script("31_test_catnet.sh", *FEW, "--checkpoint_path", "runs/catnet")
    peer = ["--model", "SegFormerIML", "--output_dir"]
    script("30_test_mvss.sh", *HERE, *peer, "runs/peer/test", "--checkpoint_path", "runs/table5/SegFormerIML")
    script("70_report.sh")
    text = (tmp_path / "report" / "report.md").read_text()
    ours = [
        line
        for table in ("Table 2", "Table 3", "Table 5", *(f"Table 6{row}" for row in "abcd"))
        for line in text.split(f"### {table}")[1].split("###")[0].splitlines()
        if " | ours | " in line
    ]
    assert len(ours) == 18 and not any("missing" in line for line in ours)
    assert "| DiffIML, segformer_b0, LightVAE, N=5 (64²) | ours |" in text and "| ManTraNet (64²) | ours |" in text
    assert text.count("### JPEG quality") == 1


@pytest.mark.slow
def test_the_study_and_the_small_model(script, tmp_path):
    noise = np.random.default_rng(0)
    for part in ("photos", "val/Au", "val/Tp", "val/Gt", "train/Tp", "train/Gt"):
        (tmp_path / part).mkdir(parents=True)
        for number in range(3):
            image = noise.integers(0, 256, (64, 80, 3), dtype=np.uint8)
            if part.endswith("Gt"):
                image[:], image[10:40, 10:40] = 0, 255
            Image.fromarray(image).save(tmp_path / part / f"splice_{number}.png")
    for part in ("train", "val"):
        pairs = [[f"Tp/splice_{number}.png", f"Gt/splice_{number}.png"] for number in range(3)]
        (tmp_path / part / "list.json").write_text(json.dumps(pairs))

    tiny = [*HERE, "--epochs", "2", "--batch_size", "2"]
    where = {"STUDY_DATA": str(tmp_path), "SEEDS": "0 1", "OUT": str(tmp_path / "study"), "SIDE": "64"}
    rows = "discriminative DiffIML DiffIML_without_removal"
    first = script("80_study.sh", *tiny, ROWS=rows, **where)
    for row in rows.split():
        assert f"| {row} | 2 |" in first
    assert "| num_inference_steps=8 |" in first and "| jpeg 50 |" in first
    config = (tmp_path / "study" / "DiffIML_without_removal" / "1" / "config.yaml").read_text()
    assert "synth_kinds: splice,copy_move\n" in config and "seed: 1\n" in config
    again = script("80_study.sh", *tiny, ROWS=rows, **where)
    assert again.endswith(first[first.index("| row |") :])  # the same tables; nothing was left to train

    small = [*tiny, "--encoder_weights", "none", "--image_size", "96", "--crop_size", "64", "--samples_per_set", "2"]
    photographs = script(
        "80_study.sh",
        *small,
        ROWS="discriminative_without_splice",
        **where | {"SIDE": "photographs", "SEEDS": "0", "OUT": str(tmp_path / "photographs")},
    )
    assert "| discriminative_without_splice | 1 |" in photographs
    assert "small.safetensors" in script("81_small.sh", *small, **where)
    figures = json.loads((tmp_path / "runs/small/test/results.json").read_text())["mean"]
    assert read_metadata(tmp_path / "runs/small/small.safetensors")["figures"] == figures
