import errno
import os
import re
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import diffiml_plugin
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.files import (
    appending,
    beginning,
    file_digest,
    inside,
    replacing,
    require_free,
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


def test_names_that_are_not_utf8_are_spelled_out(tmp_path):
    write_text(tmp_path / "a.txt", os.fsdecode(b"b\xff.jpg"))
    assert (tmp_path / "a.txt").read_text() == "b\\udcff.jpg"


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


def test_what_took_a_results_place_between_two_writes_stays(tmp_path):
    file = tmp_path / "table.json"
    require_free(file)
    write_text(file, "first")
    write_text(file, "second")
    file.write_text("a user's")
    with pytest.raises(DiffIMLError, match="written by another process meanwhile .* this result is .*table_2.json"):
        write_text(file, "third")
    assert file.read_text() == "a user's" and (tmp_path / "table_2.json").read_text() == "third"


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


@pytest.mark.skipif(not os.path.exists("/proc/self/pagemap"), reason="a file of Linux that has no end")
def test_a_digest_is_of_as_many_bytes_as_a_file_has():
    assert file_digest("/proc/self/pagemap") == sha256().hexdigest()
