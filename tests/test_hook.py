"""The start-up hook, with a small stand-in for the framework that says when it is imported."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import diffiml_plugin

PACKAGE = Path(diffiml_plugin.__file__).parent
FRAMEWORK = {
    "IMDLBenCo/__init__.py": "print('framework imported')",
    "IMDLBenCo/cli.py": "import sys\ndef main():\n    print('framework answers', sys.argv[1:])",
    "benco": "import sys\nfrom IMDLBenCo.cli import main\nif __name__ == '__main__':\n    sys.exit(main())",
    "sitecustomize.py": (PACKAGE.parent / "diffiml_plugin.pth").read_text() + "import registration",  # at start-up
    "registration.py": "import sys\nsys.modules['diffiml_plugin.framework.adapters'] = sys.modules[__name__]\n"
    "def register():\n    print('DiffIML registered')",  # the real one imports torch
}
IMPORTED = "framework imported\nDiffIML registered\n"


@pytest.fixture
def benco(tmp_path, monkeypatch):
    """With the hook in a fresh interpreter, `benco(*words)` runs the console script, `benco.run(*words)` anything."""
    for name, text in FRAMEWORK.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(PACKAGE.parent)]))
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path / "compiled"))
    for name in ("DIFFIML_HOOK", "PYTHONDONTWRITEBYTECODE", "PYTHONWARNINGS"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=tmp_path)

    def script(*words: str) -> subprocess.CompletedProcess:
        return run(str(tmp_path / "benco"), *words)

    script.run = run
    return script


def test_our_words_are_answered_without_importing_the_framework(benco):
    done = benco("--help")
    assert done.stdout.startswith("usage: benco VERB") and "framework imported" not in done.stdout
    assert benco("trian").stderr.startswith("error: unknown verb 'trian'; did you mean 'train'?")


@pytest.mark.parametrize("words", [["init", "base"], ["env"], ["-v"]])
def test_the_frameworks_words_are_answered_by_the_framework(benco, words):
    done = benco(*words)
    assert done.stdout == IMPORTED + f"framework answers {words}\n" and done.returncode == 0


def test_the_hook_can_be_turned_off(benco, monkeypatch):
    monkeypatch.setenv("DIFFIML_HOOK", "0")
    assert benco("--help").stdout == "framework imported\nframework answers ['--help']\n"
    assert benco.run("-c", "import sys; print('diffiml_plugin.cli.main' in sys.modules)").stdout == "False\n"


def test_main_is_wrapped_for_other_callers_too(benco):
    code = "from IMDLBenCo.cli import main; main()"
    assert benco.run("-c", code, "--help").stdout.startswith(IMPORTED + "usage: diffiml VERB")
    assert benco.run("-c", code, "env").stdout == IMPORTED + "framework answers ['env']\n"


def test_the_framework_itself_can_be_imported_later_in_the_command(benco, tmp_path):
    """And by worker processes that a verb spawns: they import the script `benco` again to find its classes."""
    (tmp_path / "probe.py").write_text(
        "import multiprocessing\n"
        "def worker():\n    import IMDLBenCo.cli\n    print('worker', IMDLBenCo.__file__ is not None, flush=True)\n"
        "def add_arguments(parser):\n    pass\n"
        "def run(args):\n"
        "    process = multiprocessing.get_context('spawn').Process(target=worker)\n"
        "    process.start(); process.join()\n"
        "    import IMDLBenCo\n    print('command', IMDLBenCo.__file__ is not None)\n"
        "    return process.exitcode\n"
    )
    (tmp_path / "benco").write_text(
        "import diffiml_plugin.cli.main as c, probe, sys\n"
        "c.VERBS['probe'] = ('probe', ''); sys.modules['diffiml_plugin.cli.probe'] = probe\n" + FRAMEWORK["benco"]
    )
    done = benco("probe")
    assert done.returncode == 0, done.stderr
    assert "worker True" in done.stdout and "command True" in done.stdout


@pytest.mark.parametrize("damaged", ["__init__.py", "hook.py", "cli/main.py"])
def test_a_damaged_plugin_leaves_python_and_the_framework_alone(benco, tmp_path, monkeypatch, damaged):
    (tmp_path / "diffiml_plugin" / "cli").mkdir(parents=True)
    for name in ("__init__.py", "hook.py", "cli/main.py"):
        shutil.copy(PACKAGE / name, tmp_path / "diffiml_plugin" / name)
    (tmp_path / "diffiml_plugin" / damaged).write_text("this is no Python")
    (tmp_path / "registration.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    nothing = benco.run("-c", "pass")
    assert (nothing.returncode, nothing.stdout, nothing.stderr) == (0, "", "")
    assert "framework answers ['--help']" in benco("--help").stdout


def test_registration_follows_the_import_of_any_part_of_the_framework(benco):
    assert benco.run("-c", "from IMDLBenCo import cli; import IMDLBenCo").stdout == IMPORTED


def test_a_failing_registration_is_a_warning(benco, tmp_path):
    with open(tmp_path / "registration.py", "a") as file:
        file.write("\ndef register():\n    raise RuntimeError('no luck')")
    done = benco.run("-c", "import IMDLBenCo; print('goes on')")
    assert done.stdout == "framework imported\ngoes on\n"
    assert "DiffIML could not be registered: RuntimeError('no luck')" in done.stderr


def test_start_up_imports_nothing_but_the_hook(benco):
    code = "import os, sys; before = {*sys.modules}; import diffiml_plugin.hook; print({*sys.modules} - before)"
    assert ast.literal_eval(benco.run("-S", "-c", code).stdout) == {"diffiml_plugin", "diffiml_plugin.hook"}
