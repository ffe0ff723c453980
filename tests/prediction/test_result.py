import os
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

from diffiml_plugin.api import load
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.evaluation.calibration import Calibration, Rates
from diffiml_plugin.ledger import LEDGER
from diffiml_plugin.prediction import result as saving
from diffiml_plugin.prediction.files import entry_of
from diffiml_plugin.prediction.result import Region, Result, write_result


@pytest.fixture
def result():
    probability = np.zeros((20, 30), np.float32)
    probability[5:10, 5:25] = 0.8
    image = np.full((20, 30, 3), 120, np.uint8)
    return Result("photo.jpg", image, probability, np.full((20, 30), 0.25, np.float32), 0.9, 0.5)


def test_the_mask_is_what_lies_above_the_threshold(result):
    assert result.mask.dtype == bool and result.mask.sum() == 100 and result.area == 100 / 600
    (x,) = {value for value in result.probability.ravel() if value}
    assert not Result("x", result.image, result.probability, None, None, float(x)).mask.any()


def test_the_overlay_changes_the_region_alone_and_not_the_photo(result):
    overlay = result.overlay()
    assert overlay.dtype == np.uint8 and np.array_equal((overlay != 120).any(2), result.mask)
    assert (result.image == 120).all()


def test_it_is_saved_under_its_name_or_another(result, tmp_path):
    files = result.save(tmp_path / "deep" / "out")
    assert {kind: file.name for kind, file in files.items()} == {
        "mask": "photo_mask.png",
        "binary": "photo_binary.png",
        "uncertainty": "photo_uncertainty.png",
        "overlay": "photo_overlay.jpg",
    }
    read = {kind: np.array(Image.open(file)) for kind, file in files.items()}
    assert read["mask"].max() == 204 and (read["uncertainty"] == 128).all()
    assert np.array_equal(read["binary"] == 255, result.mask) and read["overlay"].shape == (20, 30, 3)
    assert result.save(str(tmp_path), "a.b")["mask"] == tmp_path / "a.b_mask.png"
    assert replace(result, name="sub/photo.jpg").save(tmp_path)["mask"] == tmp_path / "photo_mask.png"
    assert replace(result, name="..jpg").save(tmp_path)["mask"] == tmp_path / "..jpg_mask.png"
    result.save(tmp_path / "deep" / "out")  # its own
    (tmp_path / "deep" / "out" / "photo_overlay.jpg").write_text("mine")
    with pytest.raises(DiffIMLError, match="photo_overlay.jpg has changed since it was written and is not overwritten"):
        result.save(tmp_path / "deep" / "out")
    (tmp_path / "b_binary.png").write_text("mine")
    with pytest.raises(DiffIMLError, match="b_binary.png was not made by this command and is not overwritten"):
        result.save(tmp_path, "b")
    assert not (tmp_path / "b_mask.png").exists()
    plain = Result("photo.jpg", result.image, result.probability, None, None, 0.5)
    assert "uncertainty" not in plain.save(tmp_path / "plain")


def on_its_side(result):
    """Of one colour, so that the bytes are the same."""
    maps = {name: getattr(result, name).reshape(30, 20) for name in ("probability", "uncertainty")}
    return replace(result, image=result.image.reshape(30, 20, 3), **maps)


def test_no_two_photos_are_saved_as_one(result, tmp_path):
    first = result.save(tmp_path)["overlay"]
    before = first.read_bytes()
    other = replace(result, name="photo.png", image=result.image + 1)
    with pytest.raises(DiffIMLError, match="photo_mask.png was made with other photo and is not overwritten"):
        other.save(tmp_path)
    with pytest.raises(DiffIMLError, match="photo_mask.png was made with other maps, photo and"):
        on_its_side(result).save(tmp_path)
    other.save(tmp_path, "another")
    with pytest.raises(DiffIMLError, match="another_mask.png was made with other photo"):
        result.save(tmp_path, "another")
    result.save(tmp_path)  # its own
    assert first.read_bytes() == before


def test_what_an_earlier_version_saved_is_told_as_such(result, tmp_path):
    result.save(tmp_path)
    ledger = (tmp_path / LEDGER).read_text()
    (tmp_path / LEDGER).write_text(ledger.replace(', "threshold": 0.5', ""))
    assert (tmp_path / LEDGER).read_text() != ledger
    with pytest.raises(DiffIMLError, match="photo_mask.png is of an earlier version, which noted no threshold, and is"):
        result.save(tmp_path)


