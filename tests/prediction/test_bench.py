import json
from types import SimpleNamespace

import pytest
import torch

from diffiml_plugin.cli.main import main
from diffiml_plugin.models import speed
from diffiml_plugin.models.speed import Bench
from diffiml_plugin.prediction import bench as prediction_bench
from diffiml_plugin.prediction.bench import ratios
from diffiml_plugin.reports.bench import table


@pytest.fixture
def brief(monkeypatch):
    """One case of each kind, at sizes that take no time."""
    for name, value in {
        "DENOISERS": ("light",),
        "STEPS": (2,),
        "_FEWEST": 2,
        "_ROTATED": 2,
        "_PRODUCT": {"cpu": 64},
        "_COPIED": {"cpu": 4096},
        "_LINES": {"N": (1,), "S": (1, 2), "image side": (32, 64)},
    }.items():
        monkeypatch.setattr(speed, name, value)
    monkeypatch.setattr(prediction_bench, "_REFERENCE", ("light", 2))


@pytest.mark.slow
def test_everything_is_measured_and_kept(brief, tmp_path, capsys):
    """A model of the zoo that gives no mask is a row with an error, and ends nothing."""
    words = [
        "--encoder",
        "segformer_b0",
        "--image_size",
        "64",
        "--seconds",
        "0.001",
        "--device",
        "cpu",
        "--zoo",
        "SparseViTBackbone",
    ]
    assert main(["bench", *words, "--json", str(tmp_path / "b.json"), "--plot", str(tmp_path / "b.png")]) == 0
    results = json.loads((tmp_path / "b.json").read_text())
    *ours, peer = results["rows"]
    ways = ["fp32", "bf16"] if torch.ops.mkldnn._is_mkldnn_bf16_supported() else ["fp32"]
    expected = [(precision, n, 2, False) for precision in ways for n in (1, 5)]
    assert [(row["precision"], row["N"], row["S"], row["compiled"]) for row in ours] == expected
    assert all(results["ceilings"][f"{precision}_tflops"] > 0 for precision in ways)
    for row in ours:
        assert 0 < row["floor_ms"] and 0 < row["latency_ms"]["median"] <= row["latency_ms"]["p95"]
        assert row["images_per_second"] > 0 and row["peak_mb"] is None
    assert ours[0]["launches"] == ours[1]["launches"] and ours[0]["gflops"] < ours[1]["gflops"]
    assert peer["model"] == "SparseViTBackbone" and peer["error"]
    assert results["ratios"]["N5_over_N1"] > 0
    assert results["ratios"]["predict_over_bare"] > 0 and results["ratios"]["predict_over_bare_with_members"] > 0
    assert results["ratios"]["scoring_ms_per_image"] == results["shares_ms"]["scoring"] > 0
    assert {name: len(points) for name, points in results["lines"].items()} == {"N": 1, "S": 2, "image side": 2}
    assert (tmp_path / "b.png").stat().st_size > 0
    assert "predict_over_bare" in capsys.readouterr().out


def measured(seconds, calls):
    """The row of a model on a CPU whose calls took that long."""
    settings = SimpleNamespace(device=torch.device("cpu"), seconds_of=lambda _: seconds, median_of=lambda _: 1.0)
    return speed._measured(settings, calls)


def test_the_95th_percentile_is_no_slower_than_the_slowest_call():
    row = measured([1.0, 1.0, 1.0, 1.0, 2.0], lambda size: [lambda: None])
    assert row["latency_ms"] == {"median": 1000.0, "p95": pytest.approx(1800.0)}
    assert (row["images_per_second"], row["batch_size"]) == (2.0, 2)


def test_a_batch_that_the_memory_does_not_hold_is_said(caplog):
    def calls(size):
        if size > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return [lambda: None]

    assert measured([1.0] * 5, calls)["batch_size"] == 1
    assert "full with 2 images, 1 fit (2.00 GiB more were wanted)" in caplog.text


def test_a_lost_device_is_no_error_of_a_model_of_the_zoo(monkeypatch):
    def lost(*_):
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(speed, "build_untrained", lost)
    with pytest.raises(RuntimeError, match="unspecified launch failure"):
        list(speed.zoo_rows(Bench(torch.device("cpu"), zoo=("SparseViTBackbone",))))


def row(model, median, **settings):
    return {
        "model": model,
        "image_size": 512,
        "precision": "fp32",
        "compiled": False,
        "N": None,
        "S": None,
        "latency_ms": {"median": median, "p95": median},
        "images_per_second": 1.0,
        "batch_size": 1,
        "peak_mb": None,
        "launches": 7,
        **settings,
    }


OURS = [row("DiffIML", ms, denoiser="light", N=n, S=8) for n, ms in ((1, 10.0), (5, 15.0))]


def test_what_is_measured_before_a_device_is_lost_is_kept(monkeypatch, tmp_path, capsys):
    def rows(*_):
        yield OURS[0]
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(prediction_bench, "ceilings", lambda _: {"copy_gb_s": 1.0})
    monkeypatch.setattr(prediction_bench, "our_rows", rows)
    assert main(["bench", "--zoo", "--device", "cpu", "--json", str(tmp_path / "b.json")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: the device failed: CUDA error")
    assert json.loads((tmp_path / "b.json").read_text())["rows"] == OURS[:1]


def test_ratios_compare_like_with_like():
    peers = [row("A", 30.0), row("B", 20.0), row("C", 1.0, image_size=256), {**row("D", 1.0), "error": "no weights"}]
    assert ratios([*OURS, *peers], 512) == {
        "N5_over_N1": 1.5,
        "fastest_zoo_512_over_N1": 2.0,
        "fastest_zoo_512_over_fastest_N1": 2.0,
    }
    for compiled in (True, False):
        half = [{**mine, "precision": "bf16", "compiled": compiled} for mine in OURS]
        fast = [{**mine, "latency_ms": {"median": ms}} for mine, ms in zip(half, (2, 2.2), strict=True)]
        assert ratios([*OURS, *fast, *peers], 512) == {
            "N5_over_N1": pytest.approx(1.1),
            "fastest_zoo_512_over_N1": 2.0,
            "fastest_zoo_512_over_fastest_N1": 10.0,
        }
    assert set(ratios([], 512).values()) == {None}


def test_the_table_shows_errors_in_their_row():
    shown = str(
        table({"device": "CPU", "rows": [{**OURS[0], "floor_ms": 5.0}, {**row("D", 1.0), "error": "no weights"}]})
    )
    assert "no weights" in shown and "2.0" in shown.splitlines()[1]
