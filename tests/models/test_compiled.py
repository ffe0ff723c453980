import logging
import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from diffiml_plugin.folders import user_cache
from diffiml_plugin.framework.adapters import DiffIMLModel
from diffiml_plugin.launch import autocast
from diffiml_plugin.models import compiled
from diffiml_plugin.models.compiled import speed_up

CPU = torch.device("cpu")
IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def build() -> DiffIMLModel:
    torch.manual_seed(0)
    return DiffIMLModel(encoder="segformer_b0", num_inference_steps=2, ensemble_size=2).eval()


@torch.no_grad()
def predict(model: DiffIMLModel, precision: str = "fp32") -> torch.Tensor:
    with autocast(CPU, precision):
        return model(IMAGE, noise_key=["a", "b"], uncertainty=True)["pred_mask"]


@pytest.fixture
def traced_only(monkeypatch):
    """Compiles without a code generator, which would take minutes."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


def test_compiled_predictions_are_the_same(traced_only, caplog):
    require_compiled_the_same(caplog)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_predictions_of_generated_code_are_the_same(caplog):
    torch._dynamo.reset()
    require_compiled_the_same(caplog)
    torch._dynamo.reset()


def require_compiled_the_same(caplog):
    model = build()
    plain = predict(model)
    speed_up(model, CPU, "fp32", "on")
    assert model.diffiml.denoiser.forward.__wrapped__
    torch.testing.assert_close(predict(model), plain, atol=1e-4, rtol=0)
    assert "without compiling" not in caplog.text


@pytest.mark.parametrize("own", [None, "/somewhere", os.path.join(tempfile.gettempdir(), "torchinductor_me")])
def test_what_is_compiled_is_not_kept_where_others_may_put_theirs(traced_only, monkeypatch, own):
    """Torch reads it as pickles, by default from a folder of /tmp."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", own or "")
    if own is None:
        monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    speed_up(build(), CPU, "fp32", "off")
    assert os.environ.get("TORCHINDUCTOR_CACHE_DIR") == own
    speed_up(build(), CPU, "fp32", "on")
    kept = own if own == "/somewhere" else str(*user_cache("").glob("compiled_*"))
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == kept  # what torch said there itself does not count


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_no_header_of_what_is_compiled_comes_from_where_others_may_put_theirs(tmp_path, child_environment):
    """Torch keeps those apart from what is compiled, for all threads."""
    code = """import torch; from threading import Thread; from diffiml_plugin.models import compiled
compiled._keep_what_is_compiled()
run = compiled._Parts(captures=False).add("a part", lambda x: x.sin() + 1)
thread = Thread(target=run, args=[torch.ones(8)]); thread.start(); thread.join()"""
    places = {name: str(tmp_path / name) for name in ("TMPDIR", "XDG_CACHE_HOME")}
    places["TORCHINDUCTOR_CACHE_DIR"] = ""
    (tmp_path / "TMPDIR").mkdir()
    ended = subprocess.run([sys.executable, "-c", code], env=child_environment | places, capture_output=True, text=True)
    assert ended.returncode == 0 and "without compiling" not in ended.stderr, ended.stderr
    assert list((tmp_path / "XDG_CACHE_HOME").rglob("*.so")), "it was compiled"
    assert not [path for path in (tmp_path / "TMPDIR").iterdir() if path.name.startswith("torchinductor")]


def test_auto_leaves_a_model_on_the_cpu_as_it_is():
    model = build()
    speed_up(model, CPU, "auto", "auto")
    assert not {"forward", "decode"} & {*vars(model.diffiml), *vars(model.diffiml.denoiser), *vars(model.diffiml.codec)}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_what_does_not_compile_runs_as_it_is_and_says_why(monkeypatch, caplog):
    def refuse(function, **options):
        def run(*inputs, **options):
            raise RuntimeError("no kernel for this shape\nmore")

        return run

    monkeypatch.setattr(torch, "compile", refuse)
    model = build()
    plain = predict(model)
    speed_up(model, CPU, "fp32", "on")
    with caplog.at_level(logging.WARNING):
        assert torch.equal(predict(model), plain)
        predict(model)
    reasons = [record.getMessage() for record in caplog.records]
    assert len(reasons) == 3 and all("RuntimeError: no kernel for this shape" in reason for reason in reasons)


