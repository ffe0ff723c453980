"""What an output folder tells of its photos, and what a second run does with what it finds there."""

import json
import os
import shutil
import signal
import threading
from contextlib import suppress
from hashlib import sha256

import numpy as np
import pytest
from PIL import Image

from diffiml_plugin.api import load
from diffiml_plugin.cli.main import main
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.folders import _here
from diffiml_plugin.ledger import Ledger
from diffiml_plugin.prediction import files as module
from diffiml_plugin.prediction.detector import Detector
from diffiml_plugin.prediction.files import FAILED, predict
from diffiml_plugin.prediction.journal import read_results


def test_a_line_is_written_the_moment_an_image_is_done(checkpoint, folder, tmp_path, monkeypatch):
    detector, out, before = load(checkpoint, device="cpu"), tmp_path / "out", []
    written, add = threading.Semaphore(1), module.Journal.add
    monkeypatch.setattr(module.Journal, "add", lambda *given: add(*given) or written.release())
    detect = detector.detect

    def watched(photograph):
        written.acquire(timeout=60)
        before.append(len(list(read_results(out))))
        return detect(photograph)

    detector.detect = watched
    predict(detector, [str(folder)], out)
    assert before == [0, 1, 2]


def test_run_json_says_what_made_the_results(checkpoint, folder, tmp_path):
    predict(load(checkpoint, device="cpu"), [str(folder)], tmp_path / "out")
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["sha256"] == sha256(checkpoint.read_bytes()).hexdigest() and run["model"] == "BrightnessModel"
    assert run["settings"]["threshold"] == 0.5 and run["settings"]["gain"] == 1.0
    assert run["settings"]["precision"] == "fp32"  # what auto came to: of a GPU's bf16 the masks differ
    assert run["command"] and run["versions"]["torch"]


def test_each_photo_has_one_line_after_a_second_run(checkpoint, folder, tmp_path):
    detector, out = load(checkpoint, device="cpu"), tmp_path / "out"
    predict(detector, [str(folder)], out)
    shutil.copy(folder / "a.png", folder / "a.bmp")
    predict(detector, [str(folder)], out, skip_existing=True)
    digests = {entry["image"]: entry["sha256"] for entry in read_results(out)}
    assert len(digests) == len(list(read_results(out))) == 3
    assert digests[str(folder / "a.bmp")] == sha256((folder / "a.png").read_bytes()).hexdigest()


def test_skip_existing_goes_on_after_an_interruption(checkpoint, folder, tmp_path, caplog, cut_off):
    detector, out, seen = load(checkpoint, device="cpu"), tmp_path / "out", []
    (folder / "broken.jpg").write_bytes(b"no image")
    detect = detector.detect

    def interrupted(photograph):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(photograph.name)
        return detect(photograph)

    caplog.set_level("INFO")
    detector.detect = interrupted
    with pytest.raises(KeyboardInterrupt):
        predict(detector, [str(folder)], out)
    assert len(list(read_results(out))) == 3 and (out / "report.html").exists()  # two done, one failed
    assert "3 of 4 photos are done, and --skip_existing goes on" in caplog.text
    cut_off(out / "results.jsonl", '{"image": "cut o')
    first = (out / "a.png_mask.png").stat().st_mtime_ns
    half_written = out / "deep" / f".0123456789abcdef.{_here()}.1.{2**30}.tmp"
    half_written.parent.mkdir(exist_ok=True)
    half_written.touch()
    detector.detect = detect
    assert predict(detector, [str(folder)], out, skip_existing=True) == {"uncalibrated": 1, FAILED: 1}
    assert "2 photos were done already" in caplog.text
    lines = [entry["image"] for entry in read_results(out)]
    assert len(lines) == len(set(lines)) == 4 and (out / "a.png_mask.png").stat().st_mtime_ns == first
    assert not half_written.exists()


def test_skip_existing_predicts_a_photo_that_changed(checkpoint, folder, tmp_path):
    detector, out = load(checkpoint, device="cpu"), tmp_path / "out"
    predict(detector, [str(folder)], out)
    Image.new("RGB", (90, 60), "white").save(folder / "a.png")
    assert predict(detector, [str(folder)], out, skip_existing=True) == {"uncalibrated": 1}
    assert {entry["image"]: entry["area"] for entry in read_results(out)}[str(folder / "a.png")] == 1