def test_no_two_models_answers_are_saved_as_one(tiny_model, stored, tmp_path):
    Image.fromarray(np.full((32, 40, 3), 90, np.uint8)).save(tmp_path / "photo.png")
    first, again, stricter = (load(stored(), device="cpu", threshold=threshold) for threshold in (None, None, 0.6))
    kept = first(tmp_path / "photo.png").save(tmp_path / "out")
    before = {file: file.read_bytes() for file in kept.values()}
    again(tmp_path / "photo.png").save(tmp_path / "out")  # its own
    for detector, named in ((load(stored(width=5), device="cpu"), "model, width"), (stricter, "threshold")):
        with pytest.raises(DiffIMLError, match=f"photo_mask.png was made with other {named} and is not overwritten"):
            detector(tmp_path / "photo.png").save(tmp_path / "out")
    assert {file: file.read_bytes() for file in kept.values()} == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"probability": np.full((20, 30), 0.5, np.float32)}, "maps"),
        ({"uncertainty": np.zeros((20, 30), np.float32)}, "maps"),
        ({"uncertainty": None}, "maps"),  # whose file would stay beside the new mask
        ({"orientation": 3}, "orientation"),
    ],
)
def test_maps_that_were_changed_by_hand_are_not_saved_as_the_first(result, tmp_path, changes, named):
    before = {file: file.read_bytes() for file in result.save(tmp_path).values()}
    with pytest.raises(DiffIMLError, match=f"photo_mask.png was made with other {named} and is not overwritten"):
        replace(result, **changes).save(tmp_path)
    assert {file: file.read_bytes() for file in before} == before


def test_a_detectors_own_maps_are_known_again_and_changed_ones_are_not(tiny_model, stored, tmp_path):
    Image.fromarray(np.full((32, 40, 3), 90, np.uint8)).save(tmp_path / "photo.png")
    detector = load(stored(), device="cpu")
    detector(tmp_path / "photo.png").save(tmp_path)
    other = detector(tmp_path / "photo.png")
    rounded = replace(other, probability=other.probability + 1e-7)  # as another device's
    replace(rounded, made_with={**other.made_with, "maps": rounded.maps_digest}).save(tmp_path)
    (listed,) = detector.predict([tmp_path / "photo.png"])
    listed.save(tmp_path)
    listed.probability[0, 0] = 0.9
    with pytest.raises(DiffIMLError, match="photo_mask.png was made with other maps and is not overwritten"):
        listed.save(tmp_path)


def test_a_folder_in_the_folder_has_a_ledger_of_its_own(result, tmp_path):
    for folder in (tmp_path, tmp_path / "inner"):
        result.save(folder)
        assert (folder / LEDGER).exists()


def test_results_are_saved_by_many_threads_and_known_again(result, tmp_path):
    results = [replace(result, name=f"{number}.png", image=result.image + number) for number in range(8)]
    for _ in range(3):
        with ThreadPoolExecutor(8) as threads:
            assert len(list(threads.map(lambda one: one.save(tmp_path), results))) == 8


def test_two_processes_do_not_save_two_photos_as_one(result, tmp_path, monkeypatch):
    other = replace(result, image=result.image + 1)
    begun, tell = os.pipe()

    def slowly(*arguments):
        os.write(tell, b".")
        time.sleep(0.5)
        return write_result(*arguments)

    if not (child := os.fork()):
        monkeypatch.setattr(saving, "write_result", slowly)
        result.save(tmp_path, "x")
        os._exit(0)
    os.read(begun, 1)
    with pytest.raises(DiffIMLError, match="made with other photo"):
        other.save(tmp_path, "x")
    assert os.waitpid(child, 0)[1] == 0
    result.save(tmp_path, "x")  # all four are its own


@pytest.mark.parametrize("name", ["../photo", "{above}/photo", "link/photo"])
def test_it_is_saved_inside_its_folder_alone(result, tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path)
    with pytest.raises(DiffIMLError, match="lies outside of"):
        result.save(tmp_path / "out", name.format(above=tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "x" * 240, "\u00e9" * 125, "\ud800"])
