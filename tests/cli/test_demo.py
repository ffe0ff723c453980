from pathlib import Path
from types import SimpleNamespace

import pytest

from diffiml_plugin.cli import demo as verb
from diffiml_plugin.cli.command_line import parse_arguments


def test_defaults_stand_in_the_config_file_and_flags_win():
    args = parse_arguments("benco demo", verb, ["--output_dir", "o", "--epochs", "3", "--encoder", "segformer_b1"])
    assert args.image_size < 512 and args.epochs == 3 and args.model_flags["encoder"] == "segformer_b1"


def test_last_f1_printed_is_the_one_after_training(monkeypatch, capsys):
    module = pytest.importorskip("diffiml_plugin.demo.demo")
    result = SimpleNamespace(before=0.125, constant=0.25, after=0.625, report=Path("o/report.html"))
    monkeypatch.setattr(module, "demo", lambda *arguments: result)
    assert verb.run(parse_arguments("benco demo", verb, ["--output_dir", "o"])) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines] == ["0.1250", "0.2500", "0.6250", "o/report.html"]
    assert [line for line in lines if "F1" in line][-1].startswith("F1 after training")
