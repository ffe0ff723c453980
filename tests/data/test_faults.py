import ast
import importlib
import json
import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffiml_plugin.data import examined, faults
from diffiml_plugin.data.examined import check_lists
from diffiml_plugin.data.faults import examine
from diffiml_plugin.data.formats import readable_formats
from diffiml_plugin.data.images import read_image
from diffiml_plugin.data.lists import NEGATIVE, ImageList, read_list
from diffiml_plugin.datasets.layouts import read_levels
from diffiml_plugin.errors import DiffIMLError

SQUARE = np.zeros((32, 48), np.uint8)
SQUARE[8:24, 8:24] = 255


def check_pair(image, mask):
    size, faults = examine(image, mask)
    return faults[0].text if faults else size


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)).save(path)
    return str(path)


@pytest.fixture
def store(tmp_path):
    def make(array, name="mask.png", **options):
        Image.fromarray(array, **options).save(tmp_path / name)
        return str(tmp_path / name)

    return make


def test_regions_that_are_not_white_are_told_of(image, store, caplog):
    mask = np.repeat(SQUARE[..., None], 3, 2)
    mask[26:30, 30:40] = 255, 0, 0  # 40 pixels beside 256; the framework's mean of the channels is below its threshold
    path = store(mask)
    assert check_lists([ImageList("x", (image,), (path,))]).longest == 48
    assert "grey or coloured regions apart from the white ones, 16% as large" in caplog.text


def test_good_masks_pass(image, store):
    ramp = np.repeat(np.linspace(0, 255, 5, dtype=np.uint8)[1:-1], 8)  # a soft border
    soft = SQUARE.copy()
    soft[8, 8:32] = ramp
    assert check_pair(image, NEGATIVE) == (48, 32)
    assert check_pair(image, store(SQUARE)) == (48, 32)
    assert check_pair(image, store(SQUARE, "mask.jpg")) == (48, 32)
    assert check_pair(image, store(soft)) == (48, 32)
    assert check_pair(image, store(np.repeat(SQUARE[..., None], 3, 2))) == (48, 32)
    assert check_pair(image, store(np.full_like(SQUARE, 255))) == (48, 32)  # wholly generated
    speck = SQUARE.copy()
    speck[28:31, 40:43] = 100
    assert check_pair(image, store(speck)) == (48, 32)
    black = store(np.zeros_like(SQUARE))  # of an authentic image
    assert check_lists([ImageList("x", (image,), (black,))]).longest == 48


