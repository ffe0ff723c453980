from types import SimpleNamespace

import pytest

from diffiml_plugin.cli import predict as verb


@pytest.mark.parametrize("failures, status", [([], 0), (["a file"], 1)])
def test_exit_status_tells_of_failures(monkeypatch, failures, status):
    module = pytest.importorskip("diffiml_plugin.prediction.files")
    given = {}
    monkeypatch.setattr(module, "Predictor", lambda *arguments: given.setdefault("predictor", arguments))
    monkeypatch.setattr(module, "predict", lambda *arguments: failures)
    args = SimpleNamespace(
        paths=["x.jpg"],
        checkpoint_path="w",
        output_dir="o",
        threshold=0.5,
        image_size=None,
        device="cpu",
        model="DiffIML",
        model_flags={"tta": True, "ensemble_size": 5},
        model_flags_given={"tta"},
    )
    assert verb.run(args) == status
    assert given["predictor"] == ("w", None, "cpu", "DiffIML", {"tta": True})
