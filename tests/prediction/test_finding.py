import io
import os
import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from diffiml_plugin.data.images import pixels_held
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.prediction.finding import find_photos, unique_names


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def relatives(words, output):
    return [str(relative) for _, relative in find_photos([str(word) for word in words], output).files]


def test_the_images_own_folder_is_no_output(tmp_path):
    touch(tmp_path, "Tp/a.png", "Au/a.png")  # beside an image, a_mask.png may be the truth
    for paths, output in ((["Tp"], "Tp"), (["Tp/a.png"], "Tp"), (["Tp", "Au"], ".")):
        with pytest.raises(DiffIMLError, match="is the folder of the images|would put masks among the images"):
            relatives([tmp_path / path for path in paths], tmp_path / output)


def test_files_and_folders_are_searched_and_what_is_not_read_is_counted(tmp_path):
    touch(
        tmp_path,
        "b.PNG",
        "deep/a.jfif",
        "notes.txt",
        "scan.pdf",
        "deep/scan.PDF",
        "README",
        ".hidden.jpg",
        ".git/a.jpg",
    )
    os.mkfifo(tmp_path / "pipe.jpg")
    found = find_photos([str(tmp_path), str(tmp_path / "b.PNG")], tmp_path / "out")
    assert [str(relative) for _, relative in found.files] == ["b.PNG", "deep/a.jfif"]
    assert found.left_out == Counter({".pdf": 2, ".txt": 1, "without a suffix": 1, "hidden": 1, "no regular files": 1})
    assert found.described().startswith("2 .pdf, 1 ")


def test_heic_that_is_not_read_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr("diffiml_plugin.prediction.finding.readable_formats", lambda: ("JPEG",))
    touch(tmp_path, "a.jpg", "b.heic")
    assert "1 .heic (HEIC needs pillow-heif" in find_photos([str(tmp_path)], tmp_path / "out").described()


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("missing.jpg", "missing.jpg does not exist"),
        ("https://example.com/a.jpg", "is an address; download the photo"),
        ("*.webp", "fits no file"),
        ("empty", "empty holds no image in it or below; it holds nothing"),
        ("texts", "texts holds no image in it or below; it holds 1 .txt"),
        ("x" * 5000, "does not exist"),
    ],
)
def test_what_is_no_photo_is_said_in_one_sentence(tmp_path, monkeypatch, word, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    touch(tmp_path, "texts/a.txt")
    with pytest.raises(DiffIMLError, match=told) as refused:
        relatives([word], tmp_path / "out")
    assert "\n" not in str(refused.value)


def test_patterns_are_expanded_where_the_shell_did_not(tmp_path):
    touch(tmp_path, "x/b.jpg", "x/a.jpg", "x/y/c.jpg", "x/[1].jpg")
    assert relatives([tmp_path / "x" / "*.jpg"], tmp_path / "out") == ["[1].jpg", "a.jpg", "b.jpg"]
    assert len(relatives([tmp_path / "x" / "**" / "*.jpg"], tmp_path / "out")) == 4
    assert relatives([tmp_path / "x" / "[1].jpg"], tmp_path / "out") == ["[1].jpg"]


def test_a_list_on_stdin(tmp_path, monkeypatch):
    touch(tmp_path, "a.jpg", "x/b.jpg")
    lines = f"\ufeff# photos\n\n {tmp_path}/a.jpg \r\n{tmp_path}/x\n{tmp_path}/gone.jpg\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    assert relatives(["-"], tmp_path / "out") == ["a.jpg", "b.jpg", "gone.jpg"]  # whose line will say that it is gone
    touch(tmp_path, "a.jpg ")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{tmp_path}/a.jpg\n{tmp_path}/a.jpg \n".encode())))
    assert relatives(["-"], tmp_path / "out") == ["a.jpg", "a.jpg "]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"# nothing\n")))
    with pytest.raises(DiffIMLError, match="the list on stdin names no image"):
        relatives(["-"], tmp_path / "out")


@pytest.mark.parametrize("line", ["a\0b.jpg", "x" * 300 + ".jpg"])
def test_a_line_that_no_file_can_be_called_ends_no_list(tmp_path, monkeypatch, line):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{line}\n{tmp_path}/a.jpg\n".encode())))
    assert [file for file, _ in find_photos(["-"], tmp_path / "out").files] == [Path(line), tmp_path / "a.jpg"]
    assert pixels_held(line) == 0


