import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffiml_plugin.api import load
from diffiml_plugin.cli.main import main
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.evaluation.calibrating import Bounds
from diffiml_plugin.folders import claimed
from diffiml_plugin.models.checkpoints import RELEASED, save_checkpoint
from diffiml_plugin.prediction.calibrate import DIAGRAM, RECORDS, REPORT, TABLE, calibrate
from diffiml_plugin.prediction.detector import Detector
from diffiml_plugin.settings import CommonSettings
from diffiml_plugin.weights.files import load_weights, read_metadata, save_weights
from diffiml_plugin.weights.hub import WEIGHTS

AUTHENTIC, TAMPERED = 20, 14
CPU = CommonSettings(device="cpu")


@pytest.fixture
def checkpoint(tiny_model, stored, restore):
    """A model that calls bright pixels tampered."""
    path = stored()
    model, flags = restore(path).model, restore(path).flags
    with torch.no_grad():
        for layer in (model.layers[0], model.layers[2]):
            layer.weight.zero_()
            layer.bias.zero_()
        model.layers[0].weight[0, :, 1, 1] = 1
        model.layers[2].weight[0, 0, 1, 1], model.layers[2].bias[0] = 2, -4
    save_checkpoint(path, model, "TinyIML", flags, input={"image_size": 64}, data="squares")
    return path


@pytest.fixture
def squares(tmp_path):
    """Dark noise; the tampered ones have a bright square. Two sets, and a JSON that names both."""
    random = np.random.default_rng(0)
    pairs = []
    for number in range(AUTHENTIC + TAMPERED):
        pixels = random.integers(0, 120, (64, 64, 3), dtype=np.uint8)
        mask = np.zeros((64, 64), np.uint8)
        if number >= AUTHENTIC:
            pixels[8:40, 8:40], mask[8:40, 8:40] = 230, 255
            Image.fromarray(mask).save(tmp_path / f"mask{number}.png")
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        pairs.append([f"{number}.png", f"mask{number}.png" if number >= AUTHENTIC else "Negative"])
    for name, part in (("even", pairs[::2]), ("odd", pairs[1::2])):
        (tmp_path / f"{name}.json").write_text(json.dumps(part))
    return [str(tmp_path / "even.json"), str(tmp_path / "odd.json")]


def words(checkpoint, squares, *more):
    out = str(checkpoint.parent / "out")
    return ["calibrate", "--checkpoint_path", str(checkpoint), "--device", "cpu", "--output_dir", out, *more] + [
        "--test_data_path",
        *squares,
    ]


def test_a_calibrated_checkpoint_answers_in_a_sentence(checkpoint, squares, capsys):
    before, _ = load_weights(checkpoint)
    assert load(checkpoint, device="cpu")(str(checkpoint.parent / "0.png")).verdict == "uncalibrated"
    assert main(words(checkpoint, squares)) == 0
    printed = capsys.readouterr().out
    assert "even, left out" in printed and f"calibrated weights are in {checkpoint}" in printed
    detector = load(checkpoint, device="cpu")
    for number, verdict in ((0, "nothing found"), (AUTHENTIC, "tampered")):
        result = detector(str(checkpoint.parent / f"{number}.png"))
        assert result.verdict == verdict and result.sentence.startswith(f"{number}.png: {verdict} (")
    after, metadata = load_weights(checkpoint)
    assert all(torch.equal(before[name], after[name]) for name in before) and before.keys() == after.keys()
    assert metadata["data"] == "squares" and metadata["calibrated_on"] == ["even", "odd"]
    assert (metadata["calibration"]["authentic"], metadata["calibration"]["tampered"]) == (AUTHENTIC, TAMPERED)
    assert metadata["threshold"] == detector.threshold != 0.5


@pytest.mark.parametrize(("made_in", "other"), [("fp32", "bf16"), ("bf16", "fp32")])
def test_in_another_precision_a_checkpoint_is_uncalibrated(checkpoint, squares, caplog, made_in, other):
    fitted = calibrate(
        Detector(checkpoint, CPU, precision=made_in), squares, checkpoint.parent / "out", checkpoint, Bounds()
    )
    assert fitted.calibration.precision == made_in
    assert Detector(checkpoint, CPU, precision=made_in).calibration == fitted.calibration and not caplog.text
    assert Detector(checkpoint, CPU, precision=other).calibration is None
    assert f"uncalibrated: the model was calibrated in {made_in}, not in {other}" in caplog.text


