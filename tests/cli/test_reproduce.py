import importlib
import json
import os
import re
import shlex
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from diffiml_plugin.cli import reproduce
from diffiml_plugin.cli.command_line import parse_arguments
from diffiml_plugin.cli.config_file import TARGETS, packaged_folder
from diffiml_plugin.cli.main import main
from diffiml_plugin.cli.targets import commands, read_targets
from diffiml_plugin.datasets.catalogue import CATALOGUE
from diffiml_plugin.files import file_digest
from diffiml_plugin.folders import claimed
from diffiml_plugin.ledger import LEDGER, Ledger
from diffiml_plugin.models.checkpoints import BEST
from diffiml_plugin.weights.files import read_metadata

HERE = ["--device", "cpu", "--num_workers", "0"]


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", "/data")
    monkeypatch.setenv("STUDY_DATA", "/photographs")
    monkeypatch.setenv("PHOTOS", "/photographs")
    monkeypatch.setenv("RUNS", "")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def runs(monkeypatch):
    """The commands that a run starts, in place of starting them; by verb `.statuses` are their exit statuses, and
    `.writes` what they write."""
    started = SimpleNamespace(commands=[], statuses={}, writes={})

    def run(words):
        started.commands.append(words[words.index("diffiml_plugin") + 1 :])
        verb = started.commands[-1][0]
        for file in whole(started.writes[verb]) if verb in started.writes else ():
            file.touch(exist_ok=False)  # figures of older weights would be refused
        return SimpleNamespace(returncode=started.statuses.get(verb, 0))

    monkeypatch.setattr(reproduce, "subprocess", SimpleNamespace(run=run))
    return started


def whole(file) -> list[Path]:
    """What a test or a release writes, of which `file` is the first."""
    beside = ("per_image.jsonl", "table.md") if str(file).endswith("results.json") else (f"{Path(file).stem}.md",)
    return [Path(file), *map(Path(file).with_name, beside)]


def entered(file) -> None:
    """Enters what a test or a release wrote as made by a step."""
    ledger = Ledger("runs")
    ledger.start(reproduce._run_of(Path("runs"), Path(file)), {})
    for one in whole(file):
        ledger.enter(one, one)


def test_a_row_of_a_study_goes_on_from_anothers_weights():
    def starts(row):
        made = {words[0]: words for words in commands("study", [row], [1])}
        return [
            words[words.index("--checkpoint_path") + 1] if "--checkpoint_path" in words else None
            for words in (made["train"], made["test"])
        ]

    runs = "runs/study_128"
    assert starts("fast") == [f"{runs}/t_noisy/1/last.safetensors", f"{runs}/fast/1/last.safetensors"]
    assert starts("t_noisy") == [None, f"{runs}/t_noisy/1/last.safetensors"]


@pytest.mark.parametrize("target", read_targets())
def test_all_steps_of_every_target_are_commands_of_benco(target, capsys):
    assert main(["reproduce", target, "--dry_run"]) == 0, capsys.readouterr().err
    for line in capsys.readouterr().out.splitlines():
        benco, *words = shlex.split(line)
        assert benco == "benco" and main([*words, "--dry_run"]) == 0, line


def test_without_a_target_all_are_listed(capsys):
    assert main(["reproduce"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(read_targets()) and "MVSS protocol" in lines[0]


def test_flags_go_to_the_steps_that_have_them(runs):
    assert main(["reproduce", "table7", "--epochs", "2", "--device", "cpu", "--tta", "--runs", "out"]) == 0
    assert runs.commands == [
        ["train", "--config", "mvss/train", "--epochs", "2", "--device", "cpu", "--tta"],
        ["sweep", "--config", "mvss/sweep", "--device", "cpu", "--tta"],
        ["report", "out", "--output_dir", "out/report"],
    ]
    assert os.environ["RUNS"] == "out" and os.path.isdir("out")


def test_a_flag_of_diffiml_does_not_go_to_another_model(runs):
    assert main(["reproduce", "table5", "--num_inference_steps", "2"]) == 0
    have = {words[2]: "--num_inference_steps" in words for words in runs.commands}
    assert have["mvss/train"] and have["mvss/test_plain"]
    assert not have["ablation/table5#SegFormerIML"]
    assert not have["runs/table5/SegFormerIML"], "what is not trained yet is tested without it, too"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["table2", "--gpsu", "8"], "no step of table2 has a flag --gpsu; did you mean '--gpus'?"),
        (["table2", "--output_dir", "x"], "the steps of table2 set --output_dir themselves"),
        (["study", "--seed", "3"], "the steps of study set --seed themselves"),
        (["table2", "--epochs", "many"], "argument --epochs: invalid int value: 'many'"),
        (["--gpus", "8", "table2"], "name the target before the flags"),
    ],
)
def test_mistakes_are_found_before_anything_runs(runs, words, complaint, capsys):
    assert main(["reproduce", *words]) == 2
    assert complaint in capsys.readouterr().err and not runs.commands


