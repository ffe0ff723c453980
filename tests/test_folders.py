import errno
import json
import os
import platform
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.files import appending, write_picture, write_text
from diffiml_plugin.folders import LOCK, _here, claimed, taking_turns, user_cache


def test_what_is_kept_lies_where_nobody_else_writes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    (ours := tmp_path / "XDG_CACHE_HOME" / "diffiml_plugin" / "a").mkdir(parents=True)
    for folder in (ours, ours.parent):
        folder.chmod(0o777)  # as of another umask
    assert user_cache("a") == ours
    assert all(stat.S_IMODE(folder.stat().st_mode) == 0o700 for folder in (ours, ours.parent))
    monkeypatch.setenv("XDG_CACHE_HOME", "of_the_current_folder")
    assert user_cache("a") == tmp_path / "HOME" / ".cache" / "diffiml_plugin" / "a"
    monkeypatch.setenv("HOME", "~")  # as of a container's user whom nobody named
    assert user_cache("a") is None
    assert {path.name for path in tmp_path.iterdir()} == {"XDG_CACHE_HOME", "HOME"}


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="gives a folder to another user")
def test_a_folder_of_another_user_keeps_nothing(tmp_path, monkeypatch):
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    (ours := tmp_path / "XDG_CACHE_HOME" / "diffiml_plugin").mkdir(parents=True)
    os.chown(ours, 1, 1)
    mode = stat.S_IMODE(ours.stat().st_mode)
    assert user_cache("a") == tmp_path / "HOME" / ".cache" / "diffiml_plugin" / "a"
    assert stat.S_IMODE(ours.stat().st_mode) == mode and not any(ours.iterdir())


