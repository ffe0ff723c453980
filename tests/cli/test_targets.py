import pytest

from diffiml_plugin.cli.targets import commands, read_targets
from diffiml_plugin.errors import DiffIMLError

STUDY = """
tiny:
  about: a study
  steps: [tamper photos --output_dir out/images]
  study:
    family: study/squares
    folder: out
    test_data_path: ${LIST}
    seeds: [3, 4]
    kinds: [splice, removal]
    rows:
      base: {verbs: [robust], without: [removal]}
      mine: {verbs: [sweep], without: [removal, splice]}
      other: {}
    against: [base, mine]
    flags: {train: --epochs 2, sweep: "--vary tta=false,true"}
"""


@pytest.fixture(autouse=True)
def places(monkeypatch):
    monkeypatch.setenv("DATA_ROOT", "/my data")
    monkeypatch.setenv("STUDY_DATA", "/photographs")
    monkeypatch.setenv("PHOTOS", "/photographs")
    monkeypatch.delenv("RUNS", raising=False)
    monkeypatch.delenv("SIDE", raising=False)


@pytest.fixture
def study(tmp_path, monkeypatch):
    (tmp_path / "reproduce.yaml").write_text(STUDY)
    monkeypatch.setattr("diffiml_plugin.cli.targets.packaged_folder", lambda: tmp_path)
    monkeypatch.setenv("LIST", "list.json")


def test_each_value_is_run_in_turn_and_variables_hold_one_word():
    table = commands("table6")
    rows = [command for command in table if command[0] == "train"]
    assert rows[0] == ["train", "--config", "mvss/train"] and rows[1][-1] == "ablation/table6#a/Xavier"
    after = table[table.index(rows[1]) + 1]
    assert after[:5] == [
        "test",
        "--checkpoint_path",
        "runs/table6a/Xavier",
        "--test_data_path",
        "/my data/CASIAv1.json",
    ]
    assert after[-1] == "table6a/Xavier" and len(rows) == 10


def test_a_study_trains_each_row_with_each_seed_and_tests_it(study):
    made = commands("tiny")
    assert made[0][0] == "tamper" and made[-1][0] == "study"
    trained = [command for command in made if command[0] == "train"]
    runs = ["base", "base_without_removal", "mine", "mine_without_removal", "mine_without_splice", "other"]
    assert [command[command.index("--output_dir") + 1] for command in trained] == [
        f"out/{run}/{seed}" for seed in (3, 4) for run in runs
    ]
    assert [command[command.index("--synth_kinds") + 1] for command in trained[2:5]] == [
        "splice,removal",
        "splice",
        "removal",
    ]
    assert trained[3][:3] == ["train", "--config", "study/squares#mine"]
    assert trained[3][-8:] == "--test_data_path list.json --seed 3 --output_dir out/mine_without_removal/3".split() + [
        "--resume",
        "auto",
    ]
    verbs = {run: [command[0] for command in made if f"out/{run}/4/last.safetensors" in command] for run in runs}
    assert verbs == {
        "base": ["test", "robust"],
        "mine": ["test", "sweep"],
        **dict.fromkeys(("base_without_removal", "mine_without_removal", "mine_without_splice", "other"), ["test"]),
    }


def test_rows_of_a_study_are_compared_with_those_that_lack_the_same_kind(study):
    (compare,) = [command for command in commands("tiny") if command[0] == "study"]
    assert compare[compare.index("--compare") + 1 :] == [
        "mine=base",
        "mine_without_removal=base_without_removal",
        "other=base",
        "other=mine",
    ]


def test_rows_and_seeds_can_be_chosen(study):
    made = commands("tiny", rows=["mine_without_splice"], seeds=[7])
    assert [command[0] for command in made] == ["tamper", "train", "test", "study"]
    assert "out/mine_without_splice/7" in made[1]


@pytest.mark.parametrize(
    ("name", "options", "complaint"),
    [
        ("tabel2", {}, "no target is called 'tabel2'; did you mean 'table2'?"),
        ("table2", {"seeds": [1]}, "table2 has no rows and seeds to choose from"),
        ("study", {"rows": ["edge_of"]}, "--rows edge_of is no row of the study; did you mean 'edge_off'?"),
        ("study", {"rows": ["edge_off_without_splice"]}, "is no row of the study"),
    ],
)
def test_mistakes_are_explained(name, options, complaint):
    with pytest.raises(DiffIMLError) as caught:
        commands(name, **options)
    assert complaint in str(caught.value)


def test_an_unset_variable_is_named(monkeypatch):
    monkeypatch.delenv("DATA_ROOT")
    with pytest.raises(DiffIMLError, match="table6: the variable DATA_ROOT .* is not set"):
        commands("table6")


def test_every_target_is_described():
    assert {f"table{number}" for number in range(2, 8)} | {"figure4", "study", "small"} <= read_targets().keys()
    assert all(target["about"] for target in read_targets().values())
