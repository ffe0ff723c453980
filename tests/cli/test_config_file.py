import pytest
import yaml

from diffiml_plugin.cli import config_file
from diffiml_plugin.cli.config_file import Place, find_config, package_index, read_config
from diffiml_plugin.cli.main import main
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
    assert args.model_flags == {"tta": True, "prior_rate": 0.3}


@pytest.mark.parametrize("word", ["2024_1", "0x10", "0b11", "+5", "-5"])
def test_a_word_that_yaml_takes_for_a_number_stays_as_it_is_written(probe, config, word):
    number = yaml.safe_load(word)
    assert probe("--config", config(f"data_path: {word}\nepochs: {abs(number)}\nsizes: [1_024, 64]\n")) == 0
    args = probe.args
    assert (args.data_path, args.epochs, args.sizes) == (word, abs(number), [1024, 64])
    assert type(args.epochs) is int


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
        ("extends: [a, b]", "extends: expected one name"),
        ("- a\n- b", "expected lines of `flag: value`, got ['a', 'b']"),
        ("data_path: 1.50", "data_path: 1.5 is no word to YAML; put it in quotes"),
        ("data_path: true", "data_path: True is no word to YAML"),
        ("data_path: 2001-01-01 10:00:00", "is no word to YAML"),
        ("sizes: [512, ~]", "sizes: None is no word to YAML"),
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