@pytest.mark.parametrize("way", ["said", "the photo's"])
def test_a_name_that_no_file_can_have_is_refused_in_a_sentence(result, tmp_path, name, way):
    named = replace(result, name=f"{name}.jpg")
    with pytest.raises(DiffIMLError, match=r"no file can be called '.*; choose a name of at most 255 bytes of UTF-8"):
        result.save(tmp_path / "out", name) if way == "said" else named.save(tmp_path / "out")
    assert not any(tmp_path.iterdir())
    result.save(tmp_path / "out", "x" * 239)


def test_its_text_is_short(result):
    assert repr(result) == "Result(name='photo.jpg', score=0.9, threshold=0.5)"


def calibrated(result, intercept):
    """Every picture's probability is sigmoid(intercept)."""
    return replace(
        result, calibration=Calibration(Rates(0.05, 0.1, 0.04, 0.5), (0.0,) * 6, intercept, 0.9, 0.2, 40, 60)
    )


def test_the_answer_is_a_sentence_with_the_error_rate_that_belongs_to_it(result):
    answers = [calibrated(result, intercept) for intercept in (3.5, -2.5, -0.2)]
    assert [answer.verdict for answer in answers] == ["tampered", "nothing found", "cannot say"]
    assert [round(answer.image_probability, 2) for answer in answers] == [0.97, 0.08, 0.45]
    assert [answer.sentence for answer in answers] == [
        "photo.jpg: tampered (0.97); so were 5.0% of 40 untampered pictures",
        "photo.jpg: nothing found (0.08); so were 10.0% of 60 tampered pictures",
        "photo.jpg: cannot say (0.45); nothing found is below 0.20, tampered above 0.90",
    ]
    assert not [answer for answer in answers if "authentic" in answer.sentence]  # no answer may be read as that


def test_a_model_without_calibration_says_so(result):
    assert (result.image_probability, result.verdict) == (None, "uncalibrated")
    assert result.sentence.startswith("photo.jpg: uncalibrated; 16.7% of its area lies above 0.5")


def test_regions_are_connected_and_the_largest_comes_first(result):
    result.probability[12:20, 0:8] = 0.6  # 64 pixels
    result.probability[0, 29] = 0.9  # a speck
    first, second = result.regions
    assert first == Region((5, 5, 20, 5), 100 / 600, pytest.approx(0.8))
    assert second == Region((0, 12, 8, 8), 64 / 600, pytest.approx(0.6))
    assert replace(result, threshold=1.0).regions == []


def test_what_is_said_and_written_of_a_large_photo_takes_few_bytes_a_pixel(tmp_path, monkeypatch):
    monkeypatch.setattr("diffiml_plugin.prediction.pictures._BAND", 1 << 14)
    probability = cv2.resize(np.random.default_rng(0).random((8, 10), np.float32), (1000, 800))
    calibration = Calibration(Rates(0.1, 0.1, 0.1, 0.5), (0.1,) * 6, 0, 0.9, 0.1, 20, 20)
    image = np.zeros((800, 1000, 3), np.uint8)
    large = Result("large", image, probability, probability / 2, 0.5, 0.5, calibration)
    tracemalloc.start()
    write_result(large, tmp_path / "large")
    entry_of("large", "", large, 0)
    peak = tracemalloc.get_traced_memory()[1] / probability.size
    tracemalloc.stop()
    assert 4 < peak < 10  # of arrays, beside the photo's and the maps' own


def test_a_large_photo_is_answered_in_parts_as_in_one(tmp_path, monkeypatch):
    coarse = np.random.default_rng(0).random((9, 11), np.float32)
    smooth = cv2.resize(coarse, (110, 90), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    parts = []
    for band in (1 << 22, 1):  # pixels; a row at a time
        monkeypatch.setattr("diffiml_plugin.prediction.pictures._BAND", band)
        large = Result("large", np.full((90, 110, 3), 99, np.uint8), smooth, smooth / 2, 0.5, 0.5)
        files = write_result(large, tmp_path / str(band))
        parts.append(([file.read_bytes() for file in files.values()], large.regions))
    assert parts[0] == parts[1] and len(large.regions) > 1