def test_a_list_on_stdin_from_windows(tmp_path, monkeypatch):
    touch(tmp_path, "x/b.jpg", "x/with\\in.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"x\\b.jpg\r\nx/with\\in.jpg\r\n")))
    assert relatives(["-"], tmp_path / "out") == ["b.jpg", "with\\in.jpg"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("x\\b.jpg\r\n".encode("utf-16"))))
    with pytest.raises(DiffIMLError, match="the list on stdin is UTF-16, as PowerShell writes it"):
        relatives(["-"], tmp_path / "out")


def test_a_list_on_stdin_without_an_end_is_refused(tmp_path, monkeypatch):
    with open("/dev/zero") as endless:
        monkeypatch.setattr(sys, "stdin", endless)
        with pytest.raises(DiffIMLError, match="the list on stdin has more than 268435456 bytes; split it"):
            relatives(["-"], tmp_path / "out")


def test_linked_folders_are_followed_once(tmp_path):
    touch(tmp_path, "in/a.jpg", "elsewhere/b.jpg")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "broken.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert relatives([tmp_path / "in"], tmp_path / "out") == ["a.jpg", "broken.jpg", "again/b.jpg"]


def test_files_of_one_name_keep_their_folders(tmp_path):
    touch(tmp_path, "x/1.jpg", "y/1.jpg", "y/2.jpg")
    for named in ([tmp_path / "x", tmp_path / "y"], sorted(tmp_path.rglob("*.jpg"))):
        assert relatives(named, tmp_path / "out") == ["x/1.jpg", "y/1.jpg", "y/2.jpg"]


def test_output_folder_is_left_out(tmp_path):
    touch(tmp_path, "a.jpg", "out/a_mask.png")
    assert relatives([tmp_path], tmp_path / "out") == ["a.jpg"]
    assert relatives([tmp_path / "out" / "a_mask.png"], tmp_path) == ["a_mask.png"]
    with pytest.raises(DiffIMLError, match="is the folder of the images"):
        relatives([tmp_path], tmp_path)


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a.jpg", "x/a.jpg"], ["a", "x/a"]),
        (["a.jpg", "a.png"], ["a.jpg", "a.png"]),
        (["a.jpg", "a.jpg.tif"], ["a", "a.jpg.tif"]),
        (["a.jpg", "a.png", "a.jpg.tif"], ["a.jpg", "a.png", "a.jpg.tif"]),
        (["a.jpg", "A.JPG"], ["a.jpg", "A.JPG-2"]),  # where upper and lower case are one
        (["\u00e9.jpg", "e\u0301.jpg"], ["\u00e9.jpg", "e\u0301.jpg-2"]),  # and both ways to write an accent
        (["taken.jpg"], ["taken.jpg"]),
        (["..jpg", "...jpg", "x/..png"], ["..jpg", "...jpg", "x/..png"]),
    ],
)
def test_names_are_unique_by_construction(files, names):
    assert [str(name) for name in unique_names(map(Path, files), ["taken"])] == names


def test_no_folder_has_the_name_of_a_file_that_is_written():
    files = ["report.html/a.jpg", "report.html-2/a.jpg", "REPORT.html/b.jpg", "x/a_mask.png/c.jpg", "report.html.jpg"]
    names = unique_names(map(Path, files), reserved=["report.html"], endings=("_mask.png",))
    assert [str(name) for name in names] == [
        "report.html-2/a.jpg",
        "report.html-2/a.jpg-2",
        "REPORT.html-2/b",
        "x/a_mask.png-2/c",
        "report.html",
    ]


def test_a_name_that_another_spelling_took_is_given_away():
    assert [str(name) for name in unique_names([Path("a.jpg"), Path("x/b.jpg")], ["./A", "x//b"])] == [
        "a.jpg",
        "x/b.jpg",
    ]


def test_a_name_too_long_for_a_file_system_is_cut(tmp_path):
    files = [Path("x" * 240 + end) for end in ("a.jpg", "b.jpg")]
    names = unique_names(files)
    assert len(set(names)) == 2
    for name in names:
        (tmp_path / f"{name}_uncertainty.png").touch()
