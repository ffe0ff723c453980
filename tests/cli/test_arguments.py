import inspect
from dataclasses import fields

import pytest

from diffiml_plugin.cli import predict, sweep, test
from diffiml_plugin.cli.arguments import add_model_arguments
from diffiml_plugin.cli.command_line import parse_arguments
from diffiml_plugin.cli.config_file import packaged_folder
from diffiml_plugin.cli.main import main
from diffiml_plugin.cli.parser import Parser
from diffiml_plugin.method.config import ARCHITECTURE_FIELDS, TRAINING_FIELDS, DiffIMLConfig
from diffiml_plugin.training.settings import TrainSettings


def test_every_setting_of_the_method_is_a_flag_with_its_default(probe):
    assert probe("--data_path", "x") == 0
    expected = {field.name: field.default for field in fields(DiffIMLConfig)}
    expected |= {"encoder_weights": "none", "codec_weights": "default"}
    assert expected == {name: probe.args.settings[name].value for name in expected}
    assert {probe.args.settings[name].source for name in expected} == {"default"}
    assert probe.args.model == "DiffIML" and probe.args.model_flags == {}
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
    assert flags["edge_supervision"] is False and flags["tta"] is True and len(flags) == 4


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
    assert probe.args.model_flags == {"pretrained_base": False, "n_input": 3}


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


def help_of(verb: str, capsys) -> dict[str, list[str]]:
    """The flags that `--help` shows, by title."""
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    assert end.value.code == 0
    titles: dict[str, list[str]] = {}
    for line in capsys.readouterr().out.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            shown = titles.setdefault(line[:-1], [])
        elif line.startswith("  -") and titles:
            shown.append(line.split()[1 if line.startswith("  -h") else 0].lstrip("-"))
    return titles


FIXED = {*ARCHITECTURE_FIELDS, *TRAINING_FIELDS, "encoder_weights", "codec_weights"}


@pytest.mark.parametrize("verb", ["predict", "test", "robust", "sweep"])
def test_help_shows_nothing_that_a_checkpoint_has_fixed(verb, capsys):
    shown = {flag for flags in help_of(verb, capsys).values() for flag in flags}
    sampling = {field.name for field in fields(DiffIMLConfig)} - FIXED
    assert sampling <= shown and not shown & {*FIXED, "if_predict_label"}


def test_what_help_does_not_show_is_taken_all_the_same(capsys):
    words = ["a.png", "--encoder", "resnet18", "--preset", "paper"]  # of a file of the framework's, which does not say
    flags = parse_arguments("benco predict", predict, words).model_flags
    assert (flags["encoder"], flags["prior_rate"], flags["ensemble_size"]) == ("resnet18", 0.1, 5)


def test_help_shows_nothing_that_cannot_change_the_cost(capsys):
    shown = {flag for flags in help_of("complexity", capsys).values() for flag in flags}
    assert {"encoder", "denoiser", "num_inference_steps", "tta"} <= shown
    assert not shown & {*TRAINING_FIELDS, "encoder_weights", "ensemble_size", "noise_seed"}


def test_the_flags_of_training_stand_under_titles(capsys):
    titles = help_of("train", capsys)
    assert titles["options"] == ["help", "config", "dry_run"]
    assert titles["the model"] == ["model", "checkpoint_path"]
    assert set(titles["settings of DiffIML: architecture"]) == set(ARCHITECTURE_FIELDS)
    assert set(titles["settings of DiffIML: training"]) == {*TRAINING_FIELDS, "encoder_weights", "codec_weights"}
    assert max(map(len, titles.values())) <= 12 and "" not in titles
    settings = {field.name for field in fields(TrainSettings)} | {field.name for field in fields(DiffIMLConfig)}
    assert settings <= {flag for flags in titles.values() for flag in flags}


def test_help_shows_what_a_file_sets_as_the_default(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("epochs: 7\n")
    with pytest.raises(SystemExit):
        main(["train", "--config", str(tmp_path / "mine.yaml"), "--help"])
    assert "passes over the training set (default: 7)" in capsys.readouterr().out
