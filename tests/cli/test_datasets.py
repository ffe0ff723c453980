import json

import pytest

from diffiml_plugin.cli.main import main


def test_list_and_describe(capsys):
    assert main(["datasets", "list"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert (
        len(rows) == 18
        and "NIST16_1024, IMD_20_1024" in rows[17]
        and rows[6].split() == ["COVERAGE", "100", "100", "no", "test", "test"]
    )
    assert main(["datasets", "describe", "coverage"]) == 0
    printed = capsys.readouterr().out
    assert main(["datasets", "describe", "NIST16_1024"]) == 0
    variant = capsys.readouterr().out
    assert "NIST16_1024, of NIST16: images whose longer side is above 1024" in variant and "mfc.nist.gov" in variant
    for fact in ("100 authentic, 100 tampered", "github.com/wenbihan/coverage", "Nforged.tif", "ForensicHub"):
        assert fact in printed


def test_prepare_then_check(miniatures, tmp_path, capsys):
    miniatures.fabricate("COVERAGE", tmp_path / "COVERAGE")
    assert main(["datasets", "prepare", "coverage", "--root", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "2 authentic, 2 tampered images (published: 100, 100)" in printed and "1 masks corrected" in printed
    assert main(["datasets", "check", str(tmp_path / "COVERAGE.json"), "--json", str(tmp_path / "report.json")]) == 0
    assert "COVERAGE: count, harmless: " in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())["COVERAGE"]
    assert (report["tampered"], report["expected"]["tampered"], report["harmful"]) == (2, 100, 0)


def test_prepare_all(miniatures, tmp_path, capsys):
    miniatures.fabricate("NIST16", tmp_path / "NC2016")
    miniatures.fabricate("CASIAv2", tmp_path / "casia2.0")
    (tmp_path / "COVERAGE").mkdir()
    assert main(["datasets", "prepare", "all", "--root", str(tmp_path)]) == 1
    assert {path.stem for path in tmp_path.glob("*.json")} == {"CASIAv2", "CASIAv2_tampered", "NIST16"}
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("warning: left out, since not there: FantasticReality, ") and "NIST16" not in told[0]
    assert "holds COVERAGE in no known layout" in told[1] and told[2].endswith(" reasons above: COVERAGE")

    (tmp_path / "COVERAGE").rmdir()
    miniatures.fabricate("compRAISE", tmp_path / "compRAISE")
    assert main(["datasets", "prepare", "all", "--root", str(tmp_path), "--tampered_only"]) == 0
    assert (tmp_path / "NIST16_tampered.json").exists() and not (tmp_path / "compRAISE.json").exists()


def test_empty_masks_are_counted(miniatures, tmp_path, capsys):
    for part, pixels in (("Tp", miniatures.GREY), ("Gt", miniatures.GREY * 0)):
        miniatures.save(tmp_path / part / "a.png", pixels)
    assert main(["datasets", "prepare", "mine", "--root", str(tmp_path)]) == 0
    assert "0 masks corrected, 1 empty ones kept, 0 files left out" in capsys.readouterr().out


def test_check_exits_with_1_if_a_score_would_be_wrong(miniatures, tiny_dataset, capsys):
    miniatures.save(tiny_dataset / "Gt" / "1.png", miniatures.GREY)
    assert main(["datasets", "check", str(tiny_dataset)]) == 1
    assert "tiny: size: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["describe"], "needs a name"),
        (["check"], "needs a list"),
        (["prepare", "COVERAGE"], "needs --root"),
        (["prepare", "all", "--root", "."], "holds no folder of a dataset; expected any of CASIAv2, CASIA2, "),
        (["prepare", "all", "--root", ".", "--output", "x.json"], "--output x.json is one list"),
        (["describe", "COVRAGE"], "did you mean 'COVERAGE'"),
        (["weigh"], "invalid choice"),
    ],
)
def test_mistakes_are_explained(words, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["datasets", *words]) == 2
    assert told in capsys.readouterr().err
