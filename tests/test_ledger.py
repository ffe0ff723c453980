import json
import os
import shutil
from hashlib import sha256
from pathlib import Path

import pytest

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.files import appending, replacing, write_text
from diffiml_plugin.ledger import LEDGER, Ledger, begin, discard, enter, warn_if_changed


def run(folder: Path, text: str = "ours", name: str = "a.txt", **settings: object) -> None:
    """A command that writes one file."""
    begin(folder, "test", settings, [folder / name])
    write_text(folder / name, text)


def test_the_same_command_goes_on_in_a_copy_of_its_folder(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    run(Path("out"), seed=1)  # by a relative path
    shutil.copytree(tmp_path / "out", tmp_path / "copy", copy_function=shutil.copyfile)  # with other dates
    monkeypatch.chdir("/")
    run(tmp_path / "copy", "again", seed=1)
    assert (tmp_path / "copy" / "a.txt").read_text() == "again" and (tmp_path / "out" / "a.txt").read_text() == "ours"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda file: file.write_text("mine"), "a.txt has changed since it was written"),
        (lambda file: (file.unlink(), file.symlink_to(file.with_name(LEDGER))), "a.txt has changed since"),
        (lambda file: (file.unlink(), file.mkdir()), "a.txt has changed since"),
        (lambda file: file.with_name(LEDGER).unlink(), "a.txt was not made by this command"),
    ],
)
def test_what_others_did_is_told(tmp_path, change, told):
    run(tmp_path)
    change(tmp_path / "a.txt")
    with pytest.raises(DiffIMLError, match=f"{told}.* and is not overwritten; choose another folder"):
        run(tmp_path)


def test_what_another_process_wrote_meanwhile_stays(tmp_path):
    begin(tmp_path, "test", {}, [tmp_path / "a.txt"])
    with pytest.raises(DiffIMLError, match=r"a.txt was not made by this command and is not overwritten"):
        with replacing(tmp_path / "a.txt") as file:
            file.write(b"ours")
            (tmp_path / "a.txt").write_text("another's")
    assert (tmp_path / "a.txt").read_text() == "another's"


def test_other_settings_are_named(tmp_path):
    run(tmp_path, seed=1, size=2, same=3)
    with pytest.raises(DiffIMLError, match="a.txt was made with other seed, size and is not"):
        run(tmp_path, seed=2, same=3)
    (tmp_path / "a.txt").unlink()
    run(tmp_path, seed=2, same=3)  # nothing is in the way


def test_what_an_earlier_version_made_is_told_as_such(tmp_path):
    run(tmp_path, seed=1)
    told = "a.txt is of an earlier version, which noted no size, kind, and is not overwritten; choose another folder"
    with pytest.raises(DiffIMLError, match=f"{told}, or move that file$"):
        run(tmp_path, seed=1, size=2, kind="x")
    run(tmp_path, name="b.txt", digest="of pairs", seed=1)
    told = "b.txt was made with other digest, or by an earlier version, which noted no size, and is not overwritten;"
    with pytest.raises(DiffIMLError, match=told):
        run(tmp_path, name="b.txt", digest="of sets", seed=1, size=2)
    with pytest.raises(DiffIMLError, match=r"move that file \(this version cannot tell whether an earlier one made it"):
        begin(tmp_path, "under another name", {}, [tmp_path / "a.txt"])


def test_the_settings_of_the_run_that_wrote_a_file_count_and_not_the_last_runs(tmp_path):
    run(tmp_path, seed=1)
    run(tmp_path, name="b.txt", seed=2)
    with pytest.raises(DiffIMLError, match="a.txt was made with other seed and is not"):
        run(tmp_path, seed=2)
    run(tmp_path, name="b.txt", seed=2)


def test_a_file_of_another_command_is_no_own(tmp_path):
    run(tmp_path)
    with pytest.raises(DiffIMLError, match="a.txt was not made by this command"):
        begin(tmp_path, "report", {}, [tmp_path / "a.txt"])


def test_a_file_that_was_not_named_is_kept_too(tmp_path):
    run(tmp_path)
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "b.txt").write_text("mine")
    with pytest.raises(DiffIMLError, match="b.txt was not made by this command"):
        write_text(tmp_path / "part" / "b.txt", "ours")
    assert (tmp_path / "part" / "b.txt").read_text() == "mine"


def test_a_command_that_was_killed_anywhere_goes_on(tmp_path, monkeypatch):
    run(tmp_path)
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        run(tmp_path, "new")  # entered, but not in its place
    with open(tmp_path / LEDGER, "a") as file:
        file.write('\n{"file": "a.t')
    run(tmp_path, "newer")
    assert (tmp_path / "a.txt").read_text() == "newer" and len(Ledger(tmp_path).files[str(tmp_path / "a.txt")]) == 3