def test_it_stops_at_a_step_that_fails(runs, capsys):
    runs.statuses["train"] = -9
    assert main(["reproduce", "table2"]) == 1
    assert len(runs.commands) == 1 and "error: step 1 failed" in capsys.readouterr().err


def test_a_file_of_the_users_in_the_way_of_a_step_stays(runs):
    runs.statuses["complexity"] = 2  # refused
    os.makedirs("runs")
    Path("runs/complexity.json").write_text("mine")
    for _ in range(2):
        assert main(["reproduce", "table4"]) == 2
    assert Path("runs/complexity.json").read_text() == "mine"


@pytest.fixture
def tested(runs):
    """Table 2 with its model trained, and tested by a command; returns what is run again."""
    runs.writes["test"] = "runs/mvss/test/results.json"
    os.makedirs("runs/mvss/test")
    Path(f"runs/mvss/{BEST}").touch()
    weights = file_digest(f"runs/mvss/{BEST}")

    def again(*words: str, command: str = "/bin/benco test --config mvss/test", weights: str = weights) -> list[str]:
        for file in whole("runs/mvss/test/results.json"):
            file.write_text(json.dumps({"command": command, "weights": weights}))
        entered("runs/mvss/test/results.json")
        runs.commands.clear()
        assert main(["reproduce", "table2", *words]) == 0
        return [words[0] for words in runs.commands]

    return again


def test_what_was_tested_is_not_tested_again(tested, capsys):
    assert tested() == ["train", "report"]
    assert "==> 2 of 3, done before: benco test --config mvss/test" in capsys.readouterr().err
    assert tested("--device", "cpu", "--test_batch_size", "2") == ["train", "report"]  # that changes no figure
    assert tested(command="benco test --config mvss_test --tta true --gpus 2") == ["train", "report"]
    assert tested(command="benco test --config mvss/test --checkpoint_path runs/mvss") == ["train", "report"]


@pytest.mark.parametrize(
    "change",
    [
        {"command": "benco test --config mvss/test --ensemble_size 1"},
        {"command": "benco test --config gone"},
        {"command": "benco test --config mvss/test -hh"},
        {"command": "benco test --config mvss/test --config empty.yaml"},  # what a results file names is not opened
        {"command": ""},
        {"command": None},
        {"weights": "other"},  # of whatever date
    ],
)
def test_other_settings_or_other_weights_are_tested_again(tested, change):
    Path("empty.yaml").write_text("{}")
    assert tested(**change) == ["train", "test", "report"]


@pytest.mark.parametrize("change", ["Tp/0.png", "Gt/0.png", "list.json", ""])
def test_other_images_behind_the_same_list_are_tested_again(tiny_model, stored, tiny_dataset, monkeypatch, change):
    words = ["--checkpoint_path", str(stored()), "--test_data_path", str(tiny_dataset / "list.json"), *HERE]
    monkeypatch.setattr(sys, "argv", ["benco", "test", *words, "--output_dir", "out"])
    assert main(sys.argv[1:]) == 0
    args = parse_arguments("benco test", importlib.import_module("diffiml_plugin.cli.test"), sys.argv[2:])
    if change:  # of the list, so that it cannot be read: the command will say so
        (tiny_dataset / change).write_text("[[")
    assert reproduce._is_done(reproduce.Step(sys.argv[1:], args), Path("out")) == (not change)


def test_other_flags_are_tested_again(tested):
    assert tested("--num_inference_steps", "4") == ["train", "test", "report"]


