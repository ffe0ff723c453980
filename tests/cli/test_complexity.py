import json

import pytest
import torch

from diffiml_plugin.cli.main import main
from diffiml_plugin.models import zoo as zoo_module
from diffiml_plugin.models.cost import COUNTS
from diffiml_plugin.models.zoo import RATIO

ROW = {
    "model": "DiffIML",
    "image_size": 64,
    "params_M": {"total": 7.7, "condition_encoder": 3.32},
    "GFLOPs": {"N=1": 0.123456, "N=5": None},
    "settings": {"encoder": "segformer_b0"},
}


@pytest.fixture
def asked(monkeypatch):
    module, asked = pytest.importorskip("diffiml_plugin.models.cost"), []
    monkeypatch.setattr(module, "complexity", lambda *arguments: asked.append(arguments) or ROW)
    return asked


def test_prints_a_table_and_writes_the_row(asked, tmp_path, capsys):
    path = tmp_path / "row.json"
    words = ["--model", "DiffIML", "--encoder", "segformer_b0", "--image_size", "64", "--json", str(path)]
    assert main(["complexity", *words]) == 0
    assert asked == [("DiffIML", {"encoder": "segformer_b0"}, 64, "whole")]
    assert json.loads(path.read_text()) == ROW
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert (
        ["condition", "encoder", "3.320"] in printed
        and ["N=1", "0.12"] in printed
        and ["N=5", "untraceable"] in printed
    )


def test_all_counts_are_shown_or_one(asked, monkeypatch, capsys):
    by_count = {name: {"N=1": number, "N=5": 5 * number} for number, name in enumerate(COUNTS, start=1)}
    monkeypatch.setitem(ROW, "GFLOPs_by_count", by_count)
    assert main(["complexity"]) == 0
    assert ["N=5", "5.00", "10.00", "15.00"] in [line.split() for line in capsys.readouterr().out.splitlines()]
    assert main(["complexity", "--count", "published"]) == 0
    assert asked[-1][-1] == "published" and ["N=1", "0.12"] in [
        line.split() for line in capsys.readouterr().out.splitlines()
    ]


def test_a_file_that_cannot_be_written_is_told_before_counting(asked, tmp_path, capsys):
    for path, why in ((tmp_path / "no" / "row.json", "No such file or directory"), (tmp_path, "is a folder")):
        assert main(["complexity", "--json", str(path)]) == 2
        assert why in capsys.readouterr().err
    assert not asked and not list(tmp_path.iterdir())


def test_the_zoo_is_printed_and_written_row_by_row(monkeypatch, tmp_path, capsys):
    ours = {**ROW, "GFLOPs": {"N=5": 0.5}, "settings": {"latent_codec": "lightvae-release"}, "fps": 12.345, RATIO: 1.0}
    theirs = {
        **ROW,
        "model": "PSCC_Net",
        "image_size": 256,
        "GFLOPs": {"N=1": None},
        "settings": {},
        "fps": 6.0,
        RATIO: 0.5,
    }
    failed = {
        **ROW,
        "model": "unet",
        "image_size": 512,
        "GFLOPs": {"N=1": None},
        "settings": {},
        "fps": None,
        "error": "no internet",
        RATIO: None,
    }
    path, calls = tmp_path / "rows.json", []

    def zoo(*arguments):
        calls.append(arguments)
        yield ours
        assert json.loads(path.read_text()) == [ours]
        yield from (theirs, failed)

    monkeypatch.setattr(zoo_module, "zoo", zoo)
    words = ["--encoder", "segformer_b0", "--zoo", "PSCC_Net", "unet", "--device", "cpu", "--json", str(path)]
    assert main(["complexity", *words]) == 0
    assert calls == [(["PSCC_Net", "unet"], {"encoder": "segformer_b0"}, None, torch.device("cpu"), "whole")]
    assert json.loads(path.read_text()) == [ours, theirs, failed]
    _, *lines = (line.split() for line in capsys.readouterr().out.splitlines())
    assert lines == [
        "DiffIML, LightVAE, N=5 (64²) 7.70 0.50 12.35 1.00 -".split(),
        "PSCC-Net (256²) 7.70 - 6.00 0.50 -".split(),
        "unet 7.70 - - - no internet".split(),
    ]


def test_the_zoo_takes_no_other_model(capsys):
    assert main(["complexity", "--zoo", "--model", "MVSSNet"]) == 2
    assert "say --zoo MVSSNet" in capsys.readouterr().err
