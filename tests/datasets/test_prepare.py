import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from diffiml_plugin.data.faults import THRESHOLD
from diffiml_plugin.data.images import read_mask
from diffiml_plugin.data.lists import NEGATIVE
from diffiml_plugin.datasets import prepare as preparing
from diffiml_plugin.datasets.catalogue import CATALOGUE
from diffiml_plugin.datasets.check import check_datasets
from diffiml_plugin.datasets.prepare import prepare
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.folders import claimed
from diffiml_plugin.ledger import Ledger

NAMES = [entry.name for entry in CATALOGUE]


def contents(root):
    return {file: hashlib.sha256(file.read_bytes()).digest() for file in root.rglob("[!.]*") if file.is_file()}


def as_the_framework_reads(path):
    return np.asarray(Image.open(path).convert("RGB")).mean(2) > THRESHOLD


@pytest.mark.parametrize("name", NAMES)
def test_original_layouts(miniatures, tmp_path, name):
    root = tmp_path / "download"
    authentic, tampered, corrected, left_out = miniatures.fabricate(name, root)
    before = contents(root)
    done = prepare(name.lower(), root, tmp_path / "lists" / f"{name}.json")
    assert (done.authentic, done.tampered, done.corrected, done.left_out) == (authentic, tampered, corrected, left_out)
    assert contents(root) == before

    # The list is what `check` and the engine read; every mask has the shape that its original meant.
    records = json.loads(done.output.read_text())
    assert len(records) == len({image for image, _ in records}) == authentic + tampered
    for image, mask in records:
        assert image.startswith(str(root))
        if mask != NEGATIVE:
            found = as_the_framework_reads(mask)
            assert found.shape == (miniatures.HEIGHT, miniatures.WIDTH)
            assert (found != miniatures.TAMPERED).mean() < 0.04  # the resized ones differ at an edge
    (report,) = check_datasets(str(done.output))
    assert report.name == name and report.harmful == 0
    assert (report.authentic, report.tampered) == (authentic, tampered)

    # Each change and each file left out has its line.
    lines = done.log.read_text().splitlines()
    assert sum(line.startswith("left out") for line in lines) == left_out
    assert sum("binarised" in line for line in lines) == corrected
    assert all(str(root) in line for line in lines)


def test_links_in_a_circle_are_looked_into_once(tiny_dataset, tmp_path, monkeypatch):
    shutil.copytree(tiny_dataset, tmp_path / "root")
    for name, target in (("a", "."), ("b", "."), ("Tp/up", ".."), ("elsewhere", tmp_path / "other")):
        (tmp_path / "root" / name).symlink_to(target)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "up").symlink_to(tmp_path / "root")
    files, _ = preparing._files(tmp_path / "root", set(), None)
    assert list(files) == sorted(file for file in (tmp_path / "root").rglob("*") if not file.is_dir())
    monkeypatch.setattr(preparing, "_MOST_FOLDERS", 3)
    with pytest.raises(DiffIMLError, match="root holds more than 3 folders; do links in it lead to each other"):
        preparing._files(tmp_path / "root", set(), None)


def test_a_table_that_is_a_pipe_does_not_hang(miniatures, tmp_path):
    root = tmp_path / "NIST16"
    miniatures.fabricate("NIST16", root)
    (table,) = root.rglob("NC2016-manipulation-ref.csv")
    table.unlink()
    os.mkfifo(table)
    with pytest.raises(DiffIMLError, match="NC2016-manipulation-ref.csv is a pipe or a device; expected"):
        prepare("NIST16", root, tmp_path / "list.json")