def test_pictures_and_a_calibration_of_other_settings_are_not_taken_for_those_asked_for(tmp_path):
    def done(verb: str, words: str) -> bool:
        module = importlib.import_module(f"diffiml_plugin.cli.{verb}")
        args = parse_arguments(f"benco {verb}", module, shlex.split(words))
        return reproduce._is_done(reproduce.Step([verb, *shlex.split(words)], args), Path("made"))

    os.makedirs("photos")
    for number in range(2):
        Image.fromarray(np.full((32, 32, 3), number, np.uint8)).save(f"photos/{number}.png")
    assert main(["tamper", "photos", "--images", "2", "--output_dir", "made"]) == 0
    os.utime("photos/0.png", (1, 1))  # the same content
    assert done("tamper", "photos --images 2 --output_dir made")
    assert not done("tamper", "photos --images 3 --output_dir made")  # which the verb refuses
    Image.fromarray(np.full((32, 32, 3), 9, np.uint8)).save("photos/0.png")
    assert not done("tamper", "photos --images 2 --output_dir made")

    calibrate = "--checkpoint_path a.safetensors --test_data_path list.json --output b.safetensors --output_dir made"
    for name in ("a.safetensors", "b.safetensors"):
        Path(name).touch()
    Path("made/calibration.json").write_text(json.dumps({"command": f"benco calibrate {calibrate}"}))
    for name in ("calibration.md", "reliability.png"):
        assert not done("calibrate", calibrate)
        Path("made", name).touch()
    assert done("calibrate", calibrate) and not done("calibrate", f"{calibrate} --max_misses 0.3")


def test_figures_that_could_not_be_made_anew_come_back(tested, runs):
    tested()
    left = Path("runs/mvss/test/results.json").read_bytes()
    runs.writes.clear()
    runs.statuses["test"] = 2
    assert main(["reproduce", "table2", "--num_inference_steps", "4"]) == 2
    assert Path("runs/mvss/test/results.json").read_bytes() == left
    assert sorted(os.listdir("runs/mvss/test")) == ["per_image.jsonl", "results.json", "table.md"]


def test_what_was_tested_by_hand_where_a_step_tests_stays(tiny_model, stored, tiny_dataset, monkeypatch, capsys):
    words = ["test", "--checkpoint_path", str(stored()), "--test_data_path", str(tiny_dataset / "list.json"), *HERE]
    words += ["--output_dir", "runs/test"]

    def benco(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["benco", *words])
        return main(list(words))

    def step(*flags: str) -> int:
        args = parse_arguments("benco test", importlib.import_module("diffiml_plugin.cli.test"), [*words[1:], *flags])
        monkeypatch.setattr(reproduce, "_steps", lambda _: [reproduce.Step([*words, *flags], args)])
        return benco("reproduce", "table2", "--runs", "runs")

    def run(started: list[str]) -> SimpleNamespace:
        return SimpleNamespace(returncode=benco(*started[started.index("test") :]))

    def left() -> list[bytes]:
        return [file.read_bytes() for file in whole("runs/test/results.json")]

    monkeypatch.setattr(reproduce, "subprocess", SimpleNamespace(run=run))
    assert benco(*words, "--image_size", "32") == 0
    by_hand = left()
    assert step() == 2 and left() == by_hand
    assert "was made with other image_size and is not overwritten" in capsys.readouterr().err
    os.rename("runs/test", "mine")
    assert step() == 0 and step("--image_size", "32") == 0
    assert json.loads(left()[0])["settings"]["image_size"] == 32, "a step's own are made anew"


def test_what_a_running_step_has_put_aside_stays_there(tested, capsys):
    tested()
    aside = Path("runs/mvss/test/.earlier.results.json")
    os.rename("runs/mvss/test/results.json", aside)
    with claimed(aside.parent):
        assert main(["reproduce", "table2"]) == 2 and aside.exists()
    assert "runs/mvss/test is in use by" in capsys.readouterr().err
    assert main(["reproduce", "table2"]) == 0 and not aside.exists()


@pytest.mark.parametrize("moment", range(7))
def test_a_kill_leaves_no_results_beside_records_of_others(tested, runs, monkeypatch, moment):
    """As a step of other settings was at work, between its two files or while files are moved."""
    tested()
    folder = Path("runs/mvss/test")
    left = {file.name: file.read_bytes() for file in whole(folder / "results.json")}
    if (process := os.fork()) == 0:
        moves = 0

        def seen(event: str, _: tuple) -> None:
            nonlocal moves
            if event == "os.rename" and (moves := moves + 1) == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        def step(words: list[str]) -> SimpleNamespace:
            if "test" in words:
                (folder / "per_image.jsonl").write_text("of others")
                if moment == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return SimpleNamespace(returncode=2 * ("test" in words))

        sys.addaudithook(seen)
        monkeypatch.setattr(reproduce, "subprocess", SimpleNamespace(run=step))
        main(["reproduce", "table2", "--num_inference_steps", "4"])
        os._exit(0)
    assert os.waitpid(process, 0)[1] == signal.SIGKILL
    runs.commands.clear()
    assert main(["reproduce", "table2"]) == 0 and [words[0] for words in runs.commands] == ["train", "report"]
    there = {file.name: file.read_bytes() for file in folder.iterdir() if file.name != LEDGER}
    kept = [content for name, content in there.items() if name not in left]  # it might have been the user's
    assert left.items() <= there.items() and (b"of others" in kept or moment > 0) and {*kept} <= {b"of others", b""}


