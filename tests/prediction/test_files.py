import json
import os
import shutil
import signal
import threading
import time
from contextlib import suppress
from hashlib import sha256

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from diffiml_plugin.api import load
from diffiml_plugin.cli.main import main
from diffiml_plugin.data.images import read_image
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.evaluation import test as testing
from diffiml_plugin.evaluation.calibration import Calibration
from diffiml_plugin.evaluation.settings import TestSettings
from diffiml_plugin.framework.imdlbenco import MODELS
from diffiml_plugin.ledger import Ledger
from diffiml_plugin.models.checkpoints import RELEASED, save_checkpoint
from diffiml_plugin.prediction import detector as detector_module
from diffiml_plugin.prediction import files as module
from diffiml_plugin.prediction.detector import Detector
from diffiml_plugin.prediction.files import FAILED, predict
from diffiml_plugin.prediction.journal import read_results
from diffiml_plugin.weights.files import read_metadata


class BrightnessModel(nn.Module):
    """Calls bright pixels tampered: what it answers can be worked out by hand."""

    size_multiple = 2

    def __init__(self, gain: float = 1.0):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, image, mask=None, label=None, name=None, details=False, *args, **kwargs):
        brightness = torch.sigmoid(2 * self.gain * image.mean(1, keepdim=True))
        return {"pred_mask": brightness, "pred_label": brightness.amax((1, 2, 3)), "uncertainty": brightness * 0 + 0.25}


@pytest.fixture
def checkpoint(tmp_path):
    if not MODELS.has("BrightnessModel"):
        MODELS.register_module(module=BrightnessModel)
    path = tmp_path / "weights.safetensors"
    save_checkpoint(path, BrightnessModel(), "BrightnessModel", {"gain": 1.0}, input={"image_size": 64})
    return path


@pytest.fixture
def folder(tmp_path):
    """A dark image with a bright right half, 90x60; and its twin of the same stem in a sub-folder."""
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[:, 45:] = 255
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("a.png", "a.bmp", "deep/a.png"):
        Image.fromarray(pixels).save(tmp_path / "in" / name)
    return tmp_path / "in"


def read(path):
    return np.array(Image.open(path))


def errors(folder):
    return [entry for entry in read_results(folder) if "error" in entry]


def bytes_of(folder, pattern="*.png"):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob(pattern)}


def test_a_size_that_changes_nothing_is_said(checkpoint, caplog):
    caplog.set_level("INFO")
    load(checkpoint, image_size=32, device="cpu")
    assert not caplog.messages
    assert load(checkpoint, max_memory=0.1, device="cpu").memory.limit is None
    assert "max_memory 0.1 is not used: this model sees photos of any size at one" in caplog.text
    save_checkpoint(
        checkpoint,
        BrightnessModel(),
        "BrightnessModel",
        {"gain": 1.0},
        input={"image_size": 64, "if_padding": True, "padding_mode": "reflect"},
    )
    load(checkpoint, image_size=32, device="cpu")
    assert "the image size is not used" in caplog.text


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


def test_padded_model_keeps_pixels_in_place_in_larger_images_too(checkpoint, folder):
    trained = {"image_size": 96, "if_padding": True}
    for mode, size in (("constant", None), ("constant", 64), ("reflect", None)):  # of 90x60 pixels
        save_checkpoint(checkpoint, BrightnessModel(), "BrightnessModel", {}, input={**trained, "padding_mode": mode})
        made = load(checkpoint, image_size=size, device="cpu")(folder / "a.png")
        assert np.array_equal(made.probability > 0.5, made.image[..., 0] > 127)


def test_an_image_too_large_for_a_model_of_one_size_is_refused(checkpoint, folder, monkeypatch):
    monkeypatch.delattr(BrightnessModel, "size_multiple")
    save_checkpoint(checkpoint, BrightnessModel(), "BrightnessModel", {}, input={"image_size": 64, "if_padding": True})
    with pytest.raises(DiffIMLError, match="has 90x60 pixels, the model takes 64 at most"):
        load(checkpoint, device="cpu")(folder / "a.png")


def test_checkpoint_of_another_model(checkpoint):
    with pytest.raises(DiffIMLError, match="BrightnessModel"):
        load(checkpoint, device="cpu", model="DiffIML")


