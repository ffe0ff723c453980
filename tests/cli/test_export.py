from diffiml_plugin.cli import export as verb
from diffiml_plugin.cli.command_line import parse_arguments
from diffiml_plugin.prediction.export import Exported
from diffiml_plugin.settings import CommonSettings


def test_it_says_what_it_wrote_and_how_far_it_is_off(monkeypatch, tmp_path, capsys):
    given = []
    file = tmp_path / "step.pt2"
    file.write_bytes(bytes(1500))
    answer = Exported([file], 2e-6)
    monkeypatch.setattr("diffiml_plugin.prediction.export.export", lambda *arguments: given.append(arguments) or answer)
    words = "--checkpoint_path w --format torch_export --output_dir o --tta --ensemble_size 2".split()
    assert verb.run(parse_arguments("benco export", verb, words)) == 0
    assert given == [("w", "torch_export", "o", CommonSettings(), "", {"tta": True, "ensemble_size": 2})]
    assert capsys.readouterr().out.splitlines() == [
        f"{file}: 0.002 MB",
        "probabilities differ from the model's by 2e-06 at most",
    ]