@pytest.mark.parametrize("missing", ["per_image.jsonl", "table.md"])
def test_what_lacks_a_file_is_made_anew(tested, runs, missing):
    tested()
    Path("runs/mvss/test", missing).unlink()
    runs.commands.clear()
    assert main(["reproduce", "table2"]) == 0 and "test" in [words[0] for words in runs.commands]


def test_weights_released_by_hand_are_taken_or_left_by_their_dates(runs):
    for age, name in enumerate(["DiffIML/last", "half", "released"], 1):
        path = f"runs/small/{name}.safetensors"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        for file in whole(path):
            file.write_text("by hand")
            os.utime(file, (age, age))
    os.makedirs("runs/small/test")
    runs.writes["test"], runs.statuses["release"] = "runs/small/test/results.json", 2  # refused
    assert main(["reproduce", "small"]) == 2
    assert [words[0] for words in runs.commands] == [*["train"] * 3, "test", "release"]  # the figures are newer
    assert Path("runs/small/released.safetensors").read_text() == "by hand"


def test_weights_made_of_others_are_made_anew_whatever_the_dates_say(runs):
    files = [f"runs/small/{name}.safetensors" for name in ("DiffIML/last", "half")]
    os.makedirs("runs/small/DiffIML")
    Path(files[0]).write_text("of another machine")
    runs.writes["release"], runs.statuses["test"] = files[1], 2  # which ends it behind the first release

    def commands() -> list[str]:
        runs.commands.clear()
        assert main(["reproduce", "small"]) == 2
        return [words[1] for words in runs.commands if words[0] == "release"]

    assert files[0] in commands()
    os.utime(files[1], (1, 1))  # as a copy may leave it
    assert files[0] not in commands()
    Path(files[0]).write_text("trained anew")
    os.utime(files[0], (0, 0))  # where the clock was wrong
    assert files[0] in commands() and files[0] not in commands()


