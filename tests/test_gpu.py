"""What only a CUDA device can show: the same figures there, in half precision, captured, trained, resumed, under NCCL.

`pytest -m gpu` runs these and the other tests with that mark; about two minutes, most of them for compiling.
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from diffiml_plugin import load
from diffiml_plugin.cli.main import main
from diffiml_plugin.evaluation import test as testing
from diffiml_plugin.evaluation.scores import score_batch
from diffiml_plugin.evaluation.sweep import sweep
from diffiml_plugin.framework.adapters import DiffIMLModel
from diffiml_plugin.launch import autocast, start_inference, to_device
from diffiml_plugin.ledger import Ledger
from diffiml_plugin.models.compiled import speed_up
from diffiml_plugin.prediction.journal import read_results
from diffiml_plugin.training.engine import train
from diffiml_plugin.training.settings import TrainSettings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
DIFFIML = {"encoder": "segformer_b0", "num_inference_steps": 2, "ensemble_size": 2}
IMAGE = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def build(device: torch.device, **settings) -> DiffIMLModel:
    torch.manual_seed(0)
    return DiffIMLModel(**{**DIFFIML, **settings}).eval().to(device)


@torch.no_grad()
def predict(model: DiffIMLModel, device: torch.device, precision: str = "fp32", **options) -> dict:
    with autocast(device, precision):
        return model(IMAGE.to(device), noise_key=["a", "b"], **options)


def warnings_of_ours(caplog) -> list[str]:
    """Without those of compilers, which say much while they work."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("diffiml_plugin")]


