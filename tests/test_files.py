import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import diffiml_plugin
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.files import beginning, inside, replacing, write_picture, write_text

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
