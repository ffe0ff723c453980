"""Several processes train as one."""

import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import timm
import torch

from diffiml_plugin.training import engine as training
from diffiml_plugin.training.engine import train


def flags_of(settings):
    return [f"--{name}={value}" for name, value in asdict(settings).items() if value not in (None, "")]


def test_two_processes_train_as_one(settings, tiny_model, child_environment, tmp_path, weights, equal, log):
    """Three images in updates of four: two forward passes, in the second of which one process has no image."""
    settings = replace(settings, batch_size=1, total_batch_size=4, data_path=str(tmp_path / "tiny"))
    alone = train(settings).folder
    both = replace(settings, output_dir=str(tmp_path / "both"))
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(tiny_model)]
    subprocess.run([*run, "train", *flags_of(both)], check=True, env=child_environment)
    assert equal(weights(alone), weights(both.output_dir), tolerance=1e-6)
    losses = [[record["loss"]["loss"] for record in log(folder)] for folder in (alone, both.output_dir)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_two_processes_train_diffiml_as_one(
    settings, tiny_model, child_environment, tmp_path, checkpointed, weights, log
):
    """With one pass in each update, whose graph DDP takes for the same every time; in the last, one has no image."""
    flags = {"encoder": "segformer_b0", "denoiser": "light"}
    settings = replace(settings, model="DiffIML", lr=1e-3, batch_size=1, total_batch_size=2, test_data_path="")
    settings = replace(settings, data_path=str(tmp_path / "tiny"), checkpoint_encoder=checkpointed)
    alone = train(settings, flags).folder
    both = replace(settings, output_dir=str(tmp_path / "both"))
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(tiny_model)]
    words = [*flags_of(both), *(f"--{name}={value}" for name, value in flags.items())]
    subprocess.run([*run, "train", *words], check=True, env=child_environment)
    losses = [[record["loss"]["loss"] for record in log(folder)] for folder in (alone, both.output_dir)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    one, other = (torch.cat([w.flatten() for w in weights(folder).values()]) for folder in (alone, both.output_dir))
    # On average: AdamW makes whole steps of gradients that are nothing but rounding. Its steps are of 1e-3.
    assert (one - other).abs().mean() < 1e-6


def test_two_processes_of_different_settings_are_refused(settings, two_processes):
    """The run would be described by the first process's alone."""
    starts = [["train", *flags_of(replace(settings, total_batch_size=4, lr=lr))] for lr in (1e-3, 1e-2)]
    (first, said), (second, _) = two_processes(*starts)
    assert 0 not in (first, second) and "the processes of this run differ in lr" in said
    assert not (Path(settings.output_dir) / "last.safetensors").exists()


def test_synchronised_norms_compute_the_same():
    """torch's own conversion drops the activations that timm's norms hold."""
    encoder = timm.create_model("tf_efficientnet_lite0", features_only=True).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = encoder(image)
        after = training.convert_sync_batchnorm(encoder)(image)
    assert any(isinstance(layer, torch.nn.SyncBatchNorm) for layer in encoder.modules())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
