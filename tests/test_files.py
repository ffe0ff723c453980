import errno
import json
import os
import platform
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

import diffiml_plugin
from diffiml_plugin.errors import DiffIMLError, visible
from diffiml_plugin.files import (
    LOCK,
    _here,
    add_legend,
    appending,
    beginning,
    claimed,
    drawing,
    inside,
    replacing,
    require_free,
    taking_turns,
    user_cache,
    write_picture,
    write_text,
)
from diffiml_plugin.ledger import begin

PACKAGE = Path(diffiml_plugin.__file__).parent


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.txt", lambda path: write_text(path, "new")),
        ("a.png", lambda path: write_picture(path, np.zeros((2, 3), np.uint8))),
    ],
)
def test_a_link_is_replaced_and_not_followed(tmp_path, name, write):
    original, link = tmp_path / "original", tmp_path / name
    original.write_text("mine")
    link.symlink_to(original)
    write(link)
    assert original.read_text() == "mine" and not link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["original", name])


def test_a_file_is_the_old_one_until_it_is_whole(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), replacing(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_who_may_read_a_file_stays_as_it_was(tmp_path):
    path = tmp_path / "weights"
    path.touch(0o600)
    path.chmod(0o600)
    (tmp_path / "link").symlink_to(path)
    for name in ("weights", "link"):
        write_text(tmp_path / name, "x")
    assert path.stat().st_mode & 0o777 == 0o600
    write_text(tmp_path / "new", "x")
    assert (tmp_path / "link").stat().st_mode == (tmp_path / "new").stat().st_mode  # a link says nothing of that


def test_the_longest_names_there_are(tmp_path):
    long = "n" * 251
    write_picture(tmp_path / f"{long}.png", np.zeros((2, 2), np.uint8))
    assert Image.open(tmp_path / f"{long}.png").size == (2, 2)
    assert beginning("short") == "short" and len(os.fsencode(beginning("\u00e9" * 150))) == 200
    assert beginning(os.fsdecode(b"\xff")) == os.fsdecode(b"\xff")


@pytest.mark.parametrize("name", ["$\\frac{$", "a$\\nothing$b", "\udcff", "a\nb", "_a", "__a: b"])
def test_a_name_in_a_plots_legend_is_shown_as_it_is(tmp_path, name):
    with drawing(tmp_path / "a.png", (6, 4), dpi=50) as figure:
        panel = figure.subplots()
        panel.plot([1, 10], [1, 10], label=name)
        panel.plot([1, 10], [2, 20], label="b")
        panel.set_yscale("log")
        add_legend(panel)
    assert Image.open(tmp_path / "a.png").size[0] > 100
    assert [text.get_text() for text in panel.get_legend().get_texts()] == [visible(name), "b"]


def test_no_matplotlibrc_decides_how_a_plot_looks(tmp_path):
    for settings in ({}, {"text.usetex": True, "lines.linewidth": 0, "figure.facecolor": "red"}):
        with matplotlib.rc_context(settings), drawing(tmp_path / f"{len(settings)}.png", (3, 2), dpi=50) as figure:
            figure.subplots().plot([1, 10], [1, 10])
    assert (tmp_path / "0.png").read_bytes() == (tmp_path / "3.png").read_bytes()


def test_names_that_are_not_utf8_are_spelled_out(tmp_path):
    write_text(tmp_path / "a.txt", os.fsdecode(b"b\xff.jpg"))
    assert (tmp_path / "a.txt").read_text() == "b\\udcff.jpg"


def test_what_is_kept_lies_where_nobody_else_writes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    assert (first := user_cache("a")) == tmp_path / "XDG_CACHE_HOME" / "diffiml_plugin" / "a"
    monkeypatch.setenv("XDG_CACHE_HOME", "of_the_current_folder")
    assert (second := user_cache("a")) == tmp_path / "HOME" / ".cache" / "diffiml_plugin" / "a"
    monkeypatch.setenv("HOME", "~")  # as of a container's user whom nobody named
    third = user_cache("a")
    assert third == user_cache("a") and not third.is_relative_to(tmp_path)
    assert all(stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0 for folder in (first, second, third.parent))
    assert {path.name for path in tmp_path.iterdir()} == {"XDG_CACHE_HOME", "HOME"}


def test_what_leads_out_of_a_folder_is_refused(tmp_path):
    (tmp_path / "out" / "part").mkdir(parents=True)
    (tmp_path / "out" / "link").symlink_to(tmp_path)
    assert inside(tmp_path / "out", "part/a.png") == tmp_path / "out" / "part" / "a.png"
    for name in ("../a.png", "link/a.png", "/etc/a.png"):
        with pytest.raises(DiffIMLError, match="lies outside of .*out, in "):
            inside(tmp_path / "out", name)


def test_nothing_else_writes_files():
    """Text, pictures and plots go through one module. (A run's growing log and TensorBoard's are their own.)"""
    writes = re.compile(
        r"\.write_(text|bytes)\(|\.savefig\((?!file)|fromarray\(.*\.save\((?!file)|open\(.*[\"']wb?[\"']"
    )
    assert not [
        f"{path}:{number}"
        for path in PACKAGE.rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if path.name != "files.py" and writes.search(line)
    ]


def holder(folder, child_environment, leave=""):
    """A process that holds a claim on the folder until its stdin ends."""
    code = f"""import os, sys; from diffiml_plugin.files import claimed
with claimed(sys.argv[1]):
    print("claimed", flush=True); sys.stdin.read(); {leave}"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], env=child_environment, **pipes)
    assert process.stdout.readline() == "claimed\n"
    return process


def test_a_folder_is_one_processes_alone(tmp_path, child_environment):
    with holder(tmp_path, child_environment) as other:
        with pytest.raises(DiffIMLError, match=f"in use by process {other.pid} on {platform.node()}.*write elsewhere"):
            with claimed(tmp_path):
                pass
        other.communicate()
    with claimed(tmp_path) as folder:
        assert json.loads((folder / LOCK).read_text())["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_a_folder_is_one_threads_alone(tmp_path, child_environment):
    (tmp_path / "link").symlink_to(".")
    with claimed(tmp_path):
        with pytest.raises(DiffIMLError, match="link is in use by this process; wait until that ends"):
            with claimed(tmp_path / "link"):
                pass
        code = "import sys; from diffiml_plugin.files import claimed\nwith claimed(sys.argv[1]): pass"
        other = subprocess.run([sys.executable, "-c", code, tmp_path], env=child_environment, capture_output=True)
        assert f"in use by process {os.getpid()}".encode() in other.stderr, "the first claim still holds"
    with claimed(tmp_path / "link"):
        pass


@pytest.mark.parametrize("how", ["moved", "removed", "a link set anew"])
def test_nothing_is_written_into_a_folder_that_took_the_claimed_ones_place(tmp_path, child_environment, how):
    place, lost = tmp_path / "run", "run was moved, removed or replaced while this command wrote there"
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
    if how == "a link set anew":
        place.symlink_to("first")
    with pytest.raises(DiffIMLError, match=lost), claimed(place):
        write_text(place / "last", "ours")
        with appending(place / "log"):
            if how == "moved":
                place.rename(tmp_path / "old")
            elif how == "removed":
                shutil.rmtree(place)
            else:
                place.unlink()
                place.symlink_to("second")
            with pytest.raises(DiffIMLError, match=lost):  # though nobody is there yet
                write_text(place / "last", "ours")
            other = holder(place, child_environment)
            for name in ("last", "log"):
                (place / name).write_text("another's")
            for name in ("last", "new"):
                with pytest.raises(DiffIMLError, match=lost):
                    write_text(place / name, "ours")
    with other:
        with pytest.raises(DiffIMLError, match=f"in use by process {other.pid}"), claimed(place):
            pass
        other.communicate()
    assert {file.name: file.read_text() for file in place.iterdir()} == {"last": "another's", "log": "another's"}


def test_the_claim_and_half_written_files_of_a_killed_process_are_gone(tmp_path, child_environment):
    def half_written(process, thread=5, computer=""):
        path = tmp_path / f".0123456789abcdef.{computer or _here()}.{thread}.{process}.tmp"
        path.write_text("half")
        return path

    with holder(tmp_path, child_environment, "os._exit(9)") as other:
        half_written(other.pid)
        half_written(os.getpid())  # of a process that died and had this one's number
        elsewhere = half_written(2**30, computer="0" * 8)
        (earlier := tmp_path / f".0123456789abcdef.5.{2**30}.tmp").touch()  # of an earlier version
        kept = [half_written(os.getppid()), tmp_path / ".a.tmp", tmp_path / "a.tmp", elsewhere, earlier]
        for users in kept[1:3]:
            users.write_text("a user's")
        other.communicate()
    assert (tmp_path / LOCK).exists()
    with ThreadPoolExecutor(1) as pool:
        kept.append(half_written(os.getpid(), pool.submit(threading.get_ident).result()))
        with claimed(tmp_path):
            pass
        assert set(tmp_path.iterdir()) == set(kept)
    for old in (elsewhere, earlier):
        os.utime(old, times=(0, 0))
    with claimed(tmp_path):
        pass
    assert set(tmp_path.iterdir()) == set(kept[:3])


@pytest.mark.parametrize("pid", [None, 1, 2**30])
@pytest.mark.parametrize("host", [platform.node(), "elsewhere"])
def test_without_locks_of_the_file_system_the_owner_counts(tmp_path, monkeypatch, pid, host):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", none)
    (tmp_path / LOCK).write_text("" if pid is None else json.dumps({"pid": pid, "host": host, "command": "x"}))
    if pid is None or (pid == 2**30 and host == platform.node()):
        with claimed(tmp_path):
            pass
    else:
        with pytest.raises(DiffIMLError, match=f"in use by process {pid} on {host}"), claimed(tmp_path):
            pass


@pytest.mark.parametrize("said", ['{"pid": 1e400, "host": "HERE"}', '{"pid": [], "host": "HERE"}', "[" * 10**5, "3"])
def test_an_odd_lock_is_no_traceback(tmp_path, monkeypatch, said):
    monkeypatch.setattr("fcntl.lockf", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "No locks available")))
    (tmp_path / LOCK).write_text(said.replace("HERE", platform.node()))
    with suppress(DiffIMLError), claimed(tmp_path):
        pass


def test_a_folder_in_which_nothing_was_written_is_not_left(tmp_path):
    with claimed(tmp_path / "new") as folder:
        assert folder.is_dir()
    assert not folder.exists()
    with claimed(folder):
        (folder / "result").touch()
    assert [path.name for path in folder.iterdir()] == ["result"]


@pytest.mark.parametrize("content", ["", "mine", '{"mine": 1}', '{"host": "mine", "pid": 1}'])
def test_a_file_in_place_of_the_lock_is_kept(tmp_path, content):
    (tmp_path / "mine").write_text(content)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / LOCK).hardlink_to(tmp_path / "mine")
    with pytest.raises(DiffIMLError, match="another program's"), claimed(tmp_path / "out"):
        pass
    assert (tmp_path / "mine").read_text() == (tmp_path / "out" / LOCK).read_text() == content


def test_a_file_that_another_process_wrote_meanwhile_is_kept(tmp_path):
    for name in ("a.json", "b.json"):
        require_free(tmp_path / name)
    for name in ("a.json", "a_2.json"):
        (tmp_path / name).write_text("another's")
    with pytest.raises(DiffIMLError, match="a.json was written by another process .*; this result is .*/a_3.json"):
        write_text(tmp_path / "a.json", "ours")
    for text in ("ours", "ours again"):
        write_text(tmp_path / "b.json", text)
    contents = {"a.json": "another's", "a_2.json": "another's", "a_3.json": "ours", "b.json": "ours again"}
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == contents


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / LOCK).symlink_to(tmp_path / "mine")
    with pytest.raises(DiffIMLError, match="cannot be claimed"), claimed(tmp_path):
        pass
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("name", ["a\0b", "a" * 300])
def test_what_can_be_no_folder_is_refused(tmp_path, name):
    with pytest.raises(DiffIMLError, match="cannot write to .*; choose another --output_dir"), claimed(tmp_path / name):
        pass


def test_a_full_disk_is_told_with_the_file(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device: '.*mask.png'"), replacing(tmp_path / "mask.png"):
        pass
    assert not any(tmp_path.iterdir())


def test_a_disk_that_is_just_full_leaves_no_part_of_a_line_unsaid(tmp_path):
    resource = pytest.importorskip("resource")  # not on Windows
    log, results = tmp_path / "log.jsonl", tmp_path / "run" / "results.md"
    results.parent.mkdir()
    begin(results.parent, "a verb", {}, [results])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with appending(log) as file:
        file.write(b"a line\n")
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))  # as if a disk had room for so much
        try:
            with pytest.raises(OSError):
                file.write(200 * b"a")
            with pytest.raises(DiffIMLError, match="cannot write"):  # its line in the ledger is longer
                write_text(results, "short")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not results.exists()
    write_text(results, "short")
    begin(results.parent, "a verb", {}, [results])  # which knows it


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp", ".bmp"])
def test_a_disk_that_is_just_full_leaves_no_part_of_a_picture(tmp_path, suffix):
    resource = pytest.importorskip("resource")  # not on Windows
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # as if a disk had room for so much
    try:
        with pytest.raises(OSError, match=f"too large: .*a{suffix}"):
            write_picture(tmp_path / f"a{suffix}", pixels)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not any(tmp_path.iterdir())


def test_a_turn_ends_though_a_process_that_was_forked_inside_lives_on(tmp_path):
    with taking_turns(tmp_path / "out"):
        if not (child := os.fork()):
            time.sleep(60)
            os._exit(0)
    started = time.monotonic()
    try:
        with taking_turns(tmp_path / "out"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert time.monotonic() - started < 30
