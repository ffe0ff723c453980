import json
import os
import signal
import subprocess
import sys

import pytest
import torch
import yaml

from diffiml_plugin.cli.main import main
from diffiml_plugin.cli.verbs import VERBS
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.signals import Stopped

_ANSWER = """
import sys
import yaml
before = set(sys.modules)
from diffiml_plugin.cli.main import main
try:
    status = main(sys.argv[1:])
except SystemExit as end:
    status = end.code
print(*{name.partition(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)
sys.exit(status)
"""


def answer(*words: str) -> tuple[str, set[str]]:
    """What the command prints in a fresh interpreter, and the packages beside yaml that it imported to do so."""
    done = subprocess.run([sys.executable, "-c", _ANSWER, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    printed, _, imported = done.stdout.rstrip("\n").rpartition("\n")
    return printed, set(imported.split())


def test_help_lists_every_verb_at_once():
    printed, imported = answer("--help")
    for verb in (*VERBS, "init", "env", "-v"):
        assert f"\n  {verb} " in printed
    assert imported == {"diffiml_plugin"}


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_explains_its_flags_at_once(verb):
    printed, imported = answer(verb, "--help")
    assert "--config" in printed and "--dry_run" in printed
    assert imported == {"diffiml_plugin"}  # nothing that takes its time


@pytest.mark.parametrize(("typed", "meant"), [("trian", "train"), ("tset", "test"), ("Predict", "predict")])
def test_misspelt_verb_gets_the_nearest(typed, meant, capsys):
    assert main([typed]) == 2
    assert f"did you mean {meant!r}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "fault",
    [DiffIMLError("no\n such thing"), FileNotFoundError(2, "gone", "x.png"), OSError(28, "No space left on device")],
)
def test_user_mistakes_are_one_line_and_status_2(probe, fault, capsys):
    probe.fault = fault
    assert probe("--data_path", "x") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")


def test_a_workers_mistake_comes_without_its_traceback(probe, capsys):
    probe.fault = DiffIMLError(
        "Caught DiffIMLError in DataLoader worker process 0.\nOriginal Traceback (most recent "
        "call last):\n  File\ndiffiml_plugin.errors.DiffIMLError: DiffIMLError: x.png is cut off"
    )
    assert probe("--data_path", "x") == 2
    assert capsys.readouterr().err == "error: DiffIMLError: x.png is cut off\n"


def test_our_own_mistakes_are_not_hidden(probe):
    probe.fault = TypeError("a bug")
    with pytest.raises(TypeError):
        probe("--data_path", "x")


@pytest.mark.parametrize(
    ("stopped", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (Stopped(signal.SIGTERM, "go on"), 143, "ended by SIGTERM; go on"),
    ],
)
def test_what_was_stopped_says_so_in_its_status(probe, stopped, status, said, capsys):
    probe.fault = stopped
    assert probe("--data_path", "x") == status
    assert capsys.readouterr().err == f"{said}\n"


@pytest.mark.parametrize("words", ["datasets list", "--help"])
def test_a_reader_that_leaves_is_no_mistake(words):
    command = f"{sys.executable} -m diffiml_plugin {words} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("141\n", "")


def test_dry_run_prints_the_settings_with_their_sources_and_does_not_run(probe, tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("tta: true\nlr: 1e-3\nsizes: [8, 16]\n")
    assert probe("--data_path", "x", "--config", tmp_path / "mine.yaml", "--lr", "0.5", "--dry_run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert {
        "data_path: x  # flag",
        "lr: 0.5  # flag",
        "sizes: [8, 16]  # from mine.yaml",
        "tta: true  # from mine.yaml",
        "epochs: 200  # default",
        "encoder: segformer_b3  # default",
    } <= set(lines)
    assert not any(line.startswith(("dry_run", "config")) for line in lines) and probe.args is None


def test_a_packaged_configuration_is_named_as_config_takes_it(monkeypatch, capsys):
    monkeypatch.setenv("DATA_ROOT", "/data")
    assert main(["train", "--config", "ablation/table6#b/resnet50", "--preset", "paper", "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert "resume: auto  # from mvss/train\n" in printed and "encoder: segformer_b3  # from paper\n" in printed
    assert "output_dir: runs/table6b/resnet50  # from ablation/table6#b/resnet50\n" in printed


@pytest.mark.parametrize("text", ["a: b # c", "two\nlines", "- [x]", "'", "${HOME}"[2:], "yes", "long " * 50])
def test_dry_run_output_is_a_config_file(probe, tmp_path, capsys, text):
    words = [text, "--data_path", text, "--tta", "--if_resizing", "--sizes", "64", "128", "--epochs", "3"]
    words = words if text[0] != "-" else words[1:]
    probe(*words)
    direct = vars(probe.args)
    probe(*words, "--dry_run")
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    assert probe("--config", tmp_path / "printed.yaml") == 0
    again = vars(probe.args)
    for name in direct.keys() - {"config", "settings", "names", "model_flags"}:
        assert again[name] == direct[name], name
    assert again["model_flags"].items() >= direct["model_flags"].items()


@pytest.mark.parametrize("words", [["predict", "a.png"], ["test"], ["sweep", "--vary", "tta=true"], ["train"]])
def test_dry_run_tells_what_the_checkpoint_says(words, tmp_path, capsys):
    assert main([*words, "--checkpoint_path", "small", "--ensemble_size", "7", "--dry_run"]) == 0
    first = capsys.readouterr().out
    assert {
        "checkpoint_path: small  # flag",
        "model: DiffIML  # from small.safetensors",
        "num_inference_steps: 4  # from small.safetensors",
        "ensemble_size: 7  # flag",
        "image_size: 512  # from small.safetensors",
    } <= set(first.splitlines())
    assert ("encoder: tf_efficientnet_lite0  # from small.safetensors" in first) == (words == ["train"])
    (tmp_path / "printed.yaml").write_text(first)
    assert main([words[0], "--config", str(tmp_path / "printed.yaml"), "--dry_run"]) == 0
    again = capsys.readouterr().out
    assert yaml.safe_load(again) == yaml.safe_load(first)
    assert "num_inference_steps: 4  # from printed.yaml" in again


def test_dry_run_does_what_the_run_would_do(tiny_dataset, tmp_path, monkeypatch, capsys):
    words = ["--checkpoint_path", "small", "--test_data_path", str(tiny_dataset / "list.json"), "--device", "cpu"]
    words += ["--num_workers", "0", "--num_inference_steps", "1", "--output_dir", str(tmp_path / "out")]
    assert main(["test", *words, "--dry_run"]) == 0
    told = yaml.safe_load(capsys.readouterr().out)
    assert main(["test", *words]) == 0
    ran = json.loads((tmp_path / "out" / "results.json").read_text())
    ran = {**ran["settings"], "model": ran["model"]}
    assert {name: ran[name] for name in told} == told


def test_dry_run_tells_that_a_checkpoint_is_not_there_yet(capsys):
    assert main(["predict", "a.png", "--checkpoint_path", "c", "--output_dir", "o", "--tta", "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("# checkpoint c does not exist") and yaml.safe_load(printed)["tta"] is True
    assert "encoder" not in printed and "num_inference_steps" not in printed


def test_dry_run_tells_what_the_model_wants(capsys):
    assert main(["train", "--model", "IML_ViT", "--if_resizing", "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert "image_size: 1024  # from IML_ViT\n" in printed and "if_padding: false  # flag\n" in printed
    assert main(["train", "--model", "PSCC_Net", "--image_size", "128", "--dry_run"]) == 0
    assert "input_size: 128  # the run\n" in capsys.readouterr().out  # its constructor's name for it
    assert main(["train", "--data_path", "x", "--dry_run"]) == 0
    assert "encoder: segformer_b3  # default\n" in (printed := capsys.readouterr().out)
    assert "image_size: 512  # default\n" in printed


def test_dry_run_refuses_what_the_run_would_refuse(capsys):
    assert main(["predict", "a.png", "--encoder", "resnet50", "--dry_run"]) == 2
    assert "was trained with --encoder tf_efficientnet_lite0" in capsys.readouterr().err


def test_full_gpu_memory_is_one_line(probe, capsys):
    probe.fault = torch.cuda.OutOfMemoryError("CUDA out of memory.\nTried to")
    assert probe("--data_path", "x") == 2
    assert capsys.readouterr().err.startswith("error: the GPU's memory is full: lower --test_batch_size")


def test_a_device_that_is_lost_is_one_line(probe, capsys):
    probe.fault = RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be reported later")
    assert probe("--data_path", "x") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: the device failed: CUDA error: unspecified launch failure; what is done is kept")
    assert said.count("\n") == 1
    probe.fault = RuntimeError("CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling ...")  # a mistake of ours
    with pytest.raises(RuntimeError):
        probe("--data_path", "x")


@pytest.mark.parametrize(
    "fault",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
    ],
)
def test_full_memory_is_one_line(probe, capsys, fault):
    probe.fault = fault
    assert probe("--data_path", "x") == 2
    assert capsys.readouterr().err.startswith("error: the memory is full: lower --test_batch_size")


@pytest.mark.parametrize("words", [["init", "base"], ["env"], ["-v"], ["--version"], ["--config", "x", "init"]])
def test_the_framework_answers_its_own_words(words, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["diffiml", *words])
    seen = []
    monkeypatch.setattr("diffiml_plugin.framework.stock_cli.framework_main", lambda: seen.append(sys.argv[1:]))
    assert main() == 0
    assert seen == [words]


@pytest.mark.parametrize(
    "words",
    [
        ["test", "--output_dir", "out"],
        ["robust", "--output_dir", "out"],
        ["sweep", "--output_dir", "out", "--vary", "tta=false"],
        ["predict", "SET/Tp", "--output_dir", "out"],
        [
            "train",
            "--output_dir",
            "out",
            "--data_path",
            "SET",
            "--crop_size",
            "32",
            "--epochs",
            "1",
            "--batch_size",
            "4",
            "--total_batch_size",
            "4",
        ],
        ["release", "small", "out.safetensors"],
    ],
    ids=lambda words: words[0],
)
def test_every_verb_takes_the_model_that_travels_along(words, tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if words[0] != "release":
        words = [*words, "--checkpoint_path", "small", "--device", "cpu", "--num_inference_steps", "1"]
    if words[0] not in ("release", "predict"):
        words += ["--test_data_path", str(tiny_dataset / "list.json"), "--num_workers", "0"]
    assert main([word.replace("SET", str(tiny_dataset)) for word in words]) == 0
    assert any(tmp_path.glob("out*"))


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps a folder that is the current one")
def test_a_current_folder_that_is_gone_is_told(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["predict", "/a.jpg"]) == 2
    assert capsys.readouterr().err == "error: the current folder was removed; start from another one\n"


def test_a_program_that_calls_a_command_stays_as_it_is(monkeypatch):
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    finders, environment = list(sys.meta_path), dict(os.environ)
    assert main(["--help"]) == 0 and sys.meta_path == finders and dict(os.environ) == environment
