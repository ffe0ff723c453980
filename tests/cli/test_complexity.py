import json

import pytest

from diffiml_plugin.cli.main import main

ROW = {
    "model": "DiffIML", "image_size": 64, "params_M": {"total": 7.7, "condition_encoder": 3.32},
    "GFLOPs": {"N=1": 0.123456, "N=5": None}, "settings": {"encoder": "segformer_b0"},
}


@pytest.fixture
def asked(monkeypatch):
    module, asked = pytest.importorskip("diffiml_plugin.bench.complexity"), []
    monkeypatch.setattr(module, "complexity", lambda *arguments: asked.append(arguments) or ROW)
    return asked


def test_prints_a_table_and_writes_the_row(asked, tmp_path, capsys):
    path = tmp_path / "row.json"
    words = ["--model", "DiffIML", "--encoder", "segformer_b0", "--image_size", "64", "--json", str(path)]
    assert main(["complexity", *words]) == 0
    assert asked == [("DiffIML", {"encoder": "segformer_b0"}, 64)]
    assert json.loads(path.read_text()) == ROW
    printed = capsys.readouterr().out
    assert "condition encoder      3.320" in printed and "0.12" in printed and "untraceable" in printed


def test_a_folder_that_is_not_there(asked, tmp_path, capsys):
    assert main(["complexity", "--json", str(tmp_path / "no" / "row.json")]) == 2
    assert "No such file or directory" in capsys.readouterr().err