@pytest.fixture
def uncompiled(monkeypatch):
    """Captures without compiling before."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)


@pytest.mark.parametrize("settings", [{}, {"sampler": "ancestral", "tta": True}, {"edge_supervision": False}])
def test_a_prediction_is_the_cpus(settings):
    ours, expected = (
        predict(build(CUDA, **settings), CUDA, details=True),
        predict(build(CPU, **settings), CPU, details=True),
    )
    assert ours["pred_mask"].device.type == "cuda" and ours["visual_image"].keys() == expected["visual_image"].keys()
    for key in ("pred_mask", "pred_label", "uncertainty"):
        torch.testing.assert_close(ours[key].cpu(), expected[key], atol=1e-3, rtol=0, msg=key)


def test_the_release_denoiser_is_the_cpus():
    ours, expected = (predict(build(device, denoiser="release"), device)["pred_mask"].cpu() for device in (CUDA, CPU))
    torch.testing.assert_close(ours, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("encoder", ["srm_resnet18", "resnet50", "convnext_tiny"])
def test_other_encoders_predict_in_half_precision(encoder):
    model = build(CUDA, encoder=encoder)
    expected = predict(model, CUDA)["pred_mask"]
    speed_up(model, CUDA, "bf16", "off")
    assert (predict(model, CUDA, "bf16")["pred_mask"] - expected).abs().mean() < 0.02


def test_half_precision_is_near_and_stored_weights_change_nothing():
    expected = predict(build(CPU), CPU)["pred_mask"]
    model = build(CUDA)
    cast = predict(model, CUDA, "bf16")["pred_mask"]
    speed_up(model, CUDA, "bf16", "off")
    stored = predict(model, CUDA, "bf16")["pred_mask"]
    torch.testing.assert_close(stored, cast, atol=1e-3, rtol=0)
    assert stored.dtype == torch.float32 and (stored.cpu() - expected).abs().mean() < 0.02


def test_a_prediction_waits_for_no_value_of_the_device():
    model = build(CUDA).diffiml
    noise = model.draw_noise(["a", "b"], IMAGE.shape[-2:]).to(CUDA)
    image = IMAGE.to(CUDA)
    with torch.no_grad():
        model(image, noise)
        torch.cuda.set_sync_debug_mode("error")
        try:
            model(image, noise, members=True)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_captured_prediction_is_the_plain_one(uncompiled, precision, caplog):
    model = build(CUDA)
    plain = predict(model, CUDA, precision, uncertainty=True)
    speed_up(model, CUDA, precision, "on")
    for _ in range(4):
        replayed = predict(model, CUDA, precision, uncertainty=True)
    assert not warnings_of_ours(caplog) and len(model.diffiml.forward.graphs) == 1
    for key in plain:
        torch.testing.assert_close(replayed[key], plain[key], atol=1e-3 if precision == "fp32" else 2e-2, rtol=0)
    with torch.no_grad(), autocast(CUDA, precision):
        shifted = model(IMAGE.to(CUDA) + 1, noise_key=["c", "d"], uncertainty=True)["pred_mask"]
        again = model(IMAGE.to(CUDA), noise_key=["a", "b"], uncertainty=True)["pred_mask"]
    kept = replayed["pred_mask"]  # not overwritten by later replays
    assert (again - kept).abs().max() < 0.1 * (shifted - kept).abs().max()


def test_a_compiled_and_captured_prediction_is_the_cpus(caplog):
    expected = predict(build(CPU), CPU)["pred_mask"]
    model = build(CUDA)
    speed_up(model, CUDA, "fp32", "auto")
    for _ in range(3):
        compiled = predict(model, CUDA)["pred_mask"].cpu()
    assert not warnings_of_ours(caplog) and len(model.diffiml.forward.graphs) == 1
    torch.testing.assert_close(compiled, expected, atol=1e-3, rtol=0)


def test_records_are_the_cpus():
    generator = torch.Generator().manual_seed(0)
    mask = (torch.rand(2, 1, 128, 128, generator=generator) < 0.2).double()
    mask[1] = 0
    shape_mask = torch.ones_like(mask)
    shape_mask[..., 100:] = 0
    batch = {"name": ["a", "b"], "index": torch.arange(2), "label": torch.tensor([1, 0]), "mask": mask * shape_mask}
    batch["shape_mask"] = shape_mask
    output = {"pred_mask": (torch.rand(mask.shape, generator=generator) * 50).round() / 50, "pred_label": torch.rand(2)}
    here, there = score_batch(output, batch, True), score_batch(to_device(output, CUDA), to_device(batch, CUDA), True)
    for mine, other in zip(there, here, strict=True):
        assert mine.keys() == other.keys()
        for key, value in other.items():
            assert mine[key] == (
                value if value is None or isinstance(value, str) else pytest.approx(value, abs=1e-6)
            ), key


def test_two_devices_in_one_process():
    assert [start_inference(device).device.type for device in ("cpu", "cuda", "cpu", "auto")] == ["cpu", "cuda"] * 2


def test_predict_writes_what_the_cpu_writes(uncompiled, tmp_path):
    """`benco predict` of three photographs by the model that travels with the package; the third is a replay."""
    random = np.random.default_rng(0)
    for number in range(4):
        pixels = random.integers(0, 256, (20, 24, 3), np.uint8)
        picture = Image.fromarray(pixels).resize((240, 200))
        picture.paste(Image.fromarray(random.integers(0, 256, (60, 60, 3), np.uint8)), (40 * number, 50))
        (tmp_path / "in").mkdir(exist_ok=True)
        picture.save(tmp_path / "in" / f"{number}.png")

    def masks(device: str, *flags: str) -> np.ndarray:
        output = tmp_path / "_".join((device, *flags)).replace("-", "")
        assert main(["predict", str(tmp_path / "in"), "--output_dir", str(output), "--device", device, *flags]) == 0
        assert not [entry for entry in read_results(output) if "error" in entry]
        return np.stack([np.array(Image.open(output / f"{number}_mask.png")) for number in range(4)]).astype(int)

    expected = masks("cpu")
    assert np.abs(masks("cuda", "--precision", "fp32", "--compile", "off") - expected).max() <= 2
    assert np.abs(masks("cuda", "--precision", "fp32") - expected).max() <= 2
    assert np.abs(masks("cuda") - expected).mean() < 3  # fp16: of 255


def test_a_photo_is_read_into_pinned_memory():
    batch, _ = load("small", device="cuda").read(np.zeros((64, 96, 3), np.uint8)).prepared
    assert {"image", "noise"} <= {key for key, value in batch.items() if torch.is_tensor(value) and value.is_pinned()}


@pytest.fixture
def settings(tiny_dataset, tmp_path) -> TrainSettings:
    return TrainSettings(
        data_path=str(tiny_dataset / "list.json"),
        test_data_path=str(tiny_dataset / "list.json"),
        image_size=64,
        batch_size=2,
        total_batch_size=4,
        test_batch_size=2,
        epochs=2,
        test_period=2,
        num_workers=2,
        device="cuda",
        output_dir=str(tmp_path / "run"),
    )


def log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_training_resumes_where_it_stopped(settings, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    through = train(settings, DIFFIML).folder
    broken = replace(settings, output_dir=settings.output_dir + "_broken")
    train(replace(broken, epochs=1, test_period=1), DIFFIML)
    state = Path(broken.output_dir, "training_state.pt")
    stored = torch.load(state)
    stored["settings"] |= {"epochs": 2, "test_period": 2}
    torch.save(stored, state)
    Ledger(state.parent).enter(state, state)
    resumed = train(replace(broken, resume="auto"), DIFFIML).folder
    assert [record["epoch"] for record in log(resumed)] == [0, 1]
    ours, theirs = (load_file(folder / "last.safetensors") for folder in (resumed, through))
    assert max((ours[key].float() - theirs[key].float()).abs().max() for key in theirs) < 5e-3


def test_training_starts_test_and_sweep_go_through(settings, tmp_path, caplog):
    folder = train(replace(settings, ema_decay=0.9, precision="bf16"), DIFFIML).folder
    assert all(np.isfinite(value) for record in log(folder) for value in record["loss"].values())
    tested = testing.TestSettings(
        checkpoint_path=str(folder / "last.safetensors"),
        test_data_path=settings.test_data_path,
        output_dir=str(tmp_path / "test"),
        test_batch_size=2,
        num_workers=2,
        compile="off",
    )
    expected = testing.test(replace(tested, device="cpu"))["mean"]
    for number, changed in enumerate(({}, {"precision": "bf16"})):
        found = testing.test(replace(tested, output_dir=str(tmp_path / f"cuda{number}"), device="cuda", **changed))[
            "mean"
        ]
        assert found.keys() == expected.keys()
        assert found["pixel-level F1"] == pytest.approx(expected["pixel-level F1"], abs=0.05)
    swept = sweep(
        replace(tested, output_dir=str(tmp_path / "sweep"), device="cuda"), vary=["ensemble_size=1,2"], noise_seeds=1
    )
    assert [row["value"] for row in swept["rows"]] == [1, 2]


def test_one_process_of_one_gpu_by_flag(settings):
    arguments = ["--device", "cuda", "--gpus", "1", "--image_size", "64", "--epochs", "1", "--num_workers", "0"]
    arguments += ["--batch_size", "2", "--total_batch_size", "2", "--encoder", "segformer_b0"]
    assert main(["train", "--data_path", settings.data_path, "--output_dir", settings.output_dir, *arguments]) == 0
    assert len(log(Path(settings.output_dir))) == 1


def test_nccl_with_one_rank(settings, child_environment):
    """The process group, SyncBatchNorm and DDP of several GPUs, on one."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=1",
        "-m",
        "diffiml_plugin",
    ]
    arguments = ["train", "--data_path", settings.data_path, "--output_dir", settings.output_dir, "--image_size", "64"]
    arguments += ["--epochs", "1", "--batch_size", "2", "--total_batch_size", "4", "--num_workers", "0"]
    arguments += ["--encoder", "segformer_b0", "--test_data_path", settings.test_data_path, "--test_period", "1"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=child_environment)
    assert done.returncode == 0, done.stderr[-2000:]
    (record,) = log(Path(settings.output_dir))
    assert record["test"] and all(np.isfinite(value) for value in record["loss"].values())