def test_tampered_images_alone(miniatures, tmp_path):
    _, tampered, *_ = miniatures.fabricate("CASIAv2", tmp_path / "CASIAv2")
    everything = json.loads(prepare("CASIAv2", tmp_path).output.read_text())
    done = prepare("CASIAv2", tmp_path, tampered_only=True)
    assert done.output == tmp_path / "CASIAv2_tampered.json" and (done.authentic, done.tampered) == (0, tampered)
    listed = [image for image, _ in json.loads(done.output.read_text())]
    assert listed == [image for image, mask in everything if mask != NEGATIVE]

    miniatures.fabricate("compRAISE", tmp_path / "compRAISE")
    with pytest.raises(DiffIMLError, match="no tampered images of compRAISE; leave out --tampered_only"):
        prepare("compRAISE", tmp_path, tampered_only=True)


def test_a_list_made_before_is_not_taken_for_the_datasets(tiny_dataset):
    (tiny_dataset / "Gt").rename(tiny_dataset / "masks")
    pairs = json.loads((tiny_dataset / "list.json").read_text())
    (tiny_dataset / "list.json").write_text(json.dumps([[i, m.replace("Gt", "masks")] for i, m in pairs]))
    assert prepare("mine", tiny_dataset).authentic == 1
    assert prepare("mine", tiny_dataset, tampered_only=True).tampered == 3


@pytest.mark.parametrize("name", ["COVERAGE", "CASIAv1", "Columbia"])
def test_the_list_goes_into_the_folder_above_and_can_be_made_again(miniatures, tmp_path, name):
    miniatures.fabricate(name, tmp_path / name)
    first = prepare(name, tmp_path)
    assert first.output == tmp_path / f"{name}.json"
    assert prepare(name, tmp_path) == first
    assert prepare(name, tmp_path / name) == prepare(name, tmp_path / name)  # its own list and masks are no input
    (tmp_path / "mine.json").write_text("[]")
    with pytest.raises(DiffIMLError, match="mine.json was not made by this command"):
        prepare(name, tmp_path, tmp_path / "mine.json")


def test_a_second_folder_of_a_datasets_name_is_told(miniatures, tmp_path):
    for name in ("CASIAv1", "CASIA1"):
        miniatures.fabricate("CASIAv1", tmp_path / name)
    (tmp_path / "casia_v1").symlink_to("CASIA1")
    first, second = (prepare("CASIAv1", root) for root in (tmp_path, tmp_path / "CASIA1"))
    told = f"not read: {tmp_path / 'CASIAv1'}, because {tmp_path / 'CASIA1'} was, which carries the dataset's name too"
    assert [line for line in first.log.read_text().splitlines() if "which carries" in line] == [told]
    assert "which carries" not in second.log.read_text()


def test_a_folder_without_pairs_is_looked_into_once(miniatures, tmp_path, monkeypatch):
    miniatures.fabricate("CASIAv1", tmp_path / "other" / "download")
    (tmp_path / "CASIAv1").mkdir()
    looked_into, look = [], preparing._files
    monkeypatch.setattr(preparing, "_files", lambda place, *others: looked_into.append(place) or look(place, *others))
    prepare("CASIAv1", tmp_path)
    assert looked_into == [tmp_path / "CASIAv1", tmp_path]


@pytest.mark.parametrize("name", ["CASIAv2", "NIST16_1024"])
def test_the_copies_of_one_list_are_no_input_of_another(miniatures, tmp_path, name):
    miniatures.fabricate(name.partition("_")[0], tmp_path)
    first = prepare(name, tmp_path, tmp_path / "a.json")
    for other in ("b.json", "c.json"):
        again = prepare(name, tmp_path, tmp_path / other)
        assert again.left_out == first.left_out and "a_masks" not in again.log.read_text()


def test_broken_masks_are_left_out(miniatures, tmp_path):
    miniatures.fabricate("FantasticReality", tmp_path)
    miniatures.photograph(tmp_path / "dataset" / "ColorFakeImages" / "other.jpg")
    for content in (b"PK\x03\x04 no archive", b"text", b""):
        (tmp_path / "dataset" / "SegmentationFake" / "other.npz").write_bytes(content)
        done = prepare("FantasticReality", tmp_path)
        assert (done.tampered, done.left_out) == (1, 1)
        assert "other.npz cannot be read" in done.log.read_text()


