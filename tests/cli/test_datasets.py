import json

import pytest

from diffiml_plugin.cli.main import main


def test_list_and_describe(capsys):
    assert main(["datasets", "list"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 12 and rows[6].split() == ["COVERAGE", "100", "100", "no", "test", "test"]
    assert main(["datasets", "describe", "coverage"]) == 0
    printed = capsys.readouterr().out
    for fact in ("100 authentic, 100 tampered", "github.com/wenbihan/coverage", "Nforged.tif", "ForensicHub"):
        assert fact in printed


def test_prepare_then_check(miniatures, tmp_path, capsys):
    miniatures.fabricate("COVERAGE", tmp_path / "COVERAGE")
    assert main(["datasets", "prepare", "coverage", "--root", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "2 authentic, 2 tampered images (Table 1: 100, 100)" in printed and "1 masks corrected" in printed
    assert main(["datasets", "check", str(tmp_path / "COVERAGE.json"), "--json", str(tmp_path / "report.json")]) == 0
    assert "COVERAGE: count, harmless: " in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())["COVERAGE"]
    assert (report["tampered"], report["expected"]["tampered"], report["harmful"]) == (2, 100, 0)


def test_check_exits_with_1_if_a_score_would_be_wrong(miniatures, tiny_dataset, capsys):
    miniatures.save(tiny_dataset / "Gt" / "1.png", miniatures.GREY)
    assert main(["datasets", "check", str(tiny_dataset)]) == 1
    assert "tiny: size: " in capsys.readouterr().out


@pytest.mark.parametrize(("words", "told"), [
    (["describe"], "needs a name"),
    (["check"], "needs a list"),
    (["prepare", "COVERAGE"], "needs --root"),
    (["describe", "COVRAGE"], "did you mean 'COVERAGE'"),
    (["weigh"], "invalid choice"),
])
def test_mistakes_are_explained(words, told, capsys):
    assert main(["datasets", *words]) == 2
    assert told in capsys.readouterr().err
