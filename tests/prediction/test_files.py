import os
import shutil
from hashlib import sha256

import numpy as np
import pytest
from PIL import Image

from diffiml_plugin.api import load
from diffiml_plugin.data.images import read_image
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.prediction import files as module
from diffiml_plugin.prediction import photograph
from diffiml_plugin.prediction.files import FAILED, predict
from diffiml_plugin.prediction.journal import read_results


def read(path):
    return np.array(Image.open(path))


def errors(folder):
    return [entry for entry in read_results(folder) if "error" in entry]


def test_files_have_the_image_size_and_folders(checkpoint, folder, tmp_path):
    out = tmp_path / "out"
    assert predict(load(checkpoint, device="cpu"), [str(folder)], out) == {"uncalibrated": 3}
    assert {str(p.relative_to(out)) for p in out.rglob("*_mask.png")} == {
        "a.png_mask.png",
        "a.bmp_mask.png",
        "deep/a_mask.png",
    }
    mask, binary = read(out / "deep/a_mask.png"), read(out / "deep/a_binary.png")
    assert mask.shape == (60, 90) and mask[:, :40].max() < 10 and mask[:, 50:].min() > 245
    assert np.array_equal(np.unique(binary), [0, 255])
    assert (read(out / "deep/a_uncertainty.png") == 128).all()
    assert read(out / "deep/a_overlay.jpg").shape == (60, 90, 3)
    entries = {entry["image"]: entry for entry in read_results(out)}
    assert len(entries) == 3
    entry = entries[str(folder / "deep" / "a.png")]
    assert entry["area"] == pytest.approx(0.5, abs=0.03) and entry["score"] > 0.9 and entry["seconds"] > 0
    assert entry["sha256"] == sha256((folder / "deep" / "a.png").read_bytes()).hexdigest()
    assert (entry["size"], entry["orientation"], entry["threshold"]) == ([90, 60], 1, 0.5)
    assert (entry["probability"], entry["verdict"]) == (None, "uncalibrated")
    assert len(entry["regions"]) == 1 and entry["regions"][0]["box"][2:] == [45, 60]
    assert (out / entry["mask"]).is_file()


def test_unreadable_file_is_reported_and_the_others_are_done(checkpoint, folder, tmp_path, caplog):
    (folder / "broken.jpg").write_bytes(b"no image")
    verdicts = predict(load(checkpoint, device="cpu"), [str(folder)], tmp_path / "out")
    assert verdicts == {"uncalibrated": 3, FAILED: 1}
    assert ["broken.jpg cannot be read" in entry["error"] for entry in errors(tmp_path / "out")] == [True]
    assert "broken.jpg cannot be read" in caplog.text
    assert len(list((tmp_path / "out").rglob("*_mask.png"))) == 3


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (lambda mask, label: (mask * float("nan"), label), "a.png is not finite"),
        (lambda mask, label: (mask, label * float("nan")), "a.png is not finite"),
        (lambda mask, label: (mask * 9, label), "expected probabilities"),
        (lambda mask, label: (mask[:, 0], label), "must have the mask's shape"),
        (lambda mask, label: (mask.repeat(1, 2, 1, 1), label), "must have the mask's shape"),
        (lambda mask, label: (mask[..., ::2, ::2], label), "must have the mask's shape"),
        (lambda mask, label: (mask.numpy(), label), "must have the mask's shape"),
        (lambda mask, label: (mask, label.repeat(2)), "pred_label must have shape"),
    ],
)
def test_a_prediction_that_is_no_probability_is_a_failure(checkpoint, folder, tmp_path, monkeypatch, changes, told):
    detector = load(checkpoint, device="cpu")
    forward = detector.model.forward

    def changed(*args, **options):
        output = forward(*args, **options)
        return dict(zip(("pred_mask", "pred_label"), changes(output["pred_mask"], output["pred_label"]), strict=True))

    monkeypatch.setattr(detector.model, "forward", changed)
    predict(detector, [str(folder / "a.png")], tmp_path / "out")
    (failed,) = errors(tmp_path / "out")
    assert told in failed["error"] and not list((tmp_path / "out").glob("*.png"))


def test_earlier_output_is_no_input(checkpoint, folder):
    detector = load(checkpoint, device="cpu")
    for _ in range(2):
        predict(detector, [str(folder)], folder / "out")
    assert len(list(folder.rglob("*_mask.png"))) == 3


def test_threshold(checkpoint, folder, tmp_path):
    predict(load(checkpoint, device="cpu", threshold=0.999), [str(folder / "a.png")], tmp_path)
    assert not read(tmp_path / "a_binary.png").any()
    with pytest.raises(DiffIMLError, match="threshold 50"):
        load(checkpoint, device="cpu", threshold=50)


def test_each_file_is_decoded_once(checkpoint, folder, tmp_path, monkeypatch):
    decoded = []
    monkeypatch.setattr(photograph, "read_image", lambda *of: decoded.append(str(of[0])) or read_image(*of))
    predict(load(checkpoint, device="cpu"), [str(folder)], tmp_path / "out")
    assert sorted(decoded) == sorted(str(file) for file in folder.rglob("*.*"))