def test_a_mask_of_other_proportions_is_not_stretched(miniatures, tmp_path):
    miniatures.fabricate("IMD2020", tmp_path)
    miniatures.photograph(tmp_path / "z14" / "a.jpg", (300, 100))
    for name, size in (
        ("a_mask.png", (200, 200)),
        ("00030_fake_mask.png", (2 * miniatures.WIDTH, 2 * miniatures.HEIGHT)),
    ):
        Image.fromarray(np.eye(size[1], size[0], dtype=np.uint8) * 255).save(tmp_path / "z14" / name)
    log = prepare("IMD2020", tmp_path).log.read_text()
    assert "a_mask.png has other proportions (200x200)" in log and "00030_fake_mask.png: binarised, resized from" in log


def test_a_mask_on_its_side_is_not_squeezed(miniatures, tmp_path):
    miniatures.fabricate("CASIAv2", tmp_path)
    assert "11230_gt.png lies on its side (32x48)" in prepare("CASIAv2", tmp_path).log.read_text()


@pytest.mark.parametrize(
    ("mask", "correct"),
    [
        (lambda grey: grey, False),
        (lambda grey: grey // 255, True),
        (lambda grey: (grey // 255).astype(np.uint16), True),
        (lambda grey: grey.astype(np.uint16), True),
        (lambda grey: np.dstack([grey * 0, grey]), True),
        (lambda grey: np.dstack([grey * 0 + 255, grey]), True),
        (lambda grey: np.dstack([grey // 2, grey * 0, grey * 0]), True),
    ],
)
def test_masks_of_the_frameworks_folder_are_corrected_where_it_would_misread_them(miniatures, tmp_path, mask, correct):
    for part in ("Tp", "Au"):
        miniatures.photograph(tmp_path / "NIST16" / part / "a.png")
    miniatures.save(tmp_path / "NIST16" / "Gt" / "a.png", mask(miniatures.GREY))
    done = prepare("NIST16", tmp_path)  # which has no authentic images
    ((_, used),) = json.loads(done.output.read_text())
    assert np.array_equal(as_the_framework_reads(used), miniatures.TAMPERED)
    assert done.corrected == correct == ("NIST16_masks" in used)


def test_masks_of_which_0_is_white_or_whose_levels_are_cut_away(miniatures, tmp_path):
    for name in ("dark_negative", "negative", "real", "colours"):
        miniatures.photograph(tmp_path / "set" / "Tp" / f"{name}.tif")
    masks = tmp_path / "set" / "Gt"
    masks.mkdir()
    for name, top in (("negative", 65535), ("dark_negative", 255)):
        levels = 65535 - np.where(miniatures.TAMPERED, top, 0).astype(np.uint16)
        Image.fromarray(levels).save(masks / f"{name}.tif", tiffinfo={262: 0})
    miniatures.save(masks / "real.tif", miniatures.TAMPERED.astype(np.float32) / 2)
    cv2.imwrite(str(masks / "colours.tif"), np.dstack([miniatures.GREY] * 3).astype(np.uint16))  # 255 of 65535
    done = prepare("set", tmp_path / "set")
    used = {Path(image).stem: mask for image, mask in json.loads(done.output.read_text())}
    assert list(used) == ["dark_negative", "negative"]
    for mask in used.values():
        assert np.array_equal(read_mask(mask) > 0, miniatures.TAMPERED)
    log = done.log.read_text()
    assert f"({masks}/real.tif holds floating-point pixels; convert it" in log
    assert f"({masks}/colours.tif holds no level above 255 of 65535; scale" in log


def test_lists_of_the_framework_and_of_forensichub(miniatures, tmp_path):
    miniatures.photograph(tmp_path / "a.png")
    miniatures.photograph(tmp_path / "b.png")
    miniatures.save(tmp_path / "m.png", miniatures.GREY)
    pairs = [["a.png", "m.png"], ["b.png", NEGATIVE]]
    (tmp_path / "one").mkdir()
    for number, records in enumerate((pairs, [{"path": i, "mask": m, "label": m != NEGATIVE} for i, m in pairs])):
        (tmp_path / "list.json").write_text(json.dumps(records))
        done = prepare("AutoSplice", tmp_path, tmp_path / "one" / f"{number}.json")
        expected = [[str(tmp_path / "a.png"), str(tmp_path / "m.png")], [str(tmp_path / "b.png"), NEGATIVE]]
        assert json.loads(done.output.read_text()) == expected
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(DiffIMLError, match="2 JSON files"):
        prepare("AutoSplice", tmp_path, tmp_path / "one" / "list.json")


@pytest.mark.parametrize("name", NAMES)
def test_beside_all_the_others_under_another_name(miniatures, tmp_path, name):
    expected = [miniatures.fabricate(other, tmp_path / other) for other in NAMES][NAMES.index(name)]
    (tmp_path / name).rename(tmp_path / "download")
    if name == "compRAISE":
        with pytest.raises(DiffIMLError, match="holds .*, but all images of compRAISE are authentic; call their own"):
            prepare(name, tmp_path)
        return
    done = prepare(name, tmp_path)
    assert (done.authentic, done.tampered, done.corrected, done.left_out) == expected
    assert all(str(tmp_path / "download") in image for image, _ in json.loads(done.output.read_text()))


def test_empty_masks_are_kept_and_told(miniatures, tmp_path):
    for name, mask in (("a", miniatures.GREY), ("b", miniatures.GREY * 0), ("c", miniatures.GREY[1:] * 0)):
        miniatures.photograph(tmp_path / "Tp" / f"{name}.png")
        miniatures.save(tmp_path / "Gt" / f"{name}.png", mask)
    done = prepare("mine", tmp_path)
    assert (done.tampered, done.corrected, done.empty, done.left_out) == (3, 1, 2, 0)
    kept, resized = done.log.read_text().splitlines()
    assert "b.png is empty, so its image counts as authentic" in kept and "resized" in resized and "empty" in resized


@pytest.fixture
def listed(miniatures, tmp_path):
    """Makes NAME/list.json of images in ../images, whose masks need correction; returns the folder."""

    def make(name, pairs=(("a.png", "a.png.png"),)):
        for image, mask in pairs:
            miniatures.photograph(tmp_path / "images" / image)
            miniatures.save(tmp_path / "images" / mask, miniatures.GREY // 255)
        (tmp_path / name).mkdir()
        records = [[f"../images/{image}", f"../images/{mask}"] for image, mask in pairs]
        (tmp_path / name / "list.json").write_text(json.dumps(records))
        return tmp_path / name

    return make


def test_no_original_is_ever_overwritten(listed, tmp_path):
    root = listed("set")
    before = contents(tmp_path)
    done = prepare("set", root)
    assert done.corrected == 1 and before.items() <= contents(tmp_path).items()
    ((_, mask),) = json.loads(done.output.read_text())
    assert mask.startswith(str(root / "set_masks")) and ".." not in mask


def test_no_two_pairs_share_a_corrected_mask(listed, tmp_path, miniatures):
    first = listed("one", [("a.png", "a_mask.png"), ("a.jpg", "b_mask.png")])
    second = listed("two")
    made = []
    for name, root in (("one", first), ("two", second)):
        made += [mask for _, mask in json.loads(prepare(name, root, tmp_path / "lists" / name).output.read_text())]
    assert len(set(made)) == 3


def test_a_folder_of_the_users_is_not_taken_for_that_of_corrected_masks(listed, miniatures):
    root = listed("set")
    miniatures.save(root / "set_masks" / "mine.png", miniatures.GREY)
    before = contents(root)
    with pytest.raises(DiffIMLError, match="set_masks/mine.png was not made by this command"):
        prepare("set", root)
    (root / "list.json").rename(root / "set.json")
    with pytest.raises(DiffIMLError, match="set.json was not made by this command"):
        prepare("set", root)
    assert set(contents(root).values()) == set(before.values())


@pytest.mark.parametrize("name", ["set_masks", "set_images"])
def test_a_link_in_a_download_leads_nowhere(listed, tmp_path, name):
    root = listed("set")
    (tmp_path / "elsewhere").mkdir()
    (root / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DiffIMLError, match=f"{name}/changes.txt lies outside of"):
        prepare("set", root)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_name_is_no_path(listed):
    for name in ("../set", "/tmp/set"):
        with pytest.raises(DiffIMLError, match="is no name of a dataset but a path"):
            prepare(name, listed(f"of{len(name)}"))


def test_a_pair_listed_twice_is_listed_once_and_told(listed):
    root = listed("set", [("a.png", "a_mask.png")] * 2)
    done = prepare("set", root)
    assert (done.tampered, done.left_out) == (1, 1) and "images/a.png: listed before" in done.log.read_text()


def test_names_of_any_bytes_and_any_length(listed):
    names = [os.fsdecode(b"b\xff"), "n" * 240]
    done = prepare("set", listed("set", [(f"{name}.png", f"{name[:-1]}m.png") for name in names]))
    assert (done.corrected, done.left_out) == (2, 0)
    (report,) = check_datasets(str(done.output))
    assert report.faults == []


def test_a_download_whose_own_list_is_damaged(miniatures, tmp_path):
    miniatures.fabricate("NIST16", tmp_path)
    (table,) = tmp_path.rglob("*.csv")
    for content in (b"a|b\n1|2\n", b"\xff\xfe"):
        table.write_bytes(content)
        with pytest.raises(DiffIMLError, match="a list of NIST16 in .* is not as its authors made it"):
            prepare("NIST16", tmp_path)


def test_what_cannot_be_prepared_is_named(miniatures, tmp_path):
    with pytest.raises(DiffIMLError, match="gone is no folder"):
        prepare("COVERAGE", tmp_path / "gone")
    with pytest.raises(DiffIMLError, match="in no known layout; expected image/N.tif"):
        prepare("COVERAGE", tmp_path)
    with pytest.raises(DiffIMLError, match="did you mean 'COVERAGE'"):
        prepare("COVRAGE", tmp_path)
    miniatures.photograph(tmp_path / "Tp" / "a.png")
    miniatures.save(tmp_path / "Gt" / "a.png", np.full_like(miniatures.GREY, 90))
    with pytest.raises(DiffIMLError, match="no pair of mine in .*it is dark or coloured and has no black"):
        prepare("mine", tmp_path)


def test_real_data(bsds, tmp_path):
    done = prepare("bsds", bsds / "val", tmp_path / "bsds.json")
    assert (done.authentic, done.tampered, done.corrected, done.left_out) == (20, 60, 0, 0)
    (report,) = check_datasets(str(done.output))
    assert report.faults == []


def test_a_pair_whose_region_vanishes_in_shrinking_is_left_out(miniatures, tmp_path):
    miniatures.fabricate("IMD2020", tmp_path)
    (tmp_path / "thin").mkdir()
    mask = np.zeros((3000, 4000), np.uint8)
    mask[1001:1003] = 255
    for name in ("thin_orig.jpg", "a.jpg"):
        Image.new("RGB", (4000, 3000)).save(tmp_path / "thin" / name)
    Image.fromarray(mask).save(tmp_path / "thin" / "a_mask.png")
    done = prepare("IMD_20_1024", tmp_path)
    told = f"left out: {tmp_path / 'thin' / 'a.jpg'}: no pixel of its tampered region is left at 1024 pixels"
    assert told in done.log.read_text() and not any(
        "a.jpg" in image for image, _ in json.loads(done.output.read_text())
    )


def test_a_variant_is_shrunk_to_a_longer_side_of_1024(miniatures, tmp_path):
    root = tmp_path / "NIST16"
    miniatures.fabricate("NIST16", root)
    large = np.repeat(np.repeat(255 - miniatures.GREY, 64, 0), 64, 1)  # 3072x2048
    miniatures.photograph(root / "probe" / "NC2016_0001.jpg", (3072, 2048))
    miniatures.save(root / "reference" / "manipulation" / "mask" / "NC2016_9000.png", large)
    before = contents(root)
    done = prepare("nist16_1024", tmp_path)
    assert done.output == tmp_path / "NIST16_1024.json" and (done.authentic, done.tampered) == (0, 2)
    assert contents(root) == before
    (image, mask), (small_image, _) = json.loads(done.output.read_text())
    assert small_image == str(root / "probe" / "NC2016_0002.jpg")
    assert image.startswith(str(tmp_path / "NIST16_1024_images")) and image.endswith(".png")
    found = as_the_framework_reads(mask)
    assert found.shape == (683, 1024) and Image.open(image).size == (1024, 683)
    assert found.mean() == pytest.approx(miniatures.TAMPERED.mean(), abs=0.01)
    assert f"NC2016_0001.jpg: shrunk to 1024 pixels -> {image}" in done.log.read_text()
    assert prepare("NIST16_1024", tmp_path) == done


@pytest.fixture
def many(miniatures, tmp_path):
    """NIST16 in its variant, whose images are shrunk and whose masks are inverted."""
    miniatures.fabricate("NIST16", tmp_path / "NIST16")
    for image in (tmp_path / "NIST16" / "probe").iterdir():
        miniatures.photograph(image, (1100, 733))  # as the masks
    return tmp_path


def test_an_interrupted_run_loses_nothing_and_writes_nothing_twice(many, monkeypatch, cut_off):
    output = many / "made" / "list.json"
    prepare("NIST16_1024", many, output)
    expected = contents(output.parent)
    shutil.rmtree(output.parent)
    settle, settled = preparing._settle, []

    def interrupted(*pair):
        if pair[0].endswith("2.jpg"):
            raise KeyboardInterrupt
        settled.append(settle(*pair))
        return settled[-1]

    monkeypatch.setattr(preparing, "_settle", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare("NIST16_1024", many, output)
    monkeypatch.setattr(preparing, "_settle", lambda *pair: settled.append(settle(*pair)) or settled[-1])
    cut_off(output.with_name("list_masks") / "unfinished.jsonl", '{"key": "cut o')
    prepare("NIST16_1024", many, output)
    assert len({pair.image for pair in settled}) == len(settled) == 2  # each once
    assert contents(output.parent) == expected


@pytest.mark.parametrize("change", ["the image", "a copy", "another folder"])
def test_what_is_no_longer_so_is_made_again(many, monkeypatch, change):
    output = many / "list.json"
    monkeypatch.setattr(preparing, "discard", lambda *_: None)  # as if it were cut at the very end
    prepare("NIST16_1024", many, output)
    (image, mask), _ = json.loads(output.read_text())
    unfinished = many / "list_masks" / "unfinished.jsonl"
    if change == "the image":
        os.utime(many / "NIST16" / "probe" / "NC2016_0001.jpg", (0, 0))
    elif change == "a copy":
        os.remove(mask)
    else:
        unfinished.write_text(unfinished.read_text().replace(mask, str(many / "NIST16" / "mine.png")))
        Ledger(unfinished.parent).enter(unfinished, unfinished)
    os.utime(image, (0, 0))
    prepare("NIST16_1024", many, output)
    assert os.stat(image).st_mtime > 0 and os.path.exists(mask)
    assert json.loads(output.read_text())[0] == [image, mask]


def test_two_runs_at_once_do_not_share_a_list(many):
    with claimed(many / "list_masks"):
        code = "from diffiml_plugin.cli.main import main; raise SystemExit(main())"
        words = ["datasets", "prepare", "NIST16", "--root", str(many), "--output", str(many / "list.json")]
        found = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert found.returncode == 2 and f"list_masks is in use by process {os.getpid()} on" in found.stderr
    assert not (many / "list.json").exists()