def test_what_is_exchanged_between_two_writes_stays(tmp_path):
    file = tmp_path / "a.txt"
    begin(tmp_path, "test", {}, [file])
    write_text(file, "first")
    write_text(file, "second")
    file.write_text("a user's")
    with pytest.raises(DiffIMLError, match="has changed since it was written and is not overwritten"):
        write_text(file, "third")
    assert file.read_text() == "a user's"


def test_lines_are_not_lost_in_a_file_that_was_replaced(tmp_path):
    file = tmp_path / "a.jsonl"
    begin(tmp_path, "test", {}, [file])
    with pytest.raises(DiffIMLError, match="a.jsonl was replaced or removed while lines"), appending(file) as added:
        added.write(b"first\n")
        (tmp_path / "edited").write_text("edited\n")
        os.replace(tmp_path / "edited", file)  # as `sed -i` does
        added.write(b"second\n")
    assert file.read_text() == "edited\n"


def grow(folder: Path, line: str, cut_off: bool = False) -> None:
    """A command that adds a line to its file; `cut_off`: and is killed then."""
    file = folder / "a.jsonl"
    begin(folder, "test", {}, [file])
    if cut_off:
        enter(file, file, grows=True)
        with open(file, "a") as opened:
            opened.write(line)
    else:
        with appending(file) as added:
            added.write(line.encode())


def test_a_file_that_grew_is_known_as_it_was_left(tmp_path):
    grow(tmp_path, "first\n")
    grow(tmp_path, "second\n")
    with open(tmp_path / "a.jsonl", "a") as file:
        file.write("mine\n")
    with pytest.raises(DiffIMLError, match="a.jsonl has changed"):
        grow(tmp_path, "third\n")
    assert (tmp_path / "a.jsonl").read_text() == "first\nsecond\nmine\n"


def test_a_file_that_was_growing_at_a_kill_is_known_by_its_beginning(tmp_path, monkeypatch):
    grow(tmp_path, "first\n")
    grow(tmp_path, "second\n", cut_off=True)
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        run(tmp_path, "new\n", "a.jsonl")  # killed again, before it is in its place
    grow(tmp_path, "third\n")
    assert (tmp_path / "a.jsonl").read_text() == "first\nsecond\nthird\n"
    grow(tmp_path, "fourth\n", cut_off=True)
    (tmp_path / "a.jsonl").write_text("mine\nsecond\nthird\nfourth\n")
    with pytest.raises(DiffIMLError, match="a.jsonl has changed"):
        grow(tmp_path, "fifth\n")


def test_a_link_in_place_of_a_growing_file_is_not_followed(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "a.jsonl").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="symbolic links"), appending(tmp_path / "a.jsonl"):
        pass


def test_files_of_a_version_without_ledgers_are_adopted(tmp_path):
    (tmp_path / "a.txt").write_text("ours")
    begin(tmp_path, "train", {}, [tmp_path / "a.txt"], adopt=[tmp_path / "a.txt"])
    assert not (tmp_path / LEDGER).exists(), "nothing is written before the command writes"
    write_text(tmp_path / "b.txt", "new")
    begin(tmp_path, "train", {}, [tmp_path / "a.txt", tmp_path / "b.txt"])


@pytest.mark.parametrize("inside", [True, False])
def test_what_another_command_changed_on_purpose_is_not_overwritten(tmp_path, inside):
    (tmp_path / "run").mkdir()
    run(tmp_path / "run")
    changed, folder = tmp_path / "run" / "a.txt", tmp_path / "run" if inside else tmp_path

    def calibrate(**settings: object) -> None:  # in place, as weights are
        begin(folder, "calibrate", settings, [changed], adopt=[changed])
        write_text(folder / "records.txt", "")

    calibrate()
    run(tmp_path / "run")  # which nothing has changed yet
    for seed in range(2):
        calibrate(seed=seed)
        write_text(changed, "calibrated")
        with pytest.raises(DiffIMLError, match="a.txt .* and is not overwritten"):
            run(tmp_path / "run")
        assert changed.read_text() == "calibrated"


def test_a_file_is_of_the_command_that_made_it(tmp_path):
    def make(command: str) -> None:
        begin(tmp_path, command, {}, [tmp_path / "a.txt"])
        write_text(tmp_path / "a.txt", command)

    make("predict")
    (tmp_path / "a.txt").rename(tmp_path / "moved.txt")
    make("train")
    make("train")
    with pytest.raises(DiffIMLError, match="a.txt was not made by this command"):
        make("predict")


