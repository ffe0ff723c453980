import errno
import shutil
import subprocess
import threading
import time
from dataclasses import replace

import pytest

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.folders import claimed
from diffiml_plugin.prediction.pictures import HEADING
from diffiml_plugin.training import tracking
from diffiml_plugin.training.engine import train
from diffiml_plugin.training.tracking import Tracker, failing_once


def test_tensorboard_has_curves_strips_and_settings(settings):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = train(settings).folder
    events = EventAccumulator(str(folder))
    events.Reload()
    assert {"train_loss/loss", "lr", "pixel-level F1/tiny"} <= set(events.Tags()["scalars"])
    strip = events.Images(events.Tags()["images"][0])[0]
    assert (strip.height, strip.width) == (4 * (64 + HEADING), 3 * 64)  # four images: input, mask, prediction
    plugins = {metadata.plugin_data.plugin_name for metadata in events.summary_metadata.values()}
    assert "hparams" in plugins and "F1" in events.Tags()["scalars"]
    (shown,) = events.Tensors("config/text_summary")
    assert "epochs: 2" in shown.tensor_proto.string_val[0].decode()
    figures = {"pixel-level AUC/tiny", "pixel-level F1 at best threshold/tiny"}
    assert figures <= set(events.Tags()["scalars"])  # a weak model's progress


def test_runs_share_a_log_dir_and_no_curves(settings, tmp_path, points):
    logs = tmp_path / "tb"
    for name, epochs in (("a/run", 1), ("b/run", 2)):
        train(replace(settings, output_dir=str(tmp_path / name), log_dir=str(logs), epochs=epochs))
    time.sleep(1.1)  # of one second, TensorBoard sorts files by their number in words: 10 before 9
    train(replace(settings, output_dir=str(tmp_path / "a/run"), log_dir=str(logs), epochs=3, resume="auto"))
    folders = sorted(logs.iterdir(), key=lambda folder: len(list(folder.iterdir())))
    assert [points(folder)["F1"] for folder in folders] == [[2, 4], [2, 4, 6]]
    shutil.rmtree(tmp_path / "b")  # a new run there begins its curves anew
    train(replace(settings, output_dir=str(tmp_path / "b/run"), log_dir=str(logs), epochs=1))
    assert points(folders[0])["F1"] == [2]


def test_the_log_dir_that_is_the_output_dir_is_no_other(settings, points):
    folder = train(replace(settings, log_dir=f"{settings.output_dir}/../run", epochs=1)).folder
    assert points(folder)["F1"] == [2] and not [entry for entry in folder.iterdir() if entry.is_dir()]


def test_no_curves_in_a_folder_that_took_the_runs_place(tmp_path):
    """TensorBoard opens its file by name, each time."""
    with claimed(tmp_path / "run") as folder:
        tracker = Tracker(folder, folder, epochs=1, images=1)
        tracker.losses({"loss": 1.0}, 0.1, 1)
        folder.rename(tmp_path / "old")
        folder.mkdir()
        with pytest.raises(DiffIMLError, match="run, or its .lock, was moved"):
            tracker.losses({"loss": 1.0}, 0.1, 2)
        tracker.close()
    assert not any((tmp_path / "run").iterdir())


def test_a_disk_that_is_full_for_curves_is_told_in_a_sentence(settings, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    tracebacks = []
    monkeypatch.setattr("threading.excepthook", tracebacks.append)
    monkeypatch.setattr("tensorboard.compat.tensorflow_stub.io.gfile.LocalFileSystem.append", refuse)
    with pytest.raises(DiffIMLError, match="the disk of .* is full; free some space and go on with --resume auto"):
        train(settings)
    assert not tracebacks and threading.excepthook == tracebacks.append
    with failing_once():
        thread = threading.Thread(target=refuse)  # whose error nobody else tells
        thread.start()
        thread.join()
    assert len(tracebacks) == 1
    monkeypatch.undo()
    assert train(replace(settings, resume="auto")).folder


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository that holds the package, and git in it."""
    if not shutil.which("git"):
        pytest.skip("needs git")
    package = tmp_path / "repository" / "diffiml_plugin"
    (package / "training").mkdir(parents=True)
    for name in ("__init__.py", "training/tracking.py"):
        (package / name).write_text(name)
    monkeypatch.setattr(tracking, "__file__", str(package / "training" / "tracking.py"))

    def git(*words):
        settings = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
        command = ["git", "-C", str(package.parent), *settings, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init")
    git("add", ".")
    git("commit", "-m", "x")
    return package, git


def test_a_run_names_the_revision_of_its_checkout(checkout):
    package, git = checkout
    revision = git("rev-parse", "HEAD")
    assert tracking._git_revision() == revision
    (package / "new.py").write_text("")  # as of an editor
    assert tracking._git_revision() == revision
    (package / "__init__.py").write_text("other")
    assert tracking._git_revision() == f"{revision}+changes"
    git("rm", "-r", "--cached", ".")
    git("commit", "--allow-empty", "-m", "not its package's")
    assert tracking._git_revision() is None
    shutil.rmtree(package.parent / ".git")
    assert tracking._git_revision() is None


def test_the_repository_around_the_package_runs_nothing(checkout, tmp_path):
    package, git = checkout
    program, ran = tmp_path / "program", tmp_path / "ran"
    program.write_text(f"#!/bin/sh\necho $0 >> {ran}\n")
    program.chmod(0o755)
    hook = package.parent / ".git" / "hooks" / "post-index-change"
    hook.parent.mkdir(exist_ok=True)
    shutil.copy(program, hook)
    (package.parent / ".git" / "info").mkdir(exist_ok=True)
    (package.parent / ".git" / "info" / "attributes").write_text("* filter=evil\n")
    for name in ("core.fsmonitor", "filter.evil.clean", "filter.evil.process", "core.sshCommand", "core.pager"):
        git("config", name, str(program))
    (package / "__init__.py").write_text("other bytes")
    revision = tracking._git_revision()
    assert not ran.exists(), ran.read_text()
    assert revision.endswith("+changes")
    tree = git("rev-parse", "HEAD:diffiml_plugin")
    (package.parent / ".git" / "objects" / tree[:2] / tree[2:]).unlink()  # as of a clone that fetches what it misses
    for name, value in {
        "core.repositoryFormatVersion": "1",
        "extensions.partialClone": "origin",
        "remote.origin.promisor": "true",
        "remote.origin.url": f"ext::{program}",
        "protocol.ext.allow": "always",
    }.items():
        git("config", name, value)
    assert tracking._git_revision() is None
    assert not ran.exists(), ran.read_text()