def holder(folder, child_environment, leave=""):
    """A process that holds a claim on the folder until its stdin ends."""
    code = f"""import os, sys; from diffiml_plugin.folders import claimed
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
        code = "import sys; from diffiml_plugin.folders import claimed\nwith claimed(sys.argv[1]): pass"
        other = subprocess.run([sys.executable, "-c", code, tmp_path], env=child_environment, capture_output=True)
        assert f"in use by process {os.getpid()}".encode() in other.stderr, "the first claim still holds"
    with claimed(tmp_path / "link"):
        pass


@pytest.mark.parametrize("how", ["moved", "removed", "a link set anew"])
def test_nothing_is_written_into_a_folder_that_took_the_claimed_ones_place(tmp_path, child_environment, how):
    place, lost = tmp_path / "run", "run, or its .lock, was moved, removed or replaced while this command wrote there"
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
    (tmp_path / "alias").symlink_to("run")
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
            for path in (place / "last", place / "new", tmp_path / "alias" / "new", place / "below" / "new"):
                if how != "a link set anew" or path.parent.name != "alias":  # which never was the claimed one's name
                    with pytest.raises(DiffIMLError, match=lost):
                        write_text(path, "ours")
    with other:
        with pytest.raises(DiffIMLError, match=f"in use by process {other.pid}"), claimed(place):
            pass
        other.communicate()
    assert {file.name for file in place.iterdir()} <= {"last", "log", "below"}
    assert (place / "last").read_text() == (place / "log").read_text() == "another's"


def test_a_claimed_folder_that_was_removed_does_not_come_back(tmp_path):
    with claimed(tmp_path / "run") as folder:
        shutil.rmtree(folder)
        for write in (lambda path: write_text(path, "x"), lambda path: write_picture(path, np.zeros((2, 2), np.uint8))):
            with pytest.raises(DiffIMLError, match="was moved, removed or replaced"):
                write(folder / "below" / "a.png")
    assert not folder.exists()


def test_an_empty_folder_that_took_a_new_ones_place_is_left(tmp_path):
    with claimed(tmp_path / "run"):
        (tmp_path / "run").rename(tmp_path / "old")
        (tmp_path / "run").mkdir()
    assert (tmp_path / "run").is_dir()


@pytest.mark.parametrize("name", ["link/../run", "./run", "a/../run"])
def test_a_claim_holds_under_any_name_and_in_another_current_folder(tmp_path, monkeypatch, name):
    (tmp_path / "elsewhere" / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to("elsewhere/below")
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path)
    with claimed(name) as folder:
        write_text(folder / "x", "ours")
        write_text(folder.resolve() / "y", "ours")
        real = folder.resolve()
        monkeypatch.chdir(tmp_path / "a")
    assert {file.name for file in real.iterdir()} == {"x", "y"}


def test_what_ends_a_block_is_told_though_the_folder_is_gone(tmp_path):
    with pytest.raises(KeyboardInterrupt), claimed(tmp_path / "run") as folder, appending(folder / "log"):
        folder.rename(tmp_path / "old")
        raise KeyboardInterrupt


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


@pytest.mark.parametrize("pid", [1, 2**30, 2**62])
@pytest.mark.parametrize("host", [platform.node(), "elsewhere"])
def test_without_locks_of_the_file_system_the_owner_counts(tmp_path, monkeypatch, pid, host):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", none)
    (tmp_path / LOCK).write_text(json.dumps({"host": host, "pid": pid, "command": "x"}))
    if pid == 2**30 and host == platform.node():
        with claimed(tmp_path):
            pass
    else:
        with pytest.raises(DiffIMLError, match=f"in use by process {pid} on {host}"), claimed(tmp_path):
            pass


def test_a_folder_in_which_nothing_was_written_is_not_left(tmp_path):
    with claimed(tmp_path / "new") as folder:
        assert folder.is_dir()
    assert not folder.exists()
    with claimed(folder):
        (folder / "result").touch()
    assert [path.name for path in folder.iterdir()] == ["result"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "mine",
        "3",
        b"\xff",
        "[" * 10**5,
        '{"mine": 1}',
        '{"host": "HERE", "pid": 1}',
        '{"host": "HERE", "pid": 1073741824, "table": "mine"}',
        '{"host": "HERE", "pid": 1073741824, "command": "x", "more": 1}',
        '{"host": "HERE", "command": "x", "pid": 1073741824}',
        '{"host": "HERE", "pid": 1e400, "command": "x"}',
        '{"host": "HERE", "pid": "1073741824", "command": "x"}',
        '{"host": "HERE", "pid": 1073741824, "command": "x"}' + " " * 2**16 + "mine",
    ],
)
@pytest.mark.parametrize("locks", [True, False])
def test_another_programs_file_in_place_of_the_lock_is_kept(tmp_path, monkeypatch, content, locks):
    if not locks:
        monkeypatch.setattr(
            "fcntl.lockf", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "No locks available"))
        )
    path = tmp_path / LOCK
    path.write_bytes(content if isinstance(content, bytes) else content.replace("HERE", platform.node()).encode())
    before = path.read_bytes(), path.stat()
    with pytest.raises(DiffIMLError, match=f"{path} is empty or not of this command"), claimed(tmp_path):
        pass
    assert (path.read_bytes(), path.stat()) == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_that_a_process_left_is_removed_by_that_name_alone(tmp_path):
    """Nothing is written into a file that was there."""
    left = json.dumps({"host": platform.node(), "pid": 2**30, "command": "x"})
    (tmp_path / "mine").write_text(left)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / LOCK).hardlink_to(tmp_path / "mine")
    with claimed(tmp_path / "out") as folder:
        assert json.loads((folder / LOCK).read_text())["pid"] == os.getpid()
    assert (tmp_path / "mine").read_text() == left and not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("links", [True, False])
def test_a_lock_has_no_name_before_it_is_whole(tmp_path, monkeypatch, links, child_environment):
    link = os.link

    def linked(draft, path):
        assert draft.stat().st_size > 0 and not path.exists()  # to read it here would end the system's lock
        if not links:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        link(draft, path)

    monkeypatch.setattr(os, "link", linked)
    monkeypatch.setattr(sys, "argv", ["benco", *["photo"] * 10**5])
    with claimed(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]
        code = "import sys; from diffiml_plugin.folders import claimed\nwith claimed(sys.argv[1]): pass"
        other = subprocess.run([sys.executable, "-c", code, tmp_path], env=child_environment, capture_output=True)
        assert f"in use by process {os.getpid()}".encode() in other.stderr
    assert not list(tmp_path.iterdir())


def test_a_lock_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("diffiml_plugin.folders.json.dumps", full)
    with pytest.raises(DiffIMLError, match="cannot be claimed by .*: No space left on device"), claimed(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_where_two_names_of_a_file_are_two_files_a_folder_is_claimed_too(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", shutil.copyfile)  # as sshfs shows it
    with claimed(tmp_path) as folder:
        write_text(folder / "a", "ours")
        with pytest.raises(DiffIMLError, match="is in use by this process"), claimed(tmp_path):
            pass
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / LOCK).symlink_to(tmp_path / "mine")
    with pytest.raises(DiffIMLError, match="cannot be claimed"), claimed(tmp_path):
        pass
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("name", ["", "~", "~/runs"])
def test_what_only_a_shell_expands_is_no_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DiffIMLError, match="has an empty name|begins with ~"), claimed(name):
        pass
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a\0b", "a" * 300])
def test_what_can_be_no_folder_is_refused(tmp_path, name):
    with pytest.raises(DiffIMLError, match="cannot write to .*; choose another --output_dir"), claimed(tmp_path / name):
        pass


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