def test_same_mask_as_benco_test(tmp_path):
    """The probabilities of an image equal those of the test loader, also when others are tested beside it."""
    pytest.importorskip("diffiml_plugin.weights.lightvae")
    from diffiml_plugin.data.lists import NEGATIVE, ImageList
    from diffiml_plugin.data.packed import unpack
    from diffiml_plugin.data.pairs import make_test_set
    from diffiml_plugin.models.inputs import InputSettings
    from diffiml_plugin.models.registry import DIFFIML

    flags = {"encoder": "segformer_b0", "num_inference_steps": 2, "ensemble_size": 2}
    torch.manual_seed(0)
    model = DIFFIML.build(flags).eval()
    weights = tmp_path / "weights.safetensors"
    save_checkpoint(weights, model, "DiffIML", flags, input={"image_size": 64})
    files = []
    for number in range(2):
        files.append(tmp_path / f"{number}.png")
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(files[-1])

    listed = ImageList("", tuple(map(str, files)), (NEGATIVE,) * 2)
    dataset = make_test_set(listed, InputSettings(64), DIFFIML)
    with torch.no_grad():
        batch = unpack(torch.utils.data.default_collate([dataset[0], dataset[1]]), torch.device("cpu"))
        tested = model(**batch)["pred_mask"]
    for expected, result in zip(tested, load(weights, device="cpu")(files), strict=True):
        assert np.abs(result.probability - expected[0].numpy()).max() < 1e-5
        assert 0 < result.uncertainty.max() <= 0.5


def test_the_small_model_travels_with_the_package_and_says_what_it_is(tmp_path):
    path = RELEASED["small"]
    metadata = read_metadata(path)
    assert path.stat().st_size <= 16e6 and metadata["model"] == "DiffIML"
    calibration = Calibration.read(metadata["calibration"])
    assert calibration.crossed.false_alarms <= 0.05 and calibration.left_out.ece > 0
    assert metadata["data"] and metadata["limits"] and 0 < metadata["figures"]["val"]["pixel-level F1"][0] < 1
    noise = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.jpg")
    flags = {"num_inference_steps": 1, "ensemble_size": 2}
    detector = load("small", image_size=96, device="cpu", **flags)
    assert not predict(detector, [str(tmp_path / "photo.jpg")], tmp_path / "out")[FAILED]
    assert np.array(Image.open(tmp_path / "out" / "photo_uncertainty.png")).shape == (70, 90)


@pytest.mark.slow
def test_the_small_model_reaches_the_figures_of_its_card(bsds, tmp_path):
    figures = read_metadata(RELEASED["small"])["figures"]["val"]
    found = testing.test(
        TestSettings(
            checkpoint_path="small",
            test_data_path=str(bsds / "val" / "list.json"),
            output_dir=str(tmp_path),
            device="cpu",
            num_workers=0,
        )
    )["datasets"]["val"]
    for figure, name in (("pixel-level F1",) * 2, ("pixel-level AUC",) * 2, ("false_alarm_area", "false alarm area")):
        assert found[figure] == pytest.approx(figures[name][0], abs=0.01)


def test_each_file_is_decoded_once(checkpoint, folder, tmp_path, monkeypatch):
    decoded = []
    monkeypatch.setattr(detector_module, "read_image", lambda *of: decoded.append(str(of[0])) or read_image(*of))
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
        len({entry["mask"] for entry in read_results(tmp_path / "out")}) == 3 == len(bytes_of(tmp_path, "*_mask.png"))
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
    assert len(bytes_of(tmp_path / "out", "*_uncertainty.png")) == 5


def test_a_photo_longer_than_any_jpeg_is_predicted(checkpoint, tmp_path):
    wide = tmp_path / "wide.png"
    Image.new("RGB", (66_000, 1)).save(wide)
    assert not predict(load(checkpoint, device="cpu"), [str(wide)], tmp_path / "out")[FAILED]
    assert read(tmp_path / "out" / "wide_mask.png").shape == (1, 66_000)
    assert read(tmp_path / "out" / "wide_overlay.jpg").shape[1] == 65_500


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
    half_written = out / "deep" / f".0123456789abcdef.1.{2**30}.tmp"
    half_written.parent.mkdir(exist_ok=True)
    half_written.touch()
    detector.detect = detect
    assert predict(detector, [str(folder)], out, skip_existing=True) == {"uncalibrated": 1, FAILED: 1}
    assert "2 photos were done already" in caplog.text
    lines = [entry["image"] for entry in read_results(out)]
    assert len(lines) == len(set(lines)) == 4 and (out / "a.png_mask.png").stat().st_mtime_ns == first
    assert not half_written.exists()


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


def test_each_photo_has_one_line_after_a_second_run(checkpoint, folder, tmp_path):
    detector, out = load(checkpoint, device="cpu"), tmp_path / "out"
    predict(detector, [str(folder)], out)
    shutil.copy(folder / "a.png", folder / "a.bmp")
    predict(detector, [str(folder)], out, skip_existing=True)
    digests = {entry["image"]: entry["sha256"] for entry in read_results(out)}
    assert len(digests) == len(list(read_results(out))) == 3
    assert digests[str(folder / "a.bmp")] == sha256((folder / "a.png").read_bytes()).hexdigest()


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
    assert all(read(out / entry["mask"]).shape == (60, 90) for entry in done)
    assert not [*out.rglob(".*.tmp"), *out.glob(".lock")]
    assert main([*words, "--skip_existing"]) == 0
    assert seen[3:] == seen[2:3] and len(list(read_results(out))) == 3


