import inspect
from dataclasses import fields

import pytest

from diffiml_plugin.cli import sweep, test
from diffiml_plugin.cli.arguments import add_model_arguments, parse_arguments
from diffiml_plugin.cli.config_file import packaged_folder
from diffiml_plugin.cli.main import main
from diffiml_plugin.cli.parser import Parser
from diffiml_plugin.method.config import DiffIMLConfig


def test_every_setting_of_the_method_is_a_flag_with_its_default(probe):
    assert probe("--data_path", "x") == 0
    expected = {field.name: field.default for field in fields(DiffIMLConfig)}
    assert probe.args.model_flags == expected | {"encoder_weights": "none", "codec_weights": "default"}
    assert probe.args.model == "DiffIML" and probe.args.model_flags_given == set()
    assert not set(vars(probe.args)) & set(expected)


def test_flags_of_diffiml_are_its_constructors():
    from diffiml_plugin.framework.adapters import DiffIMLModel

    parser = Parser()
    add_model_arguments(parser, "DiffIML")
    parameters = inspect.signature(DiffIMLModel).parameters
    flags = {key: action.default for key, action in parser.settings().items() if key != "model"}
    assert flags == {name: parameter.default for name, parameter in parameters.items()}


def test_model_flags_are_coerced_and_the_given_ones_named(probe):
    assert (
        probe("--data_path", "x", "--prior_rate", "1e-1", "--ensemble_size=3", "--edge_supervision", "false", "--tta")
        == 0
    )
    flags = probe.args.model_flags
    assert (flags["prior_rate"], flags["ensemble_size"]) == (0.1, 3)
    assert flags["edge_supervision"] is False and flags["tta"] is True
    assert probe.args.model_flags_given == {"prior_rate", "ensemble_size", "edge_supervision", "tta"}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--dta_path", "x"], "did you mean '--data_path'?"),
        (["--data_path", "x", "--encodr", "y"], "did you mean '--encoder'?"),
        (["--data_path", "x", "--data", "y"], "unknown flag --data;"),  # no abbreviations
        (["--data_path", "x", "--tta", "maybe"], "invalid true_or_false value: 'maybe'"),
        (["--data_path", "x", "--epochs", "many"], "invalid int value: 'many'"),
        (["--data_path", "x", "--device", "gpu"], "choose from"),
        ([], "--data_path"),
    ],
)
def test_wrong_flags_are_explained(probe, words, complaint, capsys):
    assert probe(*words) == 2
    assert complaint in capsys.readouterr().err
    assert probe.args is None


def test_name_of_our_model_may_be_lower_case(probe):
    assert probe("--data_path", "x", "--model", "diffiml") == 0
    assert probe.args.model == "DiffIML"


@pytest.mark.parametrize(("typed", "meant"), [("MVSNet", "MVSSNet"), ("DifIML", "DiffIML")])
def test_misspelt_model_gets_the_nearest(probe, typed, meant, capsys):
    assert probe("--data_path", "x", "--model", typed) == 2
    assert f"did you mean {meant!r}" in capsys.readouterr().err


def test_flags_of_a_model_of_the_zoo(probe):
    assert probe("--data_path", "x", "--model", "mvssnet", "--pretrained_base", "false", "--n_input", "3") == 0
    assert probe.args.model == "MVSSNet"
    assert probe.args.model_flags_given == {"pretrained_base", "n_input"}
    assert probe.args.model_flags["pretrained_base"] is False and probe.args.model_flags["n_input"] == 3


def test_every_registered_model_has_a_parser():
    from diffiml_plugin.framework.imdlbenco import MODELS

    for name in list(MODELS.module_dict):
        parser = Parser()
        add_model_arguments(parser, name)
        parser.format_help()


def test_a_flag_of_the_verb_is_not_the_models(probe, monkeypatch):
    from diffiml_plugin.framework.imdlbenco import MODELS

    def net(epochs: int = 1, depth: int | None = None, layers: list = (1, 2), eager=False):
        """A constructor with an argument of every sort."""

    monkeypatch.setitem(MODELS.module_dict, "ProbeNet", net)
    assert probe("--data_path", "x", "--model", "probenet", "--epochs", "7", "--depth", "4", "--eager") == 0
    assert probe.args.epochs == 7
    assert probe.args.model_flags == {"depth": 4, "eager": True}


def test_a_protocols_file_serves_other_models_too(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    assert main(["train", "--config", "mvss/train", "--model", "MVSSNet", "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert "model: MVSSNet" in printed and f"data_path: {tmp_path}" in printed and "encoder_weights" not in printed
    assert main(["test", "--config", "mvss/test", "--model", "SegFormerIML", "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert "tta: true" in printed and f"test_data_path: {packaged_folder()}/mvss/sets.json" in printed
    assert main(["train", "--preset", "paper", "--config", "ablation/table5#SegFormerIML", "--dry_run"]) == 0
    assert "model: SegFormerIML" in capsys.readouterr().out
    for text in ("model: MVSSNet\ntta: true\n", "extends: ablation/table5#SegFormerIML\ntta: true\n"):
        (tmp_path / "mine.yaml").write_text(text)
        assert main(["train", "--config", str(tmp_path / "mine.yaml"), "--dry_run"]) == 2  # it names its model itself
        assert "unknown key 'tta'" in capsys.readouterr().err


def test_repeated_vary_adds_up_and_wins_over_the_config(tmp_path):
    (tmp_path / "c.yaml").write_text("vary: [tta=true]\n")
    words = ["--config", str(tmp_path / "c.yaml"), "--vary", "ensemble_size=1", "--vary", "sampler=ddim"]
    assert parse_arguments("benco sweep", sweep, words).vary == ["ensemble_size=1", "sampler=ddim"]


def test_the_frameworks_name_of_the_test_sets_wins_over_the_config_too(tmp_path):
    for key in ("test_data_path", "test_data_json"):
        (tmp_path / "c.yaml").write_text(f"{key}: a.json\n")
        words = ["--config", str(tmp_path / "c.yaml")]
        assert parse_arguments("benco test", test, words).test_data_path == "a.json"
        for flag in ("--test_data_json", "--test_data_path"):
            assert parse_arguments("benco test", test, [*words, flag, "b.json"]).test_data_path == "b.json"
