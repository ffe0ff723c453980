import pytest

from diffiml_plugin.cli import predict as verb
from diffiml_plugin.cli.command_line import parse_arguments
from diffiml_plugin.settings import CommonSettings


@pytest.mark.parametrize("failures, status", [([], 0), (["a file"], 1)])
def test_exit_status_tells_of_failures(monkeypatch, failures, status):
    room, given = "diffiml_plugin.prediction", {}
    monkeypatch.setattr(f"{room}.detector.Detector", lambda *arguments: given.setdefault("detector", arguments))
    monkeypatch.setattr(f"{room}.files.predict", lambda *arguments: failures)
    words = "x.jpg --checkpoint_path w --output_dir o --device cpu --model diffiml --tta".split()
    assert verb.run(parse_arguments("benco predict", verb, words)) == status
    assert given["detector"][:4] == ("w", CommonSettings(device="cpu"), "DiffIML", {"tta": True})