def test_two_runs_do_not_share_a_folder(checkpoint, folder, tmp_path):
    detector, detect = load(checkpoint, device="cpu"), Detector.detect

    def another(photograph):
        owner = json.loads((tmp_path / "out" / ".lock").read_text())
        assert owner["pid"] == os.getpid()
        return detect(detector, photograph)

    detector.detect = another
    assert not predict(detector, [str(folder)], tmp_path / "out")[FAILED]
    assert not (tmp_path / "out" / ".lock").exists()


def test_skip_existing_predicts_a_photo_that_changed(checkpoint, folder, tmp_path):
    detector, out = load(checkpoint, device="cpu"), tmp_path / "out"
    predict(detector, [str(folder)], out)
    Image.new("RGB", (90, 60), "white").save(folder / "a.png")
    assert predict(detector, [str(folder)], out, skip_existing=True) == {"uncalibrated": 1}
    assert {entry["image"]: entry["area"] for entry in read_results(out)}[str(folder / "a.png")] == 1


def test_skip_existing_predicts_what_other_code_was_done_with(checkpoint, folder, tmp_path, monkeypatch, caplog):
    """An earlier version of the model's own, or of the package before it told its version."""
    detector, out = load(checkpoint, device="cpu"), tmp_path / "out"
    photos = [str(folder / "a.png"), str(folder / "deep" / "a.png")]
    predict(detector, photos[:1], out)
    monkeypatch.setattr(module, "version", lambda model: {BrightnessModel: "mended"}[model])
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


def test_a_photo_that_comes_later_takes_no_others_name(checkpoint, folder, tmp_path):
    detector, out = load(checkpoint, device="cpu"), tmp_path / "out"
    predict(detector, [str(folder / "a.png")], out)
    predict(detector, [str(folder / "deep" / "a.png")], out)
    predict(detector, [str(folder / "a.png")], out)
    masks = {entry["image"]: entry["mask"] for entry in read_results(out)}
    assert masks == {str(folder / "a.png"): "a_mask.png", str(folder / "deep" / "a.png"): "a.png_mask.png"}


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


def test_photos_that_shared_a_mask_get_one_each(checkpoint, folder, tmp_path):
    detector, out = load(checkpoint, device="cpu"), tmp_path / "out"
    photos = [str(folder / "a.png"), str(folder / "deep" / "a.png")]
    predict(detector, photos, out)
    entries = [json.dumps({**entry, "mask": "a_mask.png"}) + "\n" for entry in read_results(out)]
    (out / "results.jsonl").write_text("".join(entries))
    Ledger(out).enter(out / "results.jsonl", out / "results.jsonl")  # as an earlier version may have left it
    predict(detector, photos, out)
    assert len({entry["mask"] for entry in read_results(out)}) == 2


def test_photos_of_one_relative_path_are_told_apart(checkpoint, folder, tmp_path, monkeypatch):
    detector, out = load(checkpoint, device="cpu"), tmp_path / "out"
    for place in (folder, folder / "deep"):
        monkeypatch.chdir(place)
        predict(detector, ["a.png"], out)
    masks = {entry["image"]: entry["mask"] for entry in read_results(out)}
    assert masks == {str(folder / "a.png"): "a_mask.png", str(folder / "deep" / "a.png"): "a.png_mask.png"}


def test_hidden_files_of_others_are_kept(checkpoint, folder, tmp_path):
    others = tmp_path / "out" / "deep" / ".notes.tmp"
    others.parent.mkdir(parents=True)
    others.write_text("mine")
    predict(load(checkpoint, device="cpu"), [str(folder)], tmp_path / "out")
    assert others.read_text() == "mine"


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
    (out / "results.jsonl").write_text(json.dumps(entry | odd) + "\n")
    before = bytes_of(tmp_path)
    with pytest.raises(DiffIMLError, match="line 1, is no result of ours"):
        predict(load(checkpoint, device="cpu"), [str(folder / "a.png")], out)
    assert bytes_of(tmp_path) == before


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


def test_pixels_in_memory_are_bounded(monkeypatch):
    monkeypatch.setattr(module, "_PIXELS", 100)
    queue = module._Queue()
    assert not queue.full_with(1000)  # one alone never is
    queue.put("a", None, 60)
    assert queue.full_with(50) and not queue.full_with(40)
    assert queue.get() == ("a", None) and not queue.full_with(1000)


def test_a_large_photo_is_read_when_those_before_are_written(checkpoint, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PIXELS", 100)
    events, detector = [], load(checkpoint, device="cpu")
    read_photo, write = detector.read, module.write_result

    def slowly(result, start):
        time.sleep(0.1)
        files = write(result, start)
        events.append("written")
        return files

    monkeypatch.setattr(detector, "read", lambda photo: (events.append("read"), read_photo(photo))[1])
    monkeypatch.setattr(module, "write_result", slowly)
    assert predict(detector, [str(folder)], tmp_path / "out").total() == 3
    assert events == ["read", "written"] * 3