def test_a_mask_with_a_soft_rim_is_read_as_in_a_test(checkpoint, squares):
    """Which `datasets check` has nothing against."""
    plain = calibrate(Detector(checkpoint, CPU), squares, checkpoint.parent / "out", checkpoint, Bounds())
    for path in checkpoint.parent.glob("mask*.png"):
        mask = np.array(Image.open(path))
        mask[7, 8:40], mask[39, 8:40] = 90, 200
        Image.fromarray(mask).save(path)
    soft = calibrate(Detector(checkpoint, CPU), squares, checkpoint.parent / "soft", checkpoint, Bounds())
    assert soft.calibration == plain.calibration


def test_figures_and_diagram_stand_beside_it(checkpoint, squares):
    fitted = calibrate(Detector(checkpoint, CPU), squares, checkpoint.parent / "out", checkpoint, Bounds())
    out = checkpoint.parent / "out"
    report = json.loads((out / REPORT).read_text())
    assert report["crossed"]["ece"] == fitted.crossed.ece and len(report["regression"]) == 6
    assert "even, left out" in (out / TABLE).read_text() and Image.open(out / DIAGRAM).size[0] > 300


@pytest.mark.parametrize("name", [RECORDS, TABLE, DIAGRAM])
def test_files_of_others_are_kept(checkpoint, squares, name):
    out = checkpoint.parent / "out"
    out.mkdir()
    (out / name).write_text('{"monday": 3}\n')
    with pytest.raises(DiffIMLError, match=f"{name} was not made by this command"):
        calibrate(Detector(checkpoint, CPU), squares, out, checkpoint, Bounds())
    assert (out / name).read_text() == '{"monday": 3}\n'


def test_an_interrupted_calibration_goes_on_where_it_was(checkpoint, squares, monkeypatch, cut_off):
    detector, out, target = Detector(checkpoint, CPU), checkpoint.parent / "out", checkpoint.parent / "new.safetensors"
    whole = calibrate(detector, squares, out, target, Bounds()).calibration
    lines = (out / RECORDS).read_text().splitlines(keepends=True)
    (out / RECORDS).write_text("".join(lines[:-3]))
    cut_off(out / RECORDS, lines[-3][:40])
    predicted, predict = [], detector.predict
    calibrated = Detector(target, CPU)  # of the same weights
    for one in (detector, calibrated):
        monkeypatch.setattr(one, "predict", lambda files: predict(predicted.append(file) or file for file in files))
        assert calibrate(one, squares, out, target, Bounds()).calibration == whole and len(predicted) == 3
    Image.open(checkpoint.parent / "0.png").transpose(Image.Transpose.ROTATE_90).save(checkpoint.parent / "0.png")
    with pytest.raises(DiffIMLError, match="calibration.json was made with other sizes or dates of images"):
        calibrate(detector, squares, out, target, Bounds())
    for file in (target, *map(out.joinpath, (REPORT, TABLE, DIAGRAM))):
        file.unlink()
    calibrate(detector, squares, out, target, Bounds())
    assert len(predicted) == 4


def test_what_another_version_predicted_is_predicted_anew(checkpoint, squares, monkeypatch):
    detector, out, target = Detector(checkpoint, CPU), checkpoint.parent / "out", checkpoint.parent / "new.safetensors"
    calibrate(detector, squares, out, target, Bounds())
    earlier = (out / RECORDS).read_text().splitlines()
    monkeypatch.setattr("diffiml_plugin.prediction.calibrate.code_digest", lambda model: "another")
    calibrate(detector, squares, out, target, Bounds())
    assert len((out / RECORDS).read_text().splitlines()) == 2 * len(earlier)  # those stay beside


def test_an_image_with_an_empty_mask_is_authentic(checkpoint, squares):
    """As `benco test` counts it."""
    pairs = [pair for path in squares for pair in json.loads(open(path).read())]
    Image.new("L", (64, 64)).save(checkpoint.parent / "empty.png")
    (checkpoint.parent / "all.json").write_text(
        json.dumps(
            [
                [image, "empty.png" if mask == "Negative" and number % 2 else mask]
                for number, (image, mask) in enumerate(pairs)
            ]
        )
    )
    detector, out, target = Detector(checkpoint, CPU), checkpoint.parent / "out", checkpoint.parent / "new.safetensors"
    found = calibrate(detector, [str(checkpoint.parent / "all.json")], out, target, Bounds()).calibration
    assert (found.authentic, found.tampered) == (AUTHENTIC, TAMPERED)