def test_a_file_is_of_its_command_when_another_writes_at_once(tmp_path):
    run(tmp_path)
    first = Ledger(tmp_path)
    first.start("first", {})
    begin(tmp_path, "second", {}, [])
    write_text(tmp_path / "b.txt", "of the second")
    (tmp_path / "c.txt").write_text("of the first")
    first.enter(tmp_path / "c.txt", tmp_path / "c.txt")
    write_text(tmp_path / "d.txt", "of the second")
    begin(tmp_path, "first", {}, [tmp_path / "c.txt"])
    begin(tmp_path, "second", {}, [tmp_path / "b.txt", tmp_path / "d.txt"])


def test_readers_are_told_once_of_what_has_changed(tmp_path, caplog):
    run(tmp_path)
    (tmp_path / "of_nobody.txt").write_text("mine")
    warn_if_changed(tmp_path / "a.txt")
    warn_if_changed(tmp_path / "of_nobody.txt")
    assert not caplog.text
    (tmp_path / "a.txt").write_text("mine")
    warn_if_changed(tmp_path / "a.txt")
    warn_if_changed(tmp_path / "a.txt")
    assert caplog.text.count("a.txt has changed since it was written; its figures are taken as they stand") == 1


def test_only_what_is_as_it_was_written_is_discarded(tmp_path):
    run(tmp_path)
    write_text(tmp_path / "b.txt", "ours")
    (tmp_path / "b.txt").write_text("mine")
    (tmp_path / "c.txt").write_text("mine")
    discard(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [LEDGER, "b.txt", "c.txt"]


def test_of_a_command_its_own_files_alone_are_discarded(tmp_path):
    run(tmp_path)
    begin(tmp_path, "robust", {}, [tmp_path / "b.txt"])
    write_text(tmp_path / "b.txt", "robust")
    discard(tmp_path, run="test")
    assert sorted(os.listdir(tmp_path)) == [LEDGER, "b.txt"]


@pytest.mark.parametrize("named", ["../mine.jsonl", "link/mine.jsonl"])
def test_nothing_is_discarded_outside_of_the_folder_whatever_its_ledger_says(tmp_path, named):
    folder = tmp_path / "from_anyone"
    folder.mkdir()
    (tmp_path / "mine.jsonl").write_text("mine")
    (folder / "link").symlink_to(tmp_path)
    line = {"file": named, "size": 0, "sha256": sha256(b"").hexdigest(), "grows": True}  # so begins any file
    (folder / LEDGER).write_text(json.dumps(line))
    assert Ledger(folder).wrote(folder / named)
    discard(folder)
    assert (tmp_path / "mine.jsonl").read_text() == "mine"


@pytest.mark.parametrize("named", ["a\0/b", "a\0", "a\ud800/b", "\ud800", "loop/b", f"{'a' * 300}/b", ""])
def test_a_line_whose_file_no_path_can_be_is_passed_over(tmp_path, named):
    run(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    with open(tmp_path / LEDGER, "a") as file:
        file.write(json.dumps({"file": named, "size": 0, "sha256": "x", "by": "test"}) + "\n")
    run(tmp_path, "ours again")
    warn_if_changed(tmp_path / "a.txt")
    discard(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {LEDGER, "loop"}


@pytest.mark.parametrize("begun", [b"", b"\x89PNG"])
def test_how_a_picture_begins_does_not_make_it_ours(tmp_path, begun):
    """In a folder that comes from anyone: files of lines alone grow."""
    (tmp_path / "mask.png").write_bytes(b"\x89PNG of mine")
    lines = [{"run": "test", "settings": {}}, {"file": "mask.png", "size": len(begun), "by": "test", "grows": True}]
    lines[1]["sha256"] = sha256(begun).hexdigest()
    (tmp_path / LEDGER).write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(DiffIMLError, match="mask.png has changed since it was written"):
        begin(tmp_path, "test", {}, [tmp_path / "mask.png"])


def test_a_link_in_place_of_the_ledger_is_not_followed(tmp_path):
    (tmp_path / "mine").write_text("")
    (tmp_path / LEDGER).symlink_to(tmp_path / "mine")
    with pytest.raises(DiffIMLError, match="is a link, which is not followed; remove it"):
        run(tmp_path)
    (tmp_path / LEDGER).unlink()
    (tmp_path / LEDGER).hardlink_to(tmp_path / "mine")
    with pytest.raises(DiffIMLError, match="is a link, which is not followed; remove it"):
        run(tmp_path)
    assert (tmp_path / "mine").read_text() == ""
