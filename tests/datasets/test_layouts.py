import json
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest

from diffiml_plugin.data.lists import NEGATIVE
from diffiml_plugin.datasets import layouts
from diffiml_plugin.datasets.catalogue import CATALOGUE
from diffiml_plugin.datasets.prepare import prepare
from diffiml_plugin.errors import DiffIMLError

NAMES = [entry.name for entry in CATALOGUE]


def test_both_versions_of_casia_in_one_folder_and_masks_beside_the_images(miniatures, tmp_path):
    expected = {}
    for name, folder in (("CASIAv1", "CASIA 1.0"), ("CASIAv2", "CASIA 2.0")):
        expected[name] = miniatures.fabricate(name, tmp_path / folder)
        for masks in (tmp_path / folder).glob("* [gG]roundtruth"):
            masks.rename(tmp_path / masks.name)
    for name, counts in expected.items():
        done = prepare(name, tmp_path)
        assert (done.authentic, done.tampered, done.corrected, done.left_out) == counts


@pytest.mark.parametrize("name", ["CASIAv2", "COVERAGE", "GRIP"])
def test_a_second_file_of_a_name_is_left_out_and_told(miniatures, tmp_path, name):
    """Of a copy that somebody made; its images would be paired with masks of the first."""
    miniatures.fabricate(name, tmp_path / "root")
    once = prepare(name, tmp_path / "root", tmp_path / "once.json")
    miniatures.fabricate(name, tmp_path / "root" / "zz")
    twice = prepare(name, tmp_path / "root", tmp_path / "twice.json")
    assert (twice.authentic, twice.tampered) == (once.authentic, once.tampered)
    again = [line for line in twice.log.read_text().splitlines() if "has the name of" in line]
    assert len(again) >= once.authentic + 2 * once.tampered and all(
        "/zz/" in line.partition(": has")[0] for line in again
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_converted_copy_beside_an_image_does_not_count(miniatures, tmp_path, name):
    miniatures.fabricate(name, tmp_path / "root")
    once = prepare(name, tmp_path / "root", tmp_path / "once.json")
    for image, _ in json.loads(once.output.read_text()):
        file = tmp_path / image
        shutil.copy(file, file.with_suffix(".webp"))
    again = prepare(name, tmp_path / "root", tmp_path / "again.json")
    assert (again.authentic, again.tampered) == (once.authentic, once.tampered)
    told = {line.split(": ")[1] for line in again.log.read_text().splitlines() if line.startswith("left out")}
    assert not told & {image for image, _ in json.loads(again.output.read_text())}


def test_photos_of_other_folders_take_no_names_of_coverage(miniatures, tmp_path):
    miniatures.fabricate("COVERAGE", tmp_path)
    once = prepare("COVERAGE", tmp_path, tmp_path / "once.json")
    for number in range(100):
        miniatures.photograph(tmp_path / "a" / f"{number}.png")
    again = prepare("COVERAGE", tmp_path, tmp_path / "again.json")
    assert (again.authentic, again.tampered) == (once.authentic, once.tampered)


@pytest.mark.parametrize("name", ["CocoGlide", "MISD"])
def test_two_downloads_in_one_folder_keep_their_own_masks(miniatures, tmp_path, name):
    for part in ("a", "b"):
        miniatures.fabricate(name, tmp_path / "root" / part)
    pairs = json.loads(prepare(name, tmp_path / "root").output.read_text())
    log = (tmp_path / "root" / f"{name}_masks" / "changes.txt").read_text()
    for image, mask in pairs:
        if mask != NEGATIVE:
            original = next((line.split(": ")[0] for line in log.splitlines() if line.endswith(mask)), mask)
            assert (
                Path(image).relative_to(tmp_path / "root").parts[0]
                == Path(original).relative_to(tmp_path / "root").parts[0]
            )


def test_masks_of_a_folder_are_joined_one_after_another(tmp_path, monkeypatch):
    held = most = 0

    def free():
        nonlocal held
        held -= 1

    def read(file):
        nonlocal held, most
        levels = np.zeros((8, 8), np.uint8)
        levels[int(Path(file).stem)] = 1
        weakref.finalize(levels, free)
        held += 1
        most = max(most, held)
        return levels

    for number in range(6):
        (tmp_path / f"{number}.png").touch()
    monkeypatch.setattr(layouts, "read_levels", read)
    assert layouts._read_folder(str(tmp_path)).sum() == 48 and most <= 2


def test_of_two_masks_of_one_image_the_second_is_told(miniatures, tmp_path):
    miniatures.fabricate("CocoGlide", tmp_path)
    first = sorted(tmp_path.rglob("mask/*"))[0]
    shutil.copy(first, second := first.with_name(f"z_{first.name}"))
    log = prepare("CocoGlide", tmp_path).log.read_text()
    assert f"left out: {second}: has the name of {first}, which is taken" in log


def test_images_that_no_rule_takes_are_told_by_their_folder(miniatures, tmp_path):
    miniatures.fabricate("IMD2020", tmp_path)
    for name in ("a.jpg", "a_mask.png", "b.jpg"):  # of a folder whose original is missing
        miniatures.photograph(tmp_path / "part" / name)
    log = prepare("IMD2020", tmp_path).log.read_text()
    assert f"not read: 3 images in {tmp_path / 'part'}, such as a.jpg" in log


def test_misnamed_casia_files_get_their_own_masks(miniatures, tmp_path):
    miniatures.fabricate("CASIAv1", tmp_path)
    pairs = dict(json.loads(prepare("CASIAv1", tmp_path).output.read_text()))
    ((image, mask),) = (pair for pair in pairs.items() if "0320" in pair[0])
    assert mask.endswith("Sp_D_NNN_A_cha0039_nat0019_0320_gt.png")
    assert f"{image}: paired with {mask} by its number 0320" in (tmp_path / "CASIAv1_masks" / "changes.txt").read_text()
    assert not any("Original Tp" in image for image in pairs)


@pytest.mark.parametrize("other", [name for name in NAMES if name != "compRAISE"])
def test_a_folder_with_masks_is_not_comp_raise(miniatures, tmp_path, other):
    miniatures.fabricate("compRAISE", tmp_path / "RAISE")
    assert prepare("compRAISE", tmp_path, tmp_path / "list.json").authentic == 2
    miniatures.fabricate(other, tmp_path / "other")
    with pytest.raises(DiffIMLError, match=f"{tmp_path} holds other/.*call their own folder compRAISE"):
        prepare("compRAISE", tmp_path, tmp_path / "list.json")
    assert prepare("compRAISE", tmp_path / "RAISE").authentic == 2


def test_numbered_images_of_another_folder_are_not_coverages(miniatures, tmp_path):
    authentic, *_ = miniatures.fabricate("COVERAGE", tmp_path)
    miniatures.photograph(tmp_path / "other" / "10017.jpg")
    miniatures.photograph(tmp_path / "other" / "1.jpg")
    done = prepare("COVERAGE", tmp_path)
    assert done.authentic == authentic and "/other/" not in done.output.read_text()


def test_a_part_of_tampered_coco(miniatures, tmp_path):
    miniatures.fabricate("tamperedCOCO", tmp_path / "tampCOCO")
    listed = [json.loads(prepare(f"tampCOCO_{part}", tmp_path).output.read_text()) for part in ("sp", "bcmc")]
    assert [[image.split("/")[-2] for image, _ in pairs] for pairs in listed] == [["sp_images"], ["bcmc_images"]]
    (tmp_path / "tampCOCO" / "sp_COCO_train_list.txt").unlink()
    with pytest.raises(DiffIMLError, match="holds tampCOCO_sp in no known layout"):
        prepare("tampCOCO_sp", tmp_path)