def test_an_image_of_two_lists_counts_once(checkpoint, squares, caplog):
    everything = checkpoint.parent / "everything.json"
    everything.write_text(json.dumps([pair for file in squares for pair in json.loads(Path(file).read_text())]))
    out = checkpoint.parent / "out"
    fitted = calibrate(Detector(checkpoint, CPU), [squares[0], str(everything)], out, checkpoint, Bounds())
    assert (fitted.calibration.authentic, fitted.calibration.tampered) == (AUTHENTIC, TAMPERED)
    assert fitted.crossed.sets.tolist().count("even") == fitted.crossed.sets.tolist().count("everything") == 17
    assert "17 images stand in two lists, such as" in caplog.text


def test_two_sets_of_one_name_are_refused_until_they_are_named(checkpoint, squares):
    folders = [checkpoint.parent / name for name in ("one", "two")]
    for folder, square in zip(folders, squares, strict=True):
        folder.mkdir()
        pairs = json.loads(Path(square).read_text())
        absolute = [[str(checkpoint.parent / file) if file != "Negative" else file for file in pair] for pair in pairs]
        (folder / "val.json").write_text(json.dumps(absolute))
    out, lists = checkpoint.parent / "out", [str(folder / "val.json") for folder in folders]
    with pytest.raises(DiffIMLError, match=r"one/val.json and .*two/val.json are both called 'val'"):
        calibrate(Detector(checkpoint, CPU), lists, out, checkpoint, Bounds())
    named = checkpoint.parent / "named.json"
    named.write_text(json.dumps(dict(zip(("one", "two"), lists, strict=True))))
    fitted = calibrate(Detector(checkpoint, CPU), [str(named)], out, checkpoint, Bounds())
    assert fitted.left_out is not None and set(fitted.crossed.sets) == {"one", "two"}


def test_predictions_serve_other_lists_under_their_names_but_no_other_settings(checkpoint, squares, monkeypatch):
    everything, out = checkpoint.parent / "everything.json", checkpoint.parent / "out"
    everything.write_text(json.dumps([pair for file in squares for pair in json.loads(Path(file).read_text())]))
    predicted = []

    def calibrated(lists, precision):
        detector, predicted[:] = Detector(checkpoint, CPU, precision=precision), []
        predict = detector.predict
        monkeypatch.setattr(
            detector, "predict", lambda files: predict(predicted.append(file) or file for file in files)
        )
        for file in (REPORT, TABLE, DIAGRAM, WEIGHTS):
            (out / file).unlink(missing_ok=True)
        return calibrate(detector, lists, out, out / WEIGHTS, Bounds())

    assert calibrated(squares, "fp32").left_out and len(predicted) == AUTHENTIC + TAMPERED
    renamed = calibrated([str(everything)], "fp32")
    assert not predicted and set(renamed.crossed.sets.tolist()) == {"everything"} and renamed.left_out is None
    assert calibrated(squares, "bf16") and len(predicted) == AUTHENTIC + TAMPERED


def test_weights_of_another_statement_are_kept(checkpoint, squares):
    """Of the same tensors, as two releases of one training."""
    out, target = checkpoint.parent / "out", checkpoint.parent / "out" / WEIGHTS
    calibrate(Detector(checkpoint, CPU), squares, out, target, Bounds())
    weights, metadata = load_weights(checkpoint)
    save_weights(checkpoint, weights, {**metadata, "licence": "private"})
    with pytest.raises(DiffIMLError, match="which noted no licence, and is not overwritten"):
        calibrate(Detector(checkpoint, CPU), squares, out, target, Bounds())
    assert "licence" not in read_metadata(target)


@pytest.mark.parametrize("inside", [True, False])
def test_weights_that_were_calibrated_since_are_kept(checkpoint, squares, inside):
    saved = load(checkpoint, device="cpu").save_pretrained(checkpoint.parent / "saved")
    weights = saved / WEIGHTS
    calibrate(Detector(saved, CPU), squares, saved if inside else checkpoint.parent / "out", weights, Bounds())
    with pytest.raises(DiffIMLError, match="model.safetensors .* and is not overwritten"):
        load(checkpoint, device="cpu").save_pretrained(saved)
    assert read_metadata(weights)["calibrated_on"] == ["even", "odd"]
    load(saved, device="cpu").save_pretrained(checkpoint.parent / "another")