@pytest.mark.parametrize(
    ("mask", "fault"),
    [
        (SQUARE // 255, "mask.png is dark"),
        (SQUARE // 2, "mask.png is dark"),
        ((SQUARE // 255).astype(np.uint16), "mask.png is dark .highest level 1 of 65535"),
        (SQUARE.astype(np.uint16), "mask.png is dark .highest level 255 of 65535"),  # 8 bits' white is black in 16
        (np.tile(np.arange(0, 240, 5, dtype=np.uint8), (32, 1)), "mask.png is not black and white"),
        (SQUARE[:, ::-1][:16], "mask.png is 48x16 pixels, its image .*image.jpg 48x32"),
        (np.stack([SQUARE * 0, SQUARE], 2), "mask.png has its shape in the alpha channel"),
        (np.stack([SQUARE * 0 + 255, SQUARE], 2), "mask.png has its shape in the alpha channel"),
        (SQUARE * 0, "mask.png is empty"),
        (255 - SQUARE, "mask.png looks inverted"),
        (SQUARE.astype(np.uint16) * 257, "mask.png has 16 bits"),
    ],
)
def test_masks_that_would_be_silently_wrong(image, store, mask, fault):
    assert re.search(fault, check_pair(image, store(mask)))


def test_of_several_pages_it_is_told_that_the_first_is_read(image, tmp_path):
    page = Image.fromarray(SQUARE)
    page.save(tmp_path / "mask.tif", save_all=True, append_images=[page])
    (fault,) = examine(image, str(tmp_path / "mask.tif"))[1]
    assert (fault.kind, fault.harmful) == ("several", False) and "mask.tif holds several pictures" in fault.text


@pytest.mark.parametrize("colour", [(100, 100, 100), (255, 0, 0), (0, 0, 255), (40, 40, 40)])
@pytest.mark.parametrize("quality", [70, 95])
def test_of_a_dark_mask_in_a_jpeg_its_traces_of_compression_are_not_tampered(tmp_path, colour, quality):
    mask = np.zeros((96, 128, 3), np.uint8)
    mask[21:67, 30:91] = colour
    Image.fromarray(mask).save(tmp_path / "mask.jpg", quality=quality, subsampling=0)
    tampered = read_levels(str(tmp_path / "mask.jpg"))
    assert (tampered != (mask.max(2) > 0)).mean() < 0.002
    classes = np.arange(96 * 128, dtype=np.uint8).reshape(96, 128) % 21  # each a region of its own
    Image.fromarray(classes).save(tmp_path / "mask.png")
    assert np.array_equal(read_levels(str(tmp_path / "mask.png")), classes > 0)
    Image.fromarray(classes % 3).save(tmp_path / "mask.webp", lossless=True)
    assert np.array_equal(read_levels(str(tmp_path / "mask.webp")), classes % 3 > 0)


def test_a_mask_of_itself_is_a_fault(image, tmp_path):
    Image.fromarray(SQUARE).save(tmp_path / "mask.png")
    (tmp_path / "link.png").symlink_to("mask.png")
    assert "is the mask of itself" in check_pair(str(tmp_path / "mask.png"), str(tmp_path / "link.png"))
    assert "is the mask of itself" in check_pair(image, image)


@pytest.mark.parametrize("suffix", [".png", ".gif"])
@pytest.mark.parametrize("colour", [0, 255])
def test_a_palettes_transparent_colour_is_a_shape_in_alpha(image, tmp_path, suffix, colour):
    mask = Image.fromarray(SQUARE // 255).convert("P")
    mask.putpalette([colour] * 768)
    mask.save(tmp_path / f"mask{suffix}", transparency=0)
    assert "has its shape in the alpha channel" in check_pair(image, str(tmp_path / f"mask{suffix}"))
    assert np.array_equal(read_levels(str(tmp_path / f"mask{suffix}")), SQUARE > 0)


@pytest.mark.parametrize(
    ("mask", "mended"),
    [
        (SQUARE // 255, True),
        ((SQUARE // 255).astype(np.uint16), True),
        (SQUARE // 255 + 1, False),  # no black, so which part is tampered?
        (np.stack([SQUARE * 0, SQUARE], 2), True),
        (np.tile(np.arange(0, 240, 5, dtype=np.uint8), (32, 1)), True),
        (SQUARE[:16], True),
        (SQUARE.T, False),  # on its side
        (SQUARE * 0, False),
        (255 - SQUARE, False),
    ],
)
def test_the_tool_is_named_where_it_mends_the_mask(image, store, mask, mended):
    assert ("`benco datasets prepare NAME --root DIR`" in check_pair(image, store(mask))) == mended


@pytest.mark.parametrize("pixels", [SQUARE.astype(np.float32), SQUARE.astype(np.int32) << 16, -SQUARE.astype(np.int32)])
def test_pixels_that_cannot_be_read_stop_a_run_before_it_starts(image, store, pixels):
    path = store(pixels, "deep.tif")
    for pair in ((path, NEGATIVE), (image, path)):
        with pytest.raises(DiffIMLError) as refused:
            check_lists([ImageList("x", *([file] for file in pair))])
        with pytest.raises(DiffIMLError, match=f"^{re.escape(str(refused.value))}$"):
            read_image(path)


def test_sixteen_bits_in_thirty_two_pass(store):
    path = store(SQUARE.astype(np.int32) * 257, "deep.tif")
    assert check_pair(path, NEGATIVE) == (48, 32) and read_image(path).max() == 255


@pytest.mark.parametrize("kind", [name for name in readable_formats() if name not in ("MPO", "DIB")])
def test_an_image_of_each_format_passes(tmp_path, kind):
    file = tmp_path / "photo"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 72, 3), dtype=np.uint8)).save(file, kind)
    assert examine(str(file), NEGATIVE) == ((72, 48), [])


def test_an_image_that_pillow_would_turn_keeps_its_mask(tmp_path, image):
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(image) as photo:
        photo.save(tmp_path / "turned.tif", exif=exif)
        Image.new("L", photo.size, 255).save(tmp_path / "mask.png")
        _, found = examine(str(tmp_path / "turned.tif"), str(tmp_path / "mask.png"))
    assert [fault.kind for fault in found if fault.kind == "size"] == []


def test_a_mask_beside_an_image_that_viewers_turn_is_a_warning(tmp_path, image, store, caplog):
    exif = Image.Exif()
    exif[0x0112] = 3
    with Image.open(image) as photo:
        photo.save(tmp_path / "turned.jpg", exif=exif)
    turned = str(tmp_path / "turned.jpg")
    for _ in range(2):  # the second time from the cache
        check_lists([ImageList("x", (turned, image), (store(SQUARE), NEGATIVE))])
    assert [message.startswith(f"{turned} is turned or mirrored by viewers") for message in caplog.messages] == [
        True
    ] * 2


def test_undecodable_files_are_named(image, store, tmp_path):
    content = open(image, "rb").read()
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(content[: len(content) // 2])
    empty = tmp_path / "empty.png"
    empty.touch()
    assert "cut.jpg cannot be decoded" in check_pair(str(cut), NEGATIVE)
    assert "empty.png cannot be decoded" in check_pair(image, str(empty))
    assert "gone.png does not exist" in check_pair(image, str(tmp_path / "gone.png"))


def test_one_error_for_all_faults(image, store):
    dark = store(SQUARE // 255)
    with pytest.raises(DiffIMLError, match=r"mask.png is dark.*\(1 more of 3 pairs are faulty\)"):
        check_lists([ImageList("x", (image, image, image), (dark, NEGATIVE, dark))])


def test_what_may_be_wrong_is_a_warning(image, store, caplog):
    empty, inverted = store(SQUARE * 0), store(255 - SQUARE, "other.png")
    assert check_lists([ImageList("x", (image,) * 4, (empty, inverted, NEGATIVE, empty))]).longest == 48
    warnings = caplog.messages
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "mask.png is empty" in warnings[0] and warnings[0].endswith("(1 more are empty)")
    assert "other.png looks inverted" in warnings[1]


def test_files_that_stay_as_they_were_are_not_decoded_again(image, store, caplog, monkeypatch):
    listed = ImageList("x", (image, image), (store(SQUARE * 0), NEGATIVE))
    longest, warnings = check_lists([listed]).longest, caplog.messages
    caplog.clear()
    with monkeypatch.context() as patched:
        patched.setattr(examined, "examine", lambda *pair: pytest.fail(f"examined {pair}"))
        assert check_lists([listed]).longest == longest and caplog.messages == warnings != []
    caplog.clear()
    store(SQUARE)
    assert check_lists([listed]).longest == longest and not caplog.messages


def test_a_file_of_the_same_size_and_date_in_its_place_is_looked_at(image, store):
    mask = store(SQUARE, "mask.bmp")
    os.utime(mask, ns=(1, 1))
    check_lists([ImageList("x", (image,), (mask,))])
    grey = store(np.tile(np.arange(48, dtype=np.uint8), (32, 1)), "grey.bmp")
    os.utime(grey, ns=(1, 1))
    os.replace(grey, mask)
    with pytest.raises(DiffIMLError, match="mask.bmp is dark"):
        check_lists([ImageList("x", (image,), (mask,))])


def test_the_digest_of_a_list_is_of_its_sound_files_bytes_alone(image, store, tmp_path, monkeypatch):
    mask, damaged = store(SQUARE), str(tmp_path / "damaged.png")

    def digest(*pairs):
        return check_lists([ImageList("x", *zip(*pairs, strict=True))], keep_going=True).lists[0].digest

    expected = digest((image, mask), (image, NEGATIVE))
    with monkeypatch.context() as patched:
        patched.setattr(examined, "content_digest", lambda path: pytest.fail(f"read {path}"))
        assert digest((image, mask), (image, NEGATIVE)) == expected
    elsewhere = str(shutil.copy(mask, tmp_path / "elsewhere.png"))
    assert digest((image, elsewhere), (image, NEGATIVE)) == expected
    for content in (b"no image", b"nor is this"):
        Path(damaged).write_bytes(content)
        assert digest((image, mask), (damaged, NEGATIVE), (image, NEGATIVE)) == expected
    assert digest((image, NEGATIVE), (image, mask)) != expected
    store(np.roll(SQUARE, 1, 0))
    assert digest((image, mask), (image, NEGATIVE)) != expected


@pytest.mark.parametrize("changed", ["RULES", "PIL", *range(len(examined.DECIDING))])
def test_other_rules_look_again(changed, image, tmp_path, monkeypatch):
    listed, seen = ImageList("x", (image,), (NEGATIVE,)), []
    check_lists([listed])
    monkeypatch.setattr(examined, "examine", lambda *pair: seen.append(pair) or examine(*pair))
    check_lists([listed])
    assert not seen
    if changed == "RULES":
        monkeypatch.setattr(examined, "RULES", examined.RULES + 1)
    elif changed == "PIL":
        monkeypatch.setattr("PIL.__version__", "0.0")
    else:
        modules = list(examined.DECIDING)
        other = tmp_path / "module.py"
        other.write_text(Path(modules[changed]).read_text() + "# another rule\n")
        monkeypatch.setattr(examined, "DECIDING", (*modules[:changed], str(other), *modules[changed + 1 :]))
    check_lists([listed])
    assert seen == [(image, NEGATIVE)]


def test_every_module_that_decides_is_in_the_rules():
    decides, found = {examined.__name__}, set()
    while new := decides - found:
        found |= new
        for module in new:
            imports = ast.walk(ast.parse(Path(importlib.import_module(module).__file__).read_text()))
            names = {node.module for node in imports if isinstance(node, ast.ImportFrom)}
            decides |= {name for name in names if name.startswith("diffiml_plugin.data.")}
    assert {importlib.import_module(module).__file__ for module in decides} == set(examined.DECIDING)


def test_a_fault_that_stops_a_run_is_not_remembered(image, monkeypatch):
    listed = ImageList("x", (image,), (NEGATIVE,))
    with monkeypatch.context() as patched:
        patched.setattr(faults, "_decode", lambda path: (_ for _ in ()).throw(PermissionError("for a moment")))
        with pytest.raises(DiffIMLError, match="for a moment"):
            check_lists([listed])
    assert check_lists([listed]).longest == 48


def test_a_damaged_cache_is_passed_over(image, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    listed = ImageList("x", (image,), (NEGATIVE,))
    check_lists([listed])
    (file,) = (tmp_path / "cache").rglob("*.json")
    kept = json.loads(file.read_text())
    odd = [{**kept, "longest": "48"}, {**kept, "digest": 3}, {**kept, "faults": [{"number": 0, "kind": "dark"}]}]
    for content in ("{", "[]", "{}", *map(json.dumps, odd)):
        file.write_text(content)
        assert check_lists([listed]).longest == 48


def test_a_cache_that_cannot_be_written_changes_nothing(image, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert check_lists([ImageList("x", (image,), (NEGATIVE,))]).longest == 48


@pytest.mark.parametrize(("most", "at_once"), [(2 * SQUARE.size, 2), (SQUARE.size, 1), (1, 1)])
def test_threads_hold_no_more_pixels_than_the_largest_image(image, tmp_path, monkeypatch, most, at_once):
    copies = tuple(str(shutil.copy(image, tmp_path / f"{number}.jpg")) for number in range(40))
    inside: list[str] = []
    most_inside = []

    def examine(path, _):
        inside.append(path)
        most_inside.append(len(inside))
        time.sleep(0.005)
        inside.remove(path)
        return (48, 32), []

    monkeypatch.setattr(examined, "examine", examine)
    monkeypatch.setattr(examined, "MOST_PIXELS", most)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert check_lists([ImageList("x", copies, len(copies) * (NEGATIVE,))]).longest == 48
    assert len(most_inside) == len(copies) and max(most_inside) <= at_once


def test_real_data_passes(bsds):
    assert check_lists([read_list(bsds / "val" / "list.json")]).longest == 481


@pytest.mark.parametrize("block", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\x08\0\0\0\xff\0"])
def test_broken_exif_is_told_but_harmless(tmp_path, block):
    path = str(tmp_path / "image.jpg")
    Image.new("RGB", (48, 32)).save(path, exif=block)
    (_, faults), whole = examine(path, NEGATIVE), Image.Exif()
    assert [(fault.kind, fault.harmful) for fault in faults] == [("EXIF", False)]
    whole[0x0112] = 6
    Image.new("RGB", (48, 32)).save(path, exif=whole)
    assert examine(path, NEGATIVE) == ((48, 32), [])


def test_what_is_larger_than_an_image_may_be_is_not_read_for_a_digest(tmp_path):
    with open(tmp_path / "sparse.png", "wb") as file:
        file.truncate(2**40)  # it takes no place on the disk
    assert examined.content_digest(tmp_path / "sparse.png") is None


def test_a_title_commands_no_terminal(monkeypatch):
    titles = []
    monkeypatch.setattr(examined, "tqdm", lambda items, title, *_, **options: titles.append(title) or items)
    assert list(examined.in_parallel(len, ["ab"], "\x1b[31mRED\a")) == [2] and titles == [r"\x1b[31mRED\x07"]
