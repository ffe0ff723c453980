import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from diffiml_plugin.cli.main import main


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 256, (64, 80, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    return folder


def test_it_writes_what_benco_test_reads_and_the_same_again(photographs, tmp_path):
    def made(name):
        folder = tmp_path / name
        assert (
            main(
                [
                    "tamper",
                    str(photographs),
                    "--images",
                    "12",
                    "--window",
                    "48",
                    "--authentic",
                    "0.5",
                    "--kinds",
                    "removal",
                    "--output_dir",
                    str(folder),
                ]
            )
            == 0
        )
        return folder, json.loads((folder / "list.json").read_text())

    folder, pairs = made("one")
    assert len(pairs) == 12
    tampered = [pair for pair in pairs if pair[1] != "Negative"]
    assert 0 < len(tampered) < 12
    for image, mask, kind in tampered:
        assert kind == "removal"
        assert Image.open(folder / image).size == Image.open(folder / mask).size == (48, 48)
    other, again = made("two")
    assert again == pairs
    assert all((folder / image).read_bytes() == (other / image).read_bytes() for image, *_ in pairs)


def test_a_contact_sheet_shows_the_images_of_a_style(photographs, tmp_path):
    styles, folder = tmp_path / "mine.yaml", tmp_path / "set"
    styles.write_text("plain: {kinds: {text: 1}, small: 0, after: [{compressed: 0}]}\n")
    assert main(["tamper", str(photographs), "--images", "6", "--window", "64", "--strength", str(styles),
                 "--contact_sheet", "--output_dir", str(folder)]) == 0  # fmt: skip
    assert Image.open(folder / "contact_sheet.jpg").size == (4 * (2 * 256 + 4 + 4), 2 * (256 + 4))
    assert "text" in [kind for *_, kind in json.loads((folder / "list.json").read_text())]


def test_an_unknown_kind_is_refused(photographs, tmp_path, capsys):
    assert main(["tamper", str(photographs), "--kinds", "spice", "--output_dir", str(tmp_path / "out")]) == 2
    assert "splice" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "value"), [("images", "0"), ("authentic", "2"), ("window", "0"), ("seed", "-1")])
def test_a_flag_out_of_range_is_refused(photographs, tmp_path, capsys, name, value):
    assert main(["tamper", str(photographs), f"--{name}", value, "--output_dir", str(tmp_path / "out")]) == 2
    assert f"--{name} {value}" in capsys.readouterr().err


def test_a_written_set_is_not_overwritten(photographs, tmp_path, capsys):
    (tmp_path / "list.json").write_text("[]")
    assert main(["tamper", str(photographs), "--images", "2", "--output_dir", str(tmp_path)]) == 2
    assert "list.json was not made by this command and is not overwritten" in capsys.readouterr().err
    assert not (tmp_path / "Tp").exists()


def test_photographs_that_changed_behind_a_set_are_told(photographs, tmp_path, capsys, monkeypatch):
    def make(name: str) -> tuple[int, str]:
        words = ["tamper", str(photographs), "--images", "2", "--output_dir", str(tmp_path / name)]
        return main(words), capsys.readouterr().err

    with monkeypatch.context() as patch:
        patch.setattr("diffiml_plugin.tampering.stream.write_text", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert make("cut_short")[0] == 130
    assert make("whole")[0] == 0
    status, told = make("whole")
    assert status == 2 and "list.json exists already; choose another --output_dir" in told
    os.utime(photographs / "0.png", (1, 1))
    status, told = make("whole")
    assert status == 2 and "list.json exists already; choose another --output_dir" in told
    shutil.copy(photographs / "1.png", photographs / "0.png")
    for name in ("cut_short", "whole"):
        status, told = make(name)
        assert status == 2 and "was made with other content of photographs and is not overwritten" in told
    assert not (tmp_path / "cut_short" / "list.json").exists()
