import pytest

from diffiml_plugin.cli import config_file
from diffiml_plugin.cli.config_file import find_config, packaged_folder, read_config
from diffiml_plugin.cli.main import VERBS, main
from diffiml_plugin.errors import DiffIMLError


@pytest.fixture
def config(tmp_path):
    """Writes a YAML file and returns its path."""

    def write(text: str, name: str = "run.yaml"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


def test_values_take_the_type_of_their_flag(probe, config):
    path = config("data_path: 5\nlr: 1e-3\nif_resizing: true\nsizes: [64, 128]\ntta: true\nprior_rate: 3e-1\n")
    assert probe("--config", path) == 0
    args = probe.args
    assert (args.data_path, args.lr, args.if_resizing, args.sizes) == ("5", 1e-3, True, [64, 128])
    assert args.model_flags["tta"] is True and args.model_flags["prior_rate"] == 0.3
    assert args.model_flags_given == {"tta", "prior_rate"}


def test_flags_win_over_the_file(probe, config):
    path = config("data_path: ${UNSET_HERE}\nlr: 1e-3\ntta: true\n")
    assert probe("--config", path, "--data_path", "mine", "--lr", "1e-5", "--tta", "false") == 0
    assert (probe.args.data_path, probe.args.lr, probe.args.model_flags["tta"]) == ("mine", 1e-5, False)


def test_extends_is_relative_to_the_file_and_the_extending_file_wins(probe, config):
    config("data_path: base\nepochs: 1\nlr: 1.0\n", "deep/base.yaml")
    config("extends: deep/base\nepochs: 2\nlr: 2.0\n", "middle.yaml")
    path = config("extends: middle.yaml\nlr: 3.0\n")
    assert probe("--config", path) == 0
    assert (probe.args.data_path, probe.args.epochs, probe.args.lr) == ("base", 2, 3.0)


def test_a_circle_is_refused(config):
    path = config("extends: other.yaml\n")
    config("extends: run.yaml\n", "other.yaml")
    with pytest.raises(DiffIMLError, match=r"circle: .*run\.yaml -> .*other\.yaml -> .*run\.yaml"):
        read_config(str(path))


def test_variables_are_filled_in(probe, config, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", "/data")
    assert probe("--config", config("data_path: ${DATA_ROOT}/CASIAv2\n")) == 0
    assert probe.args.data_path == "/data/CASIAv2"


def test_null_leaves_the_default(probe, config):
    assert probe("--config", config("data_path: x\nepochs: null\nsizes:\n")) == 0
    assert (probe.args.epochs, probe.args.sizes) == (200, [512])


def test_the_file_names_the_model(probe, config):
    assert probe("--config", config("data_path: x\nmodel: diffiml\nencoder: resnet50\n")) == 0
    assert (probe.args.model, probe.args.model_flags["encoder"]) == ("DiffIML", "resnet50")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("encodr: x", "unknown key 'encodr'; did you mean 'encoder'?"),
        ("epohcs: 3", "unknown key 'epohcs'; did you mean 'epochs'?"),
        ("dry_run: true", "unknown key 'dry_run'"),
        ("data_path: ${UNSET_HERE}/x", "data_path: the variable UNSET_HERE"),
        ("lr: fast", "lr: 'fast' is no float"),
        ("epochs: 2.5", "epochs: 2.5 is no int"),
        ("epochs: [1, 2]", "epochs: expected one value"),
        ("device: cpuu", "did you mean 'cpu'?"),
        ("if_resizing: 3", "if_resizing: expected true or false, got 3"),
        ("tta: maybe", "tta: 'maybe' is neither true nor false"),
        ("extends: [a, b]", "extends: expected the name of one file"),
        ("- a\n- b", "expected lines of `flag: value`, got list"),
        ("a: [", "is not YAML"),
        ("", "expected lines of `flag: value`"),
    ],
)
def test_mistakes_name_the_file_and_the_key(probe, config, text, complaint, capsys):
    assert probe("--config", config(text)) == 2
    error = capsys.readouterr().err
    assert "run.yaml" in error and complaint in error
    assert probe.args is None


def test_of_several_files_the_later_one_wins(probe, config):
    mine = config("timestep_power: 5\nnum_inference_steps: 2\ndata_path: x\n")
    assert probe("--config", mine, "--preset", "paper", "--ensemble_size", "1") == 0
    flags = probe.args.model_flags
    assert (flags["timestep_power"], flags["num_inference_steps"], flags["ensemble_size"]) == (1, 8, 1)
    assert probe.args.data_path == "x"


@pytest.mark.parametrize("name", ["nowhere.yaml", "benco_configs/nowhere", ".", "benco_configs", "/"])
def test_a_missing_file_is_named(probe, name, capsys):
    assert probe("--config", name) == 2
    assert f"no config file {name}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["own", "own.yaml", "benco_configs/own.yaml", "benco_configs/own"])
def test_the_packages_own_files_are_found_from_anywhere(tmp_path, monkeypatch, name):
    monkeypatch.setattr(config_file, "packaged_folder", lambda: tmp_path / "package")
    (tmp_path / "package").mkdir()
    (own := tmp_path / "package" / "own.yaml").write_text("lr: 1.0")
    assert find_config(name, tmp_path / "elsewhere") == own
    (mine := tmp_path / "own.yaml").write_text("lr: 2.0")  # a file at hand comes first
    assert find_config("own", tmp_path) == mine


def test_a_misspelt_packaged_file_gets_the_nearest(tmp_path):
    for path in packaged_folder().glob("*.yaml"):
        with pytest.raises(DiffIMLError, match=f"did you mean '{path.stem}'"):
            find_config(path.stem + "x", tmp_path)


def test_here_is_the_folder_of_the_file_that_says_it(probe, config, tmp_path):
    config("data_path: ${HERE}/sets.json\n", "below/base.yaml")
    assert probe("--config", config("extends: below/base.yaml\n")) == 0
    assert probe.args.data_path == f"{tmp_path.resolve()}/below/sets.json"


@pytest.mark.parametrize("path", sorted(packaged_folder().glob("*.yaml")), ids=lambda path: path.stem)
def test_the_packages_own_files_suit_a_verb(path, monkeypatch, capsys):
    monkeypatch.setenv("DATA_ROOT", "/data")
    monkeypatch.setenv("STUDY_DATA", "/data")
    statuses = [main([verb, "--config", str(path), "--dry_run"]) for verb in VERBS]
    assert 0 in statuses, capsys.readouterr().err