@pytest.fixture
def reproduced(monkeypatch, capfd):
    """Runs `benco reproduce` to its end; returns what it printed, columns one space apart."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("DIFFIML_HOOK", "0")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))

    def run(*words: str) -> str:
        status = main(["reproduce", *words])
        printed = capfd.readouterr()
        assert status == 0, printed.err[-3000:]
        return re.sub(" +", " ", printed.out)

    return run


@pytest.mark.slow
def test_every_table_and_figure_on_miniatures(reproduced, miniatures, tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "data"))
    for entry in CATALOGUE:
        miniatures.fabricate(entry.name, tmp_path / "data" / entry.name)
    assert main(["datasets", "prepare", "all", "--root", str(tmp_path / "data")]) == 0
    size = "--encoder segformer_b0 --encoder_weights none --image_size 64".split()
    short = "--epochs 1 --batch_size 4 --total_batch_size 8 --num_inference_steps 1 --ensemble_size 1".split()
    few = [*HERE, *size, *short]
    assert "AutoSplice" in reproduced("table2", *few)
    assert reproduced("table6", *few, "--vary", "ensemble_size=1,3", "--noise_seeds", "2").count("epoch 1/1") == 9
    assert reproduced("table5", *few).count("epoch 1/1") == 1
    assert "ensemble_size=3" in reproduced("table7", *few, "--vary", "ensemble_size=1,3")
    reproduced("figure4", *few)
    reproduced("table3", *few, "--samples_per_set", "2")
    reproduced("table4", "--zoo", "MantraNet", *size, "--device", "cpu")
    text = re.sub(" +", " ", (tmp_path / "runs" / "report" / "report.md").read_text())
    ours = [
        line
        for table in ("Table 2", "Table 3", "Table 5", *(f"Table 6{row}" for row in "abcd"))
        for line in text.split(f"### {table}")[1].split("###")[0].splitlines()
        if " | ours | " in line
    ]
    assert len(ours) == 17 and not any("missing" in line for line in ours)
    assert "| DiffIML, segformer_b0, LightVAE, N=5 (64²) | ours |" in text and "| ManTraNet (64²) | ours |" in text
    assert text.count("pixel-F1 by JPEG quality") == 1


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """STUDY_DATA, PHOTOS and one set of REAL_DATA, of noise."""
    noise = np.random.default_rng(0)
    for part in ("photos", "val/Au", "val/Tp", "val/Gt", "train/Tp", "train/Gt"):
        (tmp_path / part).mkdir(parents=True)
        for number in range(3):
            image = noise.integers(0, 256, (64, 80, 3), dtype=np.uint8)
            if part.endswith("Gt"):
                image[:], image[10:40, 10:40] = 0, 255
            Image.fromarray(image).save(tmp_path / part / f"{number}.png")
    for part in ("train", "val"):
        pairs = [[f"Tp/{number}.png", f"Gt/{number}.png", "splice"] for number in range(3)]
        (tmp_path / part / "list.json").write_text(json.dumps(pairs))
    real = [[f"../{part}/Tp/{n}.png", f"../{part}/Gt/{n}.png"] for part in ("train", "val") for n in range(3)]
    real += [[f"../{part}/{n}.png", "Negative"] for part in ("photos", "val/Au") for n in range(3)]
    (tmp_path / "CASIAv1").mkdir()
    (tmp_path / "CASIAv1" / "list.json").write_text(json.dumps(real))
    monkeypatch.setenv("STUDY_DATA", str(tmp_path))
    monkeypatch.setenv("REAL_DATA", str(tmp_path))
    monkeypatch.setenv("PHOTOS", str(tmp_path / "photos"))


TINY = [*HERE, "--epochs", "2", "--batch_size", "2"]
SMALL = [*TINY, *"--encoder_weights none --crop_size 64 --samples_per_set 2".split()]


@pytest.mark.slow
def test_the_study_goes_on_where_it_stopped(reproduced, photographs, tmp_path, monkeypatch):
    monkeypatch.setenv("SIDE", "64")
    targets = (packaged_folder() / TARGETS).read_text()
    (tmp_path / TARGETS).write_text(targets.replace("--images 150", "--images 9"))
    monkeypatch.setattr("diffiml_plugin.cli.targets.packaged_folder", lambda: tmp_path)
    rows = ["discriminative", "DiffIML", "DiffIML_without_removal"]
    words = ["study", *TINY, "--rows", *rows, "--seeds", "0", "1"]
    first = reproduced(*words)
    for row in rows:
        assert f"| {row} | 2 |" in first
    for cells in ("| num_inference_steps=8 |", "| jpeg 50 |", "| DiffIML | discriminative | 2 |"):
        assert cells in first
    config = (tmp_path / "runs/study_64/DiffIML_without_removal/1/config.yaml").read_text()
    assert "synth_kinds: splice,copy_move\n" in config and "seed: 1\n" in config
    again = reproduced(*words)
    assert again.endswith(first[first.index("| row |") :])  # the same tables; nothing was left to train


def test_a_configuration_of_the_current_folder_is_not_the_packages(monkeypatch, tmp_path, capsys):
    (tmp_path / "complexity.yaml").write_text("image_size: 64\n")
    (tmp_path / "benco_configs").mkdir()
    (tmp_path / "benco_configs" / "demo.yaml").write_text("epochs: 77\n")
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", "table4", "--dry_run"]) == 2
    assert "complexity.yaml and a configuration of the package; write that path" in capsys.readouterr().err
    assert main(["demo", "--dry_run"]) == 0 and "77" not in capsys.readouterr().out


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 cannot leave the current folder out")
def test_steps_import_nothing_from_the_current_folder(monkeypatch, tmp_path):
    (tmp_path / "yaml.py").write_text("open('imported', 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.setattr(reproduce, "_steps", lambda args: [reproduce.Step(["configs"], args)])
    assert main(["reproduce", "table4", "--runs", "runs"]) == 0 and not Path("imported").exists()


@pytest.mark.slow
def test_the_study_of_photographs_and_the_small_model(reproduced, photographs, tmp_path):
    rows = ["--rows", "discriminative_without_splice", "--seeds", "0"]
    text = reproduced("study_photographs", *SMALL, "--image_size", "96", *rows)
    assert "| row | seeds | all | splice |" in text and "| discriminative_without_splice | 1 |" in text
    windows = "--synth_windows= --synth_window 64 --synth_samples 2 --total_batch_size 2 --num_workers 0".split()
    few = ["--false_alarm_rate", "0.2"]  # authentic images promise no lower one
    assert "small.safetensors" in reproduced("small", *SMALL, "--image_size", "96", *windows, *few)
    auc = json.loads((tmp_path / "runs/small/test/results.json").read_text())["mean"]["pixel-level AUC"]
    stated = read_metadata(tmp_path / "runs/small/small.safetensors")["figures"]
    assert stated["val"]["pixel-level AUC"][0] == pytest.approx(auc)