def test_skip_existing_predicts_what_other_code_was_done_with(
    checkpoint, folder, tmp_path, monkeypatch, caplog, brightness_model
):
    """An earlier version of the model's own, or of the package before it told its version."""
    detector, out = load(checkpoint, device="cpu"), tmp_path / "out"
    photos = [str(folder / "a.png"), str(folder / "deep" / "a.png")]
    predict(detector, photos[:1], out)
    monkeypatch.setattr(module, "code_digest", lambda model: {brightness_model: "mended"}[model])
    predict(detector, photos[1:], out)
    caplog.set_level("INFO")
    assert predict(detector, photos, out, skip_existing=True) == {"uncalibrated": 1}
    assert "1 photos were done by another version of the code, and are predicted anew" in caplog.text
    assert "1 photos were done already" in caplog.text
    entries = list(read_results(out))
    assert [entry.pop("code") for entry in entries] == ["mended", "mended"]
    (out / "results.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    Ledger(out).enter(out / "results.jsonl", out / "results.jsonl")
    assert predict(detector, photos, out, skip_existing=True) == {"uncalibrated": 2}


def test_skip_existing_makes_a_mask_that_was_removed(checkpoint, folder, tmp_path):
    detector, out = load(checkpoint, device="cpu"), tmp_path / "out"
    predict(detector, [str(folder)], out)
    mask = min(out.rglob("*_mask.png"))
    before = mask.read_bytes()
    mask.unlink()
    assert predict(detector, [str(folder)], out, skip_existing=True) == {"uncalibrated": 1}
    assert mask.read_bytes() == before


@pytest.mark.parametrize("place", ["detect", "write_result"])
def test_a_second_run_that_is_cut_off_costs_no_earlier_result(checkpoint, folder, tmp_path, monkeypatch, place):
    """But that of a photo whose files were being replaced. The folder is as a kill leaves it: nothing tidies up."""
    detector, out, done = load(checkpoint, device="cpu"), tmp_path / "out", []
    predict(detector, [str(folder)], out)
    before = list(read_results(out))

    def cut_off(*_):
        done.append(list(read_results(out)))
        raise KeyboardInterrupt

    monkeypatch.setattr(*((detector, place) if place == "detect" else (module, place)), cut_off)
    with suppress(KeyboardInterrupt):
        predict(detector, [str(folder / "a.png")], out)
    kept = {entry["image"]: entry for entry in done[0]}
    assert sum("error" in entry for entry in kept.values()) == (place == "write_result")
    assert len(kept) == len(before) and all(entry in before for entry in kept.values() if "error" not in entry)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_with_what_is_done(checkpoint, folder, tmp_path, monkeypatch, capfd, number, status):
    out, detect, seen = tmp_path / "out", Detector.detect, []
    words = ["predict", str(folder), "--checkpoint_path", str(checkpoint), "--output_dir", str(out), "--device", "cpu"]

    def signalled(detector, photograph):
        seen.append(photograph.name)
        if len(seen) == 3:
            os.kill(os.getpid(), number)
        return detect(detector, photograph)

    monkeypatch.setattr(Detector, "detect", signalled)
    assert main(words) == status
    assert "2 of 3 photos are done, and --skip_existing goes on" in capfd.readouterr().err
    done = list(read_results(out))
    assert {entry["image"] for entry in done} == set(seen[:2]) and "a.png" in (out / "report.html").read_text()
    assert all(np.array(Image.open(out / entry["mask"])).shape == (60, 90) for entry in done)
    assert not [*out.rglob(".*.tmp"), *out.glob(".lock")]
    assert main([*words, "--skip_existing"]) == 0
    assert seen[3:] == seen[2:3] and len(list(read_results(out))) == 3


def test_a_lost_device_ends_the_run_and_what_is_done_is_kept(checkpoint, folder, tmp_path):
    detector, done = load(checkpoint, device="cpu"), []
    plain = detector.detect

    def failing(photograph):
        if done:
            raise RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be reported later")
        done.append(photograph.name)
        return plain(photograph)

    detector.detect = failing
    with pytest.raises(DiffIMLError, match="the device failed: RuntimeError: CUDA error: .*; what is done is kept"):
        predict(detector, [str(folder)], tmp_path / "out")
    assert [entry["image"] for entry in read_results(tmp_path / "out")] == done
    detector.detect = plain
    assert predict(detector, [str(folder)], tmp_path / "out", skip_existing=True) == {"uncalibrated": 2}


def test_two_runs_do_not_share_a_folder(checkpoint, folder, tmp_path):
    detector, detect = load(checkpoint, device="cpu"), Detector.detect

    def another(photograph):
        owner = json.loads((tmp_path / "out" / ".lock").read_text())
        assert owner["pid"] == os.getpid()
        return detect(detector, photograph)

    detector.detect = another
    assert not predict(detector, [str(folder)], tmp_path / "out")[FAILED]
    assert not (tmp_path / "out" / ".lock").exists()


def test_a_photo_that_comes_later_takes_no_others_name(checkpoint, folder, tmp_path):
    detector, out = load(checkpoint, device="cpu"), tmp_path / "out"
    predict(detector, [str(folder / "a.png")], out)
    predict(detector, [str(folder / "deep" / "a.png")], out)
    predict(detector, [str(folder / "a.png")], out)
    masks = {entry["image"]: entry["mask"] for entry in read_results(out)}
    assert masks == {str(folder / "a.png"): "a_mask.png", str(folder / "deep" / "a.png"): "a.png_mask.png"}


def test_photos_of_one_relative_path_are_told_apart(checkpoint, folder, tmp_path, monkeypatch):
    detector, out = load(checkpoint, device="cpu"), tmp_path / "out"
    for place in (folder, folder / "deep"):
        monkeypatch.chdir(place)
        predict(detector, ["a.png"], out)
    masks = {entry["image"]: entry["mask"] for entry in read_results(out)}
    assert masks == {str(folder / "a.png"): "a_mask.png", str(folder / "deep" / "a.png"): "a.png_mask.png"}


def test_photos_that_shared_a_mask_get_one_each(checkpoint, folder, tmp_path):
    detector, out = load(checkpoint, device="cpu"), tmp_path / "out"
    photos = [str(folder / "a.png"), str(folder / "deep" / "a.png")]
    predict(detector, photos, out)
    entries = [json.dumps({**entry, "mask": "a_mask.png"}) + "\n" for entry in read_results(out)]
    (out / "results.jsonl").write_text("".join(entries))
    Ledger(out).enter(out / "results.jsonl", out / "results.jsonl")  # as an earlier version may have left it
    predict(detector, photos, out)
    assert len({entry["mask"] for entry in read_results(out)}) == 2


def test_masks_of_photos_that_no_journal_names_are_kept(checkpoint, folder, tmp_path):
    detector, out = load(checkpoint, device="cpu"), tmp_path / "out"
    predict(detector, [str(folder / "a.png")], out)
    (out / "results.jsonl").rename(out / "first.jsonl")
    before = (out / "a_overlay.jpg").read_bytes()
    with pytest.raises(DiffIMLError, match="out/a_mask.png is of a photo that results.jsonl told of, which is gone"):
        predict(detector, [str(folder / "deep" / "a.png")], out)
    assert (out / "a_overlay.jpg").read_bytes() == before
    (out / "first.jsonl").rename(out / "results.jsonl")
    assert not predict(detector, [str(folder / "deep" / "a.png")], out)[FAILED]


def test_hidden_files_of_others_are_kept(checkpoint, folder, tmp_path):
    others = tmp_path / "out" / "deep" / ".notes.tmp"
    others.parent.mkdir(parents=True)
    others.write_text("mine")
    predict(load(checkpoint, device="cpu"), [str(folder)], tmp_path / "out")
    assert others.read_text() == "mine"


def test_links_are_not_followed(checkpoint, folder, tmp_path):
    out = tmp_path / "out"
    predict(load(checkpoint, device="cpu"), [str(folder)], out)
    targets = ["deep/a_mask.png", "results.jsonl", "run.json", "report.html"]
    precious = [tmp_path / f"precious {number}" for number in range(len(targets))]
    for name, target in zip(targets, precious, strict=True):
        content = (out / name).read_bytes()
        (out / name).unlink()
        (out / name).symlink_to(target)
        target.write_bytes(content)
        with pytest.raises(DiffIMLError, match=f"{name} has changed since it was written"):
            predict(load(checkpoint, device="cpu"), [str(folder)], out)
        assert target.read_bytes() == content
        (out / name).unlink()
        (out / name).write_bytes(content)


def bytes_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


def test_results_of_another_model_or_of_others_are_kept(checkpoint, folder, tmp_path):
    out = tmp_path / "out"
    predict(load(checkpoint, device="cpu"), [str(folder)], out)
    before = bytes_of(out)
    with pytest.raises(DiffIMLError, match="run.json was made with other threshold and is not overwritten"):
        predict(load(checkpoint, device="cpu", threshold=0.9), [str(folder)], out)
    assert bytes_of(out) == before
    for name, text, told in (
        ("run.json", "{}", "was not made by this command"),
        ("results.jsonl", "mine\n", "is no result of ours"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(text)
        with pytest.raises(DiffIMLError, match=told):
            predict(load(checkpoint, device="cpu"), [str(folder)], tmp_path / name)
        assert (tmp_path / name / name).read_text() == text


@pytest.mark.parametrize(
    "odd",
    [
        {"mask": "../precious_mask.png"},
        {"mask": "/tmp/precious_mask.png"},
        {"size": 3},
        {"size": [1]},
        {"size": "left out"},
        {"size": [0, 9]},
        {"regions": None},
        {"probability": "high"},
        {"image": None},
        {"sentence": "x" * 2**20},
    ],
)
def test_results_that_are_not_as_we_write_them_are_refused(checkpoint, folder, tmp_path, odd):
    out = tmp_path / "out"
    predict(load(checkpoint, device="cpu"), [str(folder / "a.png")], out)
    (entry,) = read_results(out)
    odd = {name: value for name, value in (entry | odd).items() if value != "left out"}
    (out / "results.jsonl").write_text(json.dumps(odd) + "\n")
    before = bytes_of(tmp_path)
    with pytest.raises(DiffIMLError, match="line 1, is no result of ours"):
        predict(load(checkpoint, device="cpu"), [str(folder / "a.png")], out)
    assert bytes_of(tmp_path) == before