def test_what_a_calibration_in_place_replaces_is_told(checkpoint, squares, caplog):
    def told(folder, lists, *flags):
        caplog.clear()
        assert main(words(checkpoint, lists, "--output_dir", str(checkpoint.parent / folder), *flags)) == 0
        return [message.split(" has ")[1] for message in caplog.messages if "which this replaces" in message]

    assert not told("one", squares) and not told("one", squares)  # the second is the same again
    replaced = "of its own, which this replaces; --output FILE keeps them"
    assert told("two", squares[:1]) == [f"calibration, threshold {replaced}"]
    assert told("three", squares, "--model", "TinyIML", "--dropout", "0.1") == [
        f"calibration, threshold, dropout {replaced}"
    ]
    assert not told("four", squares, "--output", str(checkpoint.parent / "other.safetensors"))


def test_weights_in_a_folder_that_a_training_writes_are_calibrated_elsewhere(checkpoint, squares, capsys):
    before = checkpoint.read_bytes()
    with claimed(checkpoint.parent):
        assert main(words(checkpoint, squares)) == 2
        assert f"{checkpoint.parent} is in use by" in capsys.readouterr().err and checkpoint.read_bytes() == before
        assert main(words(checkpoint, squares, "--output", str(checkpoint.parent / "calibrated.safetensors"))) == 0


def test_weights_that_are_replaced_meanwhile_get_no_calibration(checkpoint, squares, monkeypatch):
    detector = Detector(checkpoint, CPU)
    predict = detector.predict

    def replacing(files):
        yield from predict(files)
        weights, metadata = load_weights(checkpoint)
        save_weights(checkpoint, {name: tensor + 1 for name, tensor in weights.items()}, metadata)

    monkeypatch.setattr(detector, "predict", replacing)
    with pytest.raises(DiffIMLError, match="was replaced while it was in use"):
        calibrate(detector, squares, checkpoint.parent / "out", checkpoint, Bounds())
    assert "calibration" not in read_metadata(checkpoint)


def test_settings_of_the_run_are_stored_since_the_answers_hold_for_them(tiny_model, checkpoint, squares):
    target = str(checkpoint.parent / "new.safetensors")
    assert main(words(checkpoint, squares, "--model", "TinyIML", "--poison", "none", "--output", target)) == 0
    assert read_metadata(target)["config"]["poison"] == "none" and "calibration" not in read_metadata(checkpoint)
    assert load(target, device="cpu").calibration and load(target, device="cpu", poison="x").calibration is None


def test_a_bound_on_the_area_sets_the_threshold(checkpoint, squares):
    assert main(words(checkpoint, squares, "--false_alarm_rate", "0.9")) == 0
    assert read_metadata(checkpoint)["threshold"] == 0.05


@pytest.mark.parametrize(
    "part, told", [(slice(AUTHENTIC, None), "0 authentic and 14"), (slice(8), "8 authentic and 0")]
)
def test_lists_without_one_kind_are_refused_before_anything_is_predicted(checkpoint, squares, capsys, part, told):
    pairs = [pair for path in squares for pair in json.loads(open(path).read())]
    pairs.sort(key=lambda pair: int(pair[0].split(".")[0]))
    (checkpoint.parent / "part.json").write_text(json.dumps(pairs[part]))
    assert main(words(checkpoint, [str(checkpoint.parent / "part.json")])) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1 and not (checkpoint.parent / "out" / RECORDS).exists()


@pytest.mark.parametrize(
    "path, told",
    [
        ("small", "name a file by --output"),
        ("link/small.safetensors", "name a file by --output"),  # the same by another path
        ("x.pth", "no room for a calibration"),
        ("gone", "does not exist"),
    ],
)
def test_checkpoints_that_cannot_hold_a_calibration(tmp_path, squares, capsys, monkeypatch, path, told):
    monkeypatch.chdir(tmp_path)
    Path("package").mkdir()
    monkeypatch.setitem(RELEASED, "small", Path(shutil.copy(RELEASED["small"], "package")).resolve())
    Path("link").symlink_to("package")
    torch.save({}, "x.pth")
    assert main(["calibrate", "--checkpoint_path", path, "--test_data_path", *squares]) == 2
    assert told in capsys.readouterr().err


def test_an_image_that_cannot_be_predicted_is_left_out(checkpoint, squares, caplog, monkeypatch):
    detector = Detector(checkpoint, CPU)
    detect = detector.detect

    def failing(photo):
        if photo.name.endswith("/0.png"):
            raise DiffIMLError("0.png is not finite")
        return detect(photo)

    monkeypatch.setattr(detector, "detect", failing)
    fitted = calibrate(detector, squares, checkpoint.parent / "out", checkpoint, Bounds())
    assert fitted.calibration.authentic == AUTHENTIC - 1 and "left out: 0.png is not finite" in caplog.text
