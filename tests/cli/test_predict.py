from collections import Counter

import pytest

from diffiml_plugin.cli import predict as verb
from diffiml_plugin.cli.command_line import parse_arguments
from diffiml_plugin.settings import CommonSettings


@pytest.mark.parametrize("failed, status", [(0, 0), (1, 1)])
def test_exit_status_tells_of_failures(monkeypatch, capsys, failed, status):
    room, given = "diffiml_plugin.prediction", {}
    monkeypatch.setattr(f"{room}.detector.Detector", lambda *arguments: given.setdefault("detector", arguments))
    monkeypatch.setattr(f"{room}.files.predict", lambda *arguments: Counter({"tampered": 2, "failed": failed}))
    words = "x.jpg --checkpoint_path w --output_dir o --device cpu --model diffiml --tta".split()
    assert verb.run(parse_arguments("benco predict", verb, words)) == status
    assert "2 tampered" in capsys.readouterr().out
    assert given["detector"][:4] == ("w", CommonSettings(device="cpu"), "DiffIML", {"tta": True})
