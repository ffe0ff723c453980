import base64
import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest

from diffiml_plugin.prediction.files import entry_of
from diffiml_plugin.prediction.gallery import PREVIEWS, write_gallery, write_previews
from diffiml_plugin.prediction.result import Result

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = "<img src=x onerror=alert(1)>.jpg"
DESCRIPTION = {"model": "DiffIML", "checkpoint": "w.safetensors", "sha256": "0" * 64, "settings": {"threshold": 0.4}}


def result(name, area, orientation=1, size=(60, 90)):
    probability = np.zeros(size, np.float32)
    probability[:, : round(area * size[1])] = 0.9
    image = np.full((*size, 3), 120, np.uint8)
    return Result(name, image, probability, probability / 4, area, 0.4, orientation=orientation)


@pytest.fixture
def folder(tmp_path):
    """Of three photos and a failure."""
    photos = [result("photo 10.jpg", 0.5), result("photo 9.jpg", 0.1, 6), result(HOSTILE, 0.9)]
    lines = []
    for number, photo in enumerate(photos):
        entry = {**entry_of(f"in/<!--<script>/{photo.name}", "f" * 64, photo, 1.0), "mask": f"{number}_mask.png"}
        lines.append(
            {**entry, "probability": photo.score, "verdict": ["cannot say", "nothing found", "tampered"][number]}
        )
        write_previews(tmp_path / PREVIEWS / str(number), photo)
    lines.append({"image": "in/broken.jpg", "error": "in/broken.jpg <b>cannot</b> be read"})
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "run.json").write_text(json.dumps(DESCRIPTION))
    return tmp_path


def played(folder, script):
    """What `script`, which runs at the end of the page, calls `say` with."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    page = (folder / "report.html").read_text()
    played = (
        f"<script>const said = [], say = x => said.push(x);\n{script}\ndocument.title = JSON.stringify(said);</script>"
    )
    (folder / "played.html").write_text(page.replace("</html>", played + "</html>"))
    options = "--headless --no-sandbox --disable-gpu --virtual-time-budget=5000 --dump-dom".split()
    words = [CHROMIUM, *options, f"--user-data-dir={folder / 'profile'}", (folder / "played.html").as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.S)
    assert title, done.stderr
    return json.loads(title[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


def test_the_page_is_self_contained_and_escapes_every_name(folder):
    write_gallery(folder)
    page = (folder / "report.html").read_text()
    assert HOSTILE not in page and "<!--" not in page and "&lt;b&gt;cannot" in page and "authentic" not in page.lower()
    assert not re.search(r"(src|href)=\"(?!data:)[^\"]", page) and "http" not in page.replace("http-equiv", "")
    assert page.count("data:image/jpeg;base64,") == 4 * 3


def test_thousands_of_photos_keep_their_pictures_beside_the_page(folder, monkeypatch):
    monkeypatch.setattr("diffiml_plugin.prediction.gallery._EMBEDDED", 2)
    write_gallery(folder)
    page = (folder / "report.html").read_text()
    assert "data:image" not in page and '"thumb": "report_files/0_thumb.jpg"' in page


@pytest.mark.parametrize("embedded", [True, False])
def test_what_is_no_file_of_the_folder_is_not_shown(folder, tmp_path_factory, monkeypatch, embedded):
    """As in one that somebody else packed."""
    monkeypatch.setattr("diffiml_plugin.prediction.gallery._EMBEDDED", 100 if embedded else 0)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (secret := elsewhere / "secret").write_text("private")
    for kind in ("thumb", "photo", "probability"):
        (folder / PREVIEWS / f"0_{kind}.jpg").unlink()
    (folder / PREVIEWS / "0_thumb.jpg").symlink_to(secret)
    os.mkfifo(folder / PREVIEWS / "0_photo.jpg")
    (folder / PREVIEWS / "0_probability.jpg").symlink_to("/dev/zero")
    (elsewhere / "x_photo.jpg").write_text("private")
    (folder / PREVIEWS / "out").symlink_to(elsewhere)
    lines = (folder / "results.jsonl").read_text()
    (folder / "results.jsonl").write_text(lines.replace('"1_mask.png"', '"out/x_mask.png"'))
    write_gallery(folder)
    page = (folder / "report.html").read_text()
    assert base64.b64encode(b"private").decode() not in page
    assert not any(f"{PREVIEWS}/{name}" in page for name in ("0_thumb", "0_photo", "0_probability", "out"))
    assert page.count("data:image/jpeg;base64,") == embedded * (1 + 4)


def test_it_is_sorted_and_filtered(folder):
    write_gallery(folder)
    said = played(
        folder,
        """
        const names = () => [...document.querySelectorAll(".card .name")].map(e => e.textContent);
        const choose = (id, value, event) => { at(id).value = value; at(id).dispatchEvent(new Event(event)); };
        say(names());
        choose("sort", "area", "change"); at("order").click(); say(names());
        choose("sort", "name", "change"); say(names());
        choose("query", "photo", "input"); say(names());
        choose("query", "", "input");
        [...at("chips").children].find(e => e.textContent.includes("nothing")).click(); say(names());
        say(at("chips").children.length);
        """,
    )
    by_area = ["photo 9.jpg", "photo 10.jpg", HOSTILE]
    assert said[0] == by_area[::-1] and said[1] == by_area
    assert said[2] == [HOSTILE, "photo 9.jpg", "photo 10.jpg"]
    assert said[3:] == [["photo 9.jpg", "photo 10.jpg"], ["photo 9.jpg"], 3]


def test_a_photo_is_opened_turned_faded_and_enlarged(folder):
    write_gallery(folder)
    said = played(
        folder,
        """
        const key = key => document.dispatchEvent(new KeyboardEvent("keydown", {key, cancelable: true}));
        document.querySelectorAll(".card")[1].click();
        say([at("dialog").open, at("title").textContent, at("legend").hidden, at("map").style.filter]);
        at("views").children[1].click(); at("opacity").value = 25; at("opacity").dispatchEvent(new Event("input"));
        say([at("legend").hidden, at("legend").textContent, at("map").style.opacity, at("map").style.filter]);
        key("3"); say(at("map").alt);
        key("ArrowRight"); say([at("title").textContent, at("following").disabled, at("facts").textContent]);
        at("in").click(); key("+"); say(at("layers").style.transform.includes("scale(2.25)"));
        key("0"); say(at("layers").style.transform);
        key(" "); say(at("map").hidden);
        at("close").click(); say(at("dialog").open);
        """,
    )
    assert said[0] == [True, "photo 10.jpg", True, 'url("#mask")']
    assert said[1] == [False, "0probability that a pixel was tampered with1", "0.25", 'url("#probability")']
    assert said[2] == "uncertainty"
    title, last, facts = said[3]
    assert (title, last) == ("photo 9.jpg", True)
    assert "90x60 pixels" in facts and "60x90, turned by 90° to the right (EXIF 6)" in facts
    assert said[4:] == [True, "translate(0px, 0px) scale(1)", True, False]


def test_pages_of_sixty(folder):
    line = json.loads((folder / "results.jsonl").read_text().splitlines()[0])
    lines = [{**line, "image": f"in/{number:03}.jpg", "probability": number / 200} for number in range(130)]
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_gallery(folder)
    said = played(
        folder,
        """
        const cards = () => document.querySelectorAll(".card").length;
        const tell = () => say([cards(), at("place").textContent, at("next").disabled]);
        tell(); at("next").click(); at("next").click(); tell();
        """,
    )
    assert said == [[60, "1 / 3", False], [10, "3 / 3", True]]