def test_a_photo_under_another_name_in_another_folder_gets_the_same_bytes(stored, folder, tmp_path):
    """A model that samples, whose noise the file's bytes decide."""
    detector = load(stored("DiffIML", encoder="resnet10t", num_inference_steps=1, ensemble_size=2), device="cpu")
    predict(detector, [str(folder)], tmp_path / "out")
    (tmp_path / "b").mkdir()
    os.rename(folder / "deep" / "a.png", tmp_path / "b" / "renamed.png")
    predict(detector, [str(tmp_path / "b")], tmp_path / "again")
    for kind in ("mask", "binary", "uncertainty"):
        first, second = tmp_path / "out" / f"deep/a_{kind}.png", tmp_path / "again" / f"renamed_{kind}.png"
        assert first.read_bytes() == second.read_bytes()


def test_two_images_never_share_a_mask(checkpoint, folder, tmp_path):
    os.rename(folder / "deep" / "a.png", folder / "a.jpg.tif")
    os.rename(folder / "a.bmp", folder / "a.jpg")
    predict(load(checkpoint, device="cpu"), [str(folder)], tmp_path / "out")
    assert (
        len({entry["mask"] for entry in read_results(tmp_path / "out")}) == 3 == len(list(tmp_path.rglob("*_mask.png")))
    )


def test_folders_that_are_called_as_files_of_ours_do_not_take_their_places(checkpoint, folder, tmp_path):
    names = ["report.html", "Run.json", "results.jsonl", "report_files", ".lock", ".written.jsonl"]
    names += ["a.png_mask.png", "deep/a_thumb.jpg"]
    for name in names:
        (folder / name).mkdir()
        shutil.copy(folder / "a.png", folder / name / "b.png")
    out = tmp_path / "out"
    words = [str(folder), *(str(folder / name / "b.png") for name in names)]
    assert predict(load(checkpoint, device="cpu"), words, out) == {"uncalibrated": 3 + len(names)}
    assert "11 photos" in (out / "report.html").read_text() and (out / "Run.json-2" / "b_mask.png").is_file()
    assert len(list(out.rglob("*_mask.png"))) == len(list(out.rglob("*_thumb.jpg"))) == 11


@pytest.mark.parametrize("error", [MemoryError("no"), ZeroDivisionError("odd"), RecursionError("deep"), KeyError("x")])
@pytest.mark.parametrize("place", ["read", "detect"])
def test_whatever_goes_wrong_with_one_photo_is_its_line(checkpoint, folder, tmp_path, error, place):
    detector = load(checkpoint, device="cpu")
    plain = getattr(detector, place)

    def failing(photo):
        if "deep" in str(photo if place == "read" else photo.name):
            raise error
        return plain(photo)

    setattr(detector, place, failing)
    assert predict(detector, [str(folder)], tmp_path / "out") == {"uncalibrated": 2, FAILED: 1}
    (failed,) = errors(tmp_path / "out")
    assert type(error).__name__ in failed["error"] and failed["image"].endswith("deep/a.png")


def test_a_full_disk_ends_the_run(checkpoint, folder, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_previews", full)
    with pytest.raises(OSError, match="No space left"):
        predict(load(checkpoint, device="cpu"), [str(folder)], tmp_path / "out")


def test_odd_names_are_predicted_and_printed(checkpoint, folder, tmp_path, capsys):
    odd = [os.fsencode(folder) + b"/\xff\xfe.png", os.fsencode(folder) + b"/" + b"x" * 245 + b".png"]
    for name in odd:
        (folder / "a.png").rename(os.fsdecode(name))
        (folder / "a.png").write_bytes(open(name, "rb").read())
    assert not predict(load(checkpoint, device="cpu"), [str(folder)], tmp_path / "out")[FAILED]
    assert "\\udcff" in capsys.readouterr().out
    assert len(list((tmp_path / "out").rglob("*_uncertainty.png"))) == 5


def test_a_photo_longer_than_any_jpeg_is_predicted(checkpoint, tmp_path):
    wide = tmp_path / "wide.png"
    Image.new("RGB", (66_000, 1)).save(wide)
    assert not predict(load(checkpoint, device="cpu"), [str(wide)], tmp_path / "out")[FAILED]
    assert read(tmp_path / "out" / "wide_mask.png").shape == (1, 66_000)
    assert read(tmp_path / "out" / "wide_overlay.jpg").shape[1] == 65_500


def test_a_linked_sub_folder_is_not_followed(checkpoint, folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "deep").symlink_to(tmp_path / "elsewhere")
    assert predict(load(checkpoint, device="cpu"), [str(folder)], tmp_path / "out")["failed"] == 1
    assert not list((tmp_path / "elsewhere").iterdir())


def test_overlays_are_turned_and_masks_are_not(checkpoint, folder, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(folder / "a.png").save(folder / "turned.jpg", exif=exif)
    predict(load(checkpoint, device="cpu"), [str(folder / "turned.jpg")], tmp_path / "out")
    assert read(tmp_path / "out" / "turned_mask.png").shape == (60, 90)
    assert read(tmp_path / "out" / "turned_overlay.jpg").shape == (90, 60, 3)
    (entry,) = read_results(tmp_path / "out")
    assert (entry["size"], entry["orientation"]) == ([90, 60], 6)


def test_progress_is_a_line_a_minute_where_there_is_no_terminal(checkpoint, folder, tmp_path, monkeypatch, caplog):
    clock = iter(range(0, 10_000, 40))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    caplog.set_level("INFO")
    predict(load(checkpoint, device="cpu"), [str(folder)], tmp_path / "out")
    assert [line for line in caplog.messages if "to go" in line] == [
        "2 of 3 photos, 0.025 a second, 1 min to go",
    ]