def test_a_lost_device_is_not_taken_for_what_does_not_compile(monkeypatch, caplog):
    def fail(*inputs, **options):
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(torch, "compile", lambda function, **options: fail)
    model = build()
    speed_up(model, CPU, "fp32", "on")
    with pytest.raises(RuntimeError, match="unspecified launch failure"):
        predict(model)
    assert not caplog.records


def test_stored_half_precision_gives_what_autocast_gives():
    model = build()
    cast = predict(model, "bf16")
    speed_up(model, CPU, "bf16", "off")
    assert model.diffiml.denoiser.condition_in.weight.dtype == torch.bfloat16
    assert model.diffiml.denoiser.unet.out[0].weight.dtype == torch.float32  # a norm
    assert {parameter.dtype for parameter in model.diffiml.codec.parameters()} == {torch.float32}
    torch.testing.assert_close(predict(model, "bf16"), cast, atol=1e-6, rtol=0)
    assert (predict(model, "bf16") - predict(build())).abs().max() < 0.05


def test_other_sampling_settings_do_not_use_a_capture_of_these():
    method = build().diffiml
    method.forward = lambda *inputs: pytest.fail("captured for another N")
    method.with_settings(ensemble_size=1).predict(IMAGE, ["a", "b"])


def stand_in(forward):
    return SimpleNamespace(forward=forward, config="settings")


class RecordedGraph:
    """Stands for a CUDA graph: what was given when it was made, and how often it ran."""

    def __init__(self, function, *inputs):
        self.function, self.runs = function, 0

    def __call__(self, *inputs):
        self.runs += 1
        return self.function(*inputs)


def test_shapes_that_come_again_are_captured(monkeypatch):
    monkeypatch.setattr(compiled, "_Graph", RecordedGraph)
    parts, ways = compiled._Parts(captures=True), []
    run = compiled._Captured(stand_in(lambda image, noise, members: ways.append(parts.way) or (image,)), parts)
    shapes = [torch.zeros(8, 1), torch.zeros(8, 1), torch.zeros(8, 1), torch.zeros(3, 1)]
    for image in shapes:
        run(image, image)
    assert ways == ["plain", "each", "plain", "plain"]  # the third is replayed, the fourth another shape
    assert [graph.runs for graph in run.graphs.values()] == [2]
    for width in range(2, 8):  # many sizes: the networks compile for any
        run(torch.zeros(1, width), torch.zeros(1, width))
    assert ways[-1] == "any" and len(run.graphs) == 1
    run.method.config = "other settings"
    run(shapes[0], shapes[0])
    assert [graph.runs for graph in run.graphs.values()] == [2]  # they are captured apart


def test_a_failed_capture_leaves_predictions_plain(monkeypatch, caplog):
    def fail(function, *inputs):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(compiled, "_Graph", fail)
    method = stand_in(lambda image, noise, members: (image + 1,))
    run = compiled._Captured(method, compiled._Parts(captures=True))
    image = torch.zeros(2, 1)
    for _ in range(3):
        assert torch.equal(run(image, image)[0], image + 1)
    (record,) = caplog.records
    assert "without a CUDA graph" in record.getMessage() and "not permitted" in record.getMessage()


def test_a_shape_whose_graph_the_memory_does_not_hold_is_predicted_and_others_are_captured(monkeypatch, caplog):
    def too_large(function, image, noise):
        if len(image) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return RecordedGraph(function, image, noise)

    monkeypatch.setattr(compiled, "_Graph", too_large)
    parts, ways = compiled._Parts(captures=True), []
    run = compiled._Captured(stand_in(lambda image, noise, members: ways.append(parts.way) or (image,)), parts)
    for rows in (8, 8, 8, 4, 4):
        run(torch.zeros(rows, 1), torch.zeros(rows, 1))
    assert ways == ["plain", "each", "each", "plain", "each"] and [graph.runs for graph in run.graphs.values()] == [1]
    (record,) = caplog.records
    assert "8 images" in record.getMessage() and "2.00 GiB more were wanted" in record.getMessage()