def test_what_one_verb_alone_takes(probe, config, capsys):
    text = "only: {train: {epochs: 60}, probe: {data_path: x}}\n"
    assert read_config(str(config(text)), "train")["epochs"].value == 60
    assert read_config(str(config(text)), "test") == {}
    assert main(["train", "--preset", "release", "--edge_mask_width", "5", "--data_path", "x", "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert "epochs: 60" in said and "warmup_epochs: 2" in said and "edge_mask_width: 5" in said
    assert main(["complexity", "--preset", "release", "--dry_run"]) == 0
    assert "denoiser: release" in capsys.readouterr().out
    assert probe("--config", config("only: 3\n")) == 2
    assert "only: expected lines of `verb: {flag: value, ...}`, got 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "epochs", "tta"),
    [
        ("family#plain", 60, False),
        ("family#tested", 60, True),  # what it says to one verb takes away nothing that is said to another
        ("family#both", 60, True),
        ("family#long", 120, False),  # a row wins, however it says so
        ("family#longer", 240, False),
        ("family#longest", 480, False),
        ("run", 60, True),
        ("short", 1, True),
    ],
)
def test_what_one_verb_alone_takes_is_of_the_place_that_says_it(config, name, epochs, tta):
    config(
        "tta: false\nepochs: 200\nonly: {train: {epochs: 60}}\n"
        "rows:\n  plain:\n  tested: {only: {test: {tta: true}}}\n  both: {extends: tested, only: {train: {lr: 1.0}}}\n"
        "  long: {epochs: 120}\n  longer: {extends: long, only: {train: {epochs: 240}}}\n"
        "  longest: {extends: longer, epochs: 480}\n",
        "family.yaml",
    )
    folder = config("extends: family#plain\nonly: {test: {tta: true}}\n").parent
    config("extends: run\nepochs: 1\n", "short.yaml")
    assert read_config(f"{folder}/{name}", "train")["epochs"].value == epochs
    assert read_config(f"{folder}/{name}", "test")["tta"].value is tta


@pytest.mark.parametrize("name", ["nowhere.yaml", "benco_configs/nowhere", ".", "benco_configs", "/"])
def test_a_missing_file_is_named(probe, name, capsys):
    assert probe("--config", name) == 2
    assert f"no config file {name}" in capsys.readouterr().err


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An empty folder in place of the package's own configurations."""
    folder = tmp_path / "package"
    folder.mkdir()
    monkeypatch.setattr(config_file, "packaged_folder", lambda: folder)
    return folder


@pytest.mark.parametrize("name", ["own", "own.yaml", "benco_configs/own.yaml", "benco_configs/own"])
def test_the_packages_own_files_are_found_from_anywhere(tmp_path, package, name):
    (own := package / "own.yaml").write_text("lr: 1.0")
    assert find_config(name, tmp_path / "elsewhere") == Place(own)


@pytest.mark.parametrize("name", ["own", "own.yaml", "old_short", "family#short", "benco_configs/own"])
def test_a_file_at_hand_of_a_configurations_name_is_named_as_a_file(tmp_path, package, name):
    for folder in (package, tmp_path, tmp_path / "benco_configs"):
        folder.mkdir(exist_ok=True)
        for file in ("own", "old_short", "family"):
            (folder / f"{file}.yaml").write_text(FAMILY if file == "family" else "lr: 2.0")
    path, _, row = name.partition("#")
    mine = Place(tmp_path / f"{path.removesuffix('.yaml')}.yaml", row)
    if name != "own.yaml":
        with pytest.raises(DiffIMLError, match=f"{name} is {mine.file} and a configuration of the package"):
            find_config(name, tmp_path)
    for spelling in (f"./{name}", mine.file if not row else f"{mine.file}#{row}"):
        assert find_config(str(spelling), tmp_path) == mine


FAMILY = """
data_path: shared
epochs: 1
rows:
  plain:
  short: {epochs: 2, formerly: old_short}
  short/tiny: {extends: short, lr: 2.0, sizes: [8], about: smallest}
"""


def test_a_row_wins_over_its_family_and_over_the_row_that_it_extends(probe, config):
    path = config("extends: family.yaml#short/tiny\nlr: 3.0\ndata_path: ${ROW:-none}\n")
    config(FAMILY + "  named: {data_path: '${ROW}'}\n", "family.yaml")
    for name, expected in (
        ("family.yaml#plain", ("shared", 1, 1e-4, [512])),
        ("family#short", ("shared", 2, 1e-4, [512])),
        ("family#short/tiny", ("shared", 2, 2.0, [8])),
        ("family#named", ("named", 1, 1e-4, [512])),
        (path.name, ("none", 2, 3.0, [8])),
    ):
        assert probe("--config", path.parent / name) == 0
        assert (probe.args.data_path, probe.args.epochs, probe.args.lr, probe.args.sizes) == expected


@pytest.mark.parametrize(
    ("text", "name", "complaint"),
    [
        (FAMILY, "run.yaml", "run.yaml holds several configurations; name one, run#ROW: plain, short, short/tiny"),
        (FAMILY, "run.yaml#shrt", "no row 'shrt'; did you mean 'short'?; it has plain, short, short/tiny"),
        ("lr: 1.0", "run.yaml#a", "no row 'a'; it has none"),
        ("rows: {a: {extends: b}, b: {extends: a}}", "run.yaml#a", "rows extend each other in a circle: a -> b -> a"),
        ("rows: {a: {extends: [b]}}", "run.yaml#a", "run.yaml#a: extends: expected one name, got ['b']"),
        ("rows: [a, b]", "run.yaml#a", "rows: expected lines of `name: {flag: value, ...}`"),
        ("rows: {a: {epohcs: 2}}", "run.yaml#a", "run.yaml#a: unknown key 'epohcs'"),
    ],
)
def test_mistakes_in_rows_are_explained(probe, config, text, name, complaint, capsys):
    assert probe("--config", config(text).parent / name) == 2
    assert complaint in capsys.readouterr().err


def test_a_hash_may_stand_in_a_path(config):
    path = config("lr: 1.0", "a#b/run.yaml")
    assert find_config(str(path), path.parent) == find_config(str(path.with_suffix("")), path.parent) == Place(path)


def test_former_names_still_find_what_they_named(tmp_path, package):
    (package / "deep").mkdir()
    (family := package / "deep" / "family.yaml").write_text(FAMILY)
    for name in ("old_short", "old_short.yaml", "benco_configs/old_short.yaml", "deep/family#short"):
        assert find_config(name, tmp_path) == Place(family, "short")


def test_a_misspelt_packaged_configuration_gets_the_nearest(tmp_path):
    for entry in package_index():
        for name in filter(None, (entry.formerly, entry.name.partition("#")[0])):
            with pytest.raises(DiffIMLError, match=f"did you mean '{name}"):
                find_config(name + "x", tmp_path)


def test_here_is_the_folder_of_the_file_that_says_it(probe, config, tmp_path):
    config("data_path: ${HERE}/sets.json\n", "below/base.yaml")
    assert probe("--config", config("extends: below/base.yaml\n")) == 0
    assert probe.args.data_path == f"{tmp_path.resolve()}/below/sets.json"


@pytest.mark.parametrize("entry", package_index(), ids=lambda entry: entry.name)
def test_each_of_the_packages_own_suits_its_verb_and_is_described(entry, monkeypatch, capsys):
    monkeypatch.setenv("DATA_ROOT", "/data")
    monkeypatch.setenv("STUDY_DATA", "/data")
    monkeypatch.setenv("PHOTOS", "/data")
    files = ["weights", "target.safetensors"] if entry.verb == "release" else []
    for name in filter(None, (entry.name, entry.formerly)):
        assert main([entry.verb, *files, "--config", name, "--dry_run"]) == 0, capsys.readouterr().err
    assert entry.about and "\n" not in entry.about


def test_the_packages_own_have_names_of_their_own():
    entries = package_index()
    names = [name for entry in entries for name in (entry.name, entry.formerly) if name]
    assert len(names) == len(set(names)) and {"paper", "mvss_train", "table6c_0.3", "small"} <= set(names)


def test_variables_may_have_a_default(probe, config, monkeypatch):
    monkeypatch.setenv("EMPTY", "")
    assert probe("--config", config("data_path: ${UNSET_HERE:-a}/${EMPTY:-b}${EMPTY}/${EMPTY:-}\n")) == 0
    assert probe.args.data_path == "a/b/"


def test_what_a_dry_run_prints_names_the_same_paths_again(config, capsys):
    """A script's quotes can make a folder of that name."""
    assert main(["train", "--data_path", "${HOME}/a$${b}", "--output_dir", "runs", "--dry_run"]) == 0
    (said,) = [line for line in capsys.readouterr().out.splitlines(True) if line.startswith("data_path")]
    assert main(["train", "--config", str(config(said)), "--output_dir", "runs", "--dry_run"]) == 0
    assert said.partition("  #")[0] in capsys.readouterr().out
    assert main(["train", "--data_path", "${HOME}/a$${b}", "--config", str(config(said)), "--output_dir", "r"]) == 2
    assert "${HOME}/a$${b} does not exist" in capsys.readouterr().err
