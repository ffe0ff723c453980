"""The scripts that `benco init base` writes, unedited, under torchrun: they find DiffIML, train it and test it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import diffiml_plugin

# The scripts cannot run without CUDA and NCCL; in the child process, and only there, their calls mean the CPU.
CPU_IN_PLACE_OF_CUDA = """
import torch, torch.distributed, torch.nn.parallel
torch.cuda.set_device = lambda device: None
torch.cuda.synchronize = lambda: None
tensor, join = torch.tensor, torch.distributed.init_process_group
torch.tensor = lambda *args, device=None, **kwargs: tensor(*args, device=device and "cpu", **kwargs)
torch.distributed.init_process_group = lambda backend, **kwargs: join("gloo", **kwargs)
parallel = torch.nn.parallel.DistributedDataParallel
torch.nn.parallel.DistributedDataParallel = lambda module, device_ids, **kwargs: parallel(module, **kwargs)
torch.nn.SyncBatchNorm.convert_sync_batchnorm = lambda module: module
"""
MODEL = "--model DiffIML --encoder segformer_b0 --codec_weights none --ensemble_size 1 --num_inference_steps 1"
COMMON = f"{MODEL} --image_size 64 --if_resizing --test_batch_size 2 --num_workers 0 --device cpu --world_size 1"


@pytest.mark.slow
def test_stock_scripts_train_and_test_diffiml(tiny_dataset, tmp_path, child_environment):
    (tmp_path / "site").mkdir()
    hook = Path(diffiml_plugin.__file__).parents[1] / "diffiml_plugin.pth"
    (tmp_path / "site" / "sitecustomize.py").write_text(hook.read_text() + CPU_IN_PLACE_OF_CUDA)
    environment = {**child_environment, "PYTHONPATH": f"{tmp_path / 'site'}:{child_environment['PYTHONPATH']}"}
    scripts = tmp_path / "scripts"
    scripts.mkdir()

    def run(*words):
        return subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=scripts,
            env=environment,
            check=True,
            text=True,
            stdout=subprocess.PIPE,
        )

    def torchrun(script, flags):
        return run("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1", script, *flags.split()).stdout

    run("-c", "import sys; from IMDLBenCo.cli_funcs import cli_init; cli_init(None, 'base')")
    assert "from mymodel import MyModel" in (scripts / "train.py").read_text()

    torchrun(
        "train.py",
        f"{COMMON} --data_path {tiny_dataset} --test_data_path {tiny_dataset} --batch_size 1 "
        "--epochs 1 --accum_iter 1 --lr 1e-4 --warmup_epochs 0 --output_dir out --log_dir out",
    )
    (line,) = map(json.loads, (scripts / "out" / "log.txt").read_text().splitlines())
    assert line["train_loss"] > 0 and "test_pixel-level F1" in line
    assert (scripts / "out" / "checkpoint-0.pth").is_file()

    (scripts / "sets.json").write_text(json.dumps({"tiny": str(tiny_dataset)}))
    torchrun("test.py", f"{COMMON} --test_data_json sets.json --checkpoint_path out --output_dir eval --log_dir eval")
    (line,) = map(json.loads, (scripts / "eval" / "tiny" / "log.txt").read_text().splitlines())
    assert 0 <= line["test_pixel-level F1"] <= 1
