import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffiml_plugin.data.lists import NEGATIVE
from diffiml_plugin.datasets.check import check_datasets, table
from diffiml_plugin.errors import DiffIMLError


@pytest.fixture
def dataset(miniatures, tmp_path):
    """Writes a list of three sound pairs and one authentic image, and of what a test adds; gives its report."""

    def make(*added, name="mine"):
        pairs = [[f"{number}.png", f"{number}_mask.png"] for number in range(3)] + [["3.png", NEGATIVE]]
        for image, mask in pairs:
            miniatures.photograph(tmp_path / image)
            if mask != NEGATIVE:
                miniatures.save(tmp_path / mask, miniatures.GREY)
        (tmp_path / f"{name}.json").write_text(json.dumps([*pairs, *added]))
        (report,) = check_datasets(str(tmp_path / f"{name}.json"))
        return report

    return make


def test_a_sound_list(dataset):
    report = dataset()
    assert (report.name, report.authentic, report.tampered, report.faults) == ("mine", 1, 3, [])
    assert report.entry is None and report.as_json()["expected"] is None


@pytest.mark.parametrize(
    ("kind", "change", "harmful"),
    [
        ("empty", lambda grey: grey * 0, True),
        ("inverted", lambda grey: 255 - grey, True),
        ("dark", lambda grey: grey // 255, True),
        ("dark", lambda grey: (grey // 255).astype(np.uint16), True),
        ("alpha", lambda grey: np.dstack([grey * 0, grey]), True),
        ("not binary", lambda grey: np.tile(np.arange(48, dtype=np.uint8) * 5, (32, 1)), True),
        ("size", lambda grey: grey[1:], True),
        ("16-bit", lambda grey: grey.astype(np.uint16) * 257, False),
    ],
)
def test_each_kind_of_faulty_mask(dataset, miniatures, tmp_path, kind, change, harmful):
    miniatures.photograph(tmp_path / "faulty.png")
    miniatures.save(tmp_path / "faulty_mask.png", change(miniatures.GREY))
    report = dataset(["faulty.png", "faulty_mask.png"])
    (fault,) = report.faults
    assert (fault.kind, fault.harmful, report.harmful) == (kind, harmful, harmful)
    assert report.authentic == (2 if kind == "empty" else 1)  # as a test counts it
    assert "faulty_mask.png" in fault.text


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_that_viewers_turn_is_told_of_beside_a_mask(dataset, miniatures, tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    miniatures.photograph(tmp_path / "stored.png")
    with Image.open(tmp_path / "stored.png") as photograph:
        photograph.save(tmp_path / "turned.jpg", exif=exif)
        photograph.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "authentic.jpg", exif=exif)
    report = dataset(["turned.jpg", "0_mask.png"], ["authentic.jpg", NEGATIVE])
    told = [(fault.kind, Path(fault.path).name, fault.harmful) for fault in report.faults]
    assert told == ([("orientation", "turned.jpg", False)] if orientation != 1 else [])
    shown = f"mine: orientation, harmless: {tmp_path / 'turned.jpg'} is turned or mirrored by viewers (EXIF orientation"
    assert (f"{shown} {orientation})" in table([report])) == (orientation != 1)


def test_missing_and_undecodable_files(dataset, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    report = dataset(["gone.png", NEGATIVE], ["text.png", NEGATIVE], ["0.png", "gone_mask.png"])
    kinds = [fault.kind for fault in report.faults if fault.harmful]
    assert sorted(kinds) == ["duplicate", "missing", "missing", "undecodable"]


def test_duplicates(dataset, miniatures, tmp_path):
    report = dataset(["0.png", "0_mask.png"])
    assert [fault.harmful for fault in report.faults] == [True]
    assert "0.png is listed twice" in report.faults[0].text
    for copy in ("a", "b"):
        shutil.copy(tmp_path / "1.png", tmp_path / f"{copy}.png")
    report = dataset(["a.png", "1_mask.png"], ["b.png", NEGATIVE])
    assert [fault.harmful for fault in report.faults] == [False, True]
    assert "once authentic and once tampered" in report.faults[1].text
    miniatures.save(tmp_path / "empty.png", miniatures.GREY * 0)
    miniatures.save(tmp_path / "other.png", 255 - miniatures.GREY)
    for mask, told in (("empty.png", ", once authentic and once tampered"), ("other.png", ", with different masks")):
        report = dataset(["a.png", "1_mask.png"], ["b.png", mask])
        assert [told in fault.text for fault in report.faults if fault.kind == "duplicate"] == [False, True]
    Image.new("RGB", (miniatures.WIDTH, miniatures.HEIGHT)).save(tmp_path / "black.png")
    shutil.copy(tmp_path / "black.png", tmp_path / "again.png")
    report = dataset(["black.png", "empty.png"], ["again.png", NEGATIVE])
    assert [fault.harmful for fault in report.faults if fault.kind == "duplicate"] == [False]
    (tmp_path / "linked.png").hardlink_to(tmp_path / "a.png")
    report = dataset(["a.png", "1_mask.png"], ["linked.png", "1_mask.png"])
    assert [fault.harmful for fault in report.faults] == [False, True]
    assert f"linked.png (the same file as {tmp_path / 'a.png'}) is listed twice" in report.faults[1].text


@pytest.fixture
def photographs(tmp_path):
    """Writes a list of images of noise, half of them tampered, saved as a test says; gives its report."""

    def make(count, save_authentic, save_tampered):
        random, pairs = np.random.default_rng(0), []
        for number in range(count):
            image = Image.fromarray(random.integers(0, 256, (32, 48, 3), np.uint8))
            file = (save_tampered if number % 2 else save_authentic)(image, tmp_path / str(number), number)
            pairs.append([file.name, "mask.png" if number % 2 else NEGATIVE])
        Image.fromarray(np.eye(32, 48, dtype=np.uint8) * 255).save(tmp_path / "mask.png")
        (tmp_path / "list.json").write_text(json.dumps(pairs))
        (report,) = check_datasets(str(tmp_path / "list.json"))
        return report

    return make


def jpeg(quality):
    def save(image, path, number):
        file = path.with_suffix(".jpg")
        image.save(file, quality=quality(number))
        return file

    return save


def png(image, path, number):
    image.save(path.with_suffix(".png"))
    return path.with_suffix(".png")


NINETY, EIGHTY = jpeg(lambda number: 90), jpeg(lambda number: 80)


def test_headers_that_tell_the_label(photographs):
    for authentic, tampered in ((NINETY, EIGHTY), (NINETY, png)):
        report = photographs(20, authentic, tampered)
        assert [(fault.kind, fault.harmful) for fault in report.faults] == [("headers", True)]
        assert "differ in file format or JPEG tables" in report.faults[0].text and "1.00" in report.faults[0].text


def test_headers_that_tell_nothing(photographs):
    assert photographs(20, NINETY, NINETY).faults == []
    assert photographs(20, png, png).faults == []
    assert photographs(6, NINETY, EIGHTY).faults == []  # may be chance
    one_each = jpeg(lambda number: 50 + number)
    assert photographs(40, one_each, one_each).faults == []
    both = jpeg(lambda number: 80 if number // 2 % 2 else 90)
    assert photographs(40, both, both).faults == []


def test_the_auc_of_headers_is_that_of_the_quality(photographs):
    qualities = [80 if number % 10 < 8 else 90 for number in range(50)]  # of the tampered; the others' are exchanged
    authentic, tampered = jpeg(lambda number: 170 - qualities[number // 2]), jpeg(lambda number: qualities[number // 2])
    (fault,) = photographs(100, authentic, tampered).faults
    assert fault.kind == "headers" and "with an AUC of 0.80" in fault.text


def test_images_that_were_trained_on(tiny_dataset, tmp_path):
    shutil.copy(tiny_dataset / "Au" / "clean.png", tmp_path / "seen.png")
    (tmp_path / "photos").mkdir()
    shutil.copy(tiny_dataset / "Tp" / "2.png", tmp_path / "photos" / "host.png")
    (tmp_path / "list.json").write_text(json.dumps([["seen.png", NEGATIVE]]))
    (tmp_path / "all.json").write_text(json.dumps([["JsonDataset", "list.json"], ["SyntheticTampering", "photos"]]))
    for trained_on, images in (
        ("", set()),
        (str(tmp_path / "list.json"), {"clean.png"}),
        (f"synth:{tmp_path / 'photos'}", {"2.png"}),
        (str(tmp_path / "all.json"), {"clean.png", "2.png"}),
        (str(tiny_dataset), {"0.png", "1.png", "2.png"}),
    ):
        (report,) = check_datasets(str(tiny_dataset / "list.json"), trained_on)
        assert {Path(fault.path).name for fault in report.faults} == images
        assert all((fault.kind, fault.harmful) == ("trained on", True) for fault in report.faults)
    with pytest.raises(DiffIMLError, match="nowhere of synth:.* is no folder of photographs"):
        check_datasets(str(tiny_dataset), f"synth:{tmp_path / 'nowhere'}")


def test_published_counts(dataset):
    report = dataset(name="coverage")
    assert report.harmful == 0
    assert [fault.kind for fault in report.faults] == ["count", "count"]
    assert "coverage has 3 tampered images, 100 are published" in report.faults[1].text
    assert report.as_json()["expected"] == {"authentic": 100, "tampered": 100}
    rows = table([report]).splitlines()
    assert rows[1].split() == ["coverage", "1", "100", "3", "100", "0"]
    assert rows[2].startswith("coverage: count, harmless: ")


def test_what_cannot_be_paired_is_a_fault(tiny_dataset):
    (tiny_dataset / "Gt" / "2.png").rename(tiny_dataset / "Gt" / "3.png")
    (report,) = check_datasets(str(tiny_dataset))
    assert [fault.kind for fault in report.faults] == ["unpaired"] and report.harmful == 1
    assert "2.png has no mask" in report.faults[0].text and "(1 more without a partner)" in report.faults[0].text
    (tiny_dataset / "list.json").write_text("[]")
    (report,) = check_datasets(str(tiny_dataset / "list.json"))
    assert [fault.kind for fault in report.faults] == ["list"] and report.harmful == 1
    with pytest.raises(DiffIMLError, match="nowhere does not exist"):
        check_datasets(str(tiny_dataset / "nowhere"))


def test_several_datasets(tiny_dataset, tmp_path):
    sets = tmp_path / "sets.json"
    sets.write_text(json.dumps({"folder": "tiny", "list": "tiny/list.json"}))
    assert [(report.name, report.authentic, report.tampered) for report in check_datasets(str(sets))] == [
        ("folder", 0, 3),
        ("list", 1, 3),
    ]
    (tmp_path / "list.json").write_text(json.dumps([["tiny/Tp/0.png", NEGATIVE]]))
    balanced = [["JsonDataset", "list.json"], ["ManiDataset", "tiny"], ["JsonDataset", "tiny/list.json"]]
    sets.write_text(json.dumps(balanced))
    assert [(report.name, report.authentic, report.tampered) for report in check_datasets(str(sets))] == [
        (tmp_path.name, 1, 0),
        ("tiny", 0, 3),
        (str(tmp_path / "tiny" / "list.json"), 1, 3),
    ]


def test_each_list_of_training_data_is_read_once(tiny_dataset, tmp_path, caplog):
    labelled = [{"path": "Tp/0.png", "label": 0, "mask": "Gt/0.png"}]
    (tiny_dataset / "list.json").write_text(json.dumps(labelled))
    (tmp_path / "sets.json").write_text(json.dumps([["JsonDataset", "tiny/list.json"]]))
    assert [report.name for report in check_datasets(str(tmp_path / "sets.json"))] == ["tiny"]
    assert caplog.text.count("say label 0 and have a mask") == 1


def test_nothing_but_photographs_to_tamper_is_a_fault(tmp_path):
    (tmp_path / "sets.json").write_text(json.dumps([["SyntheticTampering", "photos"]]))
    (report,) = check_datasets(str(tmp_path / "sets.json"))
    assert "have no masks" in report.faults[0].text


def test_real_data(bsds):
    for part in ("train", "val/list.json"):
        (report,) = check_datasets(str(bsds / part))
        assert report.faults == []
