import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from diffiml_plugin.codec.sources import read_sources
from diffiml_plugin.data.masks import find_masks, read_label_map, read_mask
from diffiml_plugin.errors import DiffIMLError


def store(path, levels):
    Image.fromarray(levels).save(path)
    return path


@pytest.mark.parametrize("high", [1, 38, 255])
def test_masks_of_two_levels_are_read_whatever_the_high_one(tmp_path, high):
    shape = np.eye(8, dtype=np.uint8)
    assert np.array_equal(read_mask(store(tmp_path / "a.png", shape * np.uint8(high))), shape)
    assert np.array_equal(read_mask(store(tmp_path / "b.png", np.dstack([shape * np.uint8(high)] * 3))), shape)


def test_full_and_empty_masks(tmp_path):
    for value in (0, 255):
        assert (read_mask(store(tmp_path / "a.png", np.full((8, 8), value, np.uint8))) == value // 255).all()


def test_grey_masks_are_refused_or_cut_with_a_warning_that_names_the_file(tmp_path, caplog):
    path = store(tmp_path / "soft.png", np.array([[0, 100, 130, 255]], np.uint8))
    with pytest.raises(DiffIMLError, match="soft.png is not binary: 4 levels"):
        read_mask(path)
    assert read_mask(path, binarise=True).tolist() == [[0, 0, 1, 1]]
    assert "soft.png" in caplog.text


def test_coloured_and_broken_files_are_refused_and_colours_cut_at_their_mean(tmp_path, caplog):
    colour = np.zeros((1, 3, 3), np.uint8)
    colour[0, 1:, 0], colour[0, 2, 1] = 255, 250  # black, red, orange
    broken, coloured = tmp_path / "broken.png", store(tmp_path / "red.png", colour)
    broken.write_bytes(b"no image")
    for path in (coloured, broken):
        with pytest.raises(DiffIMLError, match=path.name):
            read_mask(path)
    assert read_mask(coloured, binarise=True).tolist() == [[0, 0, 1]]
    assert "red.png is not binary: coloured" in caplog.text
    with pytest.raises(DiffIMLError, match="red.png is coloured"):
        read_label_map(coloured)


def test_a_palette_is_looked_up_for_masks_and_not_for_label_maps(tmp_path):
    indices = np.array([[0, 1, 1]], np.uint8)
    image = Image.fromarray(indices)
    image.putpalette([255, 255, 255, 0, 0, 0])  # white comes first
    image.save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png").tolist() == [[1, 0, 0]]
    assert read_label_map(tmp_path / "a.png").tolist() == [[0, 1, 1]]


def test_alpha_is_not_read(tmp_path):
    shape = np.eye(8, dtype=np.uint8) * 255
    for name, channels in (("la", [shape, shape // 2]), ("rgba", [shape] * 3 + [shape // 2])):
        assert np.array_equal(read_mask(store(tmp_path / f"{name}.png", np.dstack(channels))), shape // 255)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_a_shape_in_alpha_alone_is_refused(tmp_path, mode):
    """Of white on transparent nothing is black."""
    shape, path = np.eye(8, dtype=np.uint8) * 255, tmp_path / "a.png"
    if mode == "P":
        image = Image.fromarray(shape // 255).convert("P")
        image.putpalette([255] * 6)
        image.save(path, transparency=0)
    else:
        store(path, np.dstack([np.full_like(shape, 255)] * (len(mode) - 1) + [shape]))
    for binarise in (False, True):
        with pytest.raises(DiffIMLError, match="a.png has its shape in the alpha channel, which is not read"):
            read_mask(path, binarise)


def test_masks_of_any_mode_are_cut_at_half_of_their_light(tmp_path, caplog):
    soft = np.array([[0, 100, 130, 255]], np.uint8)
    cv2.imwrite(str(tmp_path / "deep.pgm"), soft.astype(np.uint16) * 257)  # which Pillow learnt late
    for mode in ("CMYK", "LAB"):
        Image.fromarray(np.dstack([soft] * 3)).convert(mode).save(tmp_path / f"{mode}.tif")
    cv2.imwrite(str(tmp_path / "full.pgm"), np.full((2, 2), 65535, np.uint16))
    for name in ("deep.pgm", "CMYK.tif", "LAB.tif"):
        with pytest.raises(DiffIMLError, match=f"{name} is not binary: .*, or cut it at"):
            read_mask(tmp_path / name)
        assert read_mask(tmp_path / name, binarise=True).tolist() == [[0, 0, 1, 1]]
    assert "deep.pgm is not binary: 4 levels from 0 to 65535; cut at 32767" in caplog.text
    assert read_mask(tmp_path / "full.pgm").all()


def test_label_maps_keep_their_integers(tmp_path):
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(read_label_map(store(tmp_path / "a.png", labels)), labels)


def test_sources_are_folders_lists_and_drawn_masks(tmp_path):
    (tmp_path / "Gt").mkdir()
    for index in range(20):
        store(tmp_path / "Gt" / f"{index:02d}.png", np.eye(8, dtype=np.uint8) * 255)
    pairs = [[f"Tp/{index:02d}.png", f"Gt/{index:02d}.png"] for index in range(5)] + [["Au/0.png", "Negative"]]
    (tmp_path / "list.json").write_text(json.dumps(pairs))
    assert len(find_masks(tmp_path / "list.json")) == 5
    mixture, held_out, described = read_sources([str(tmp_path / "Gt"), "synthetic"])
    assert (len(mixture.masks), len(held_out), described) == (18, 2, "18 masks from files, synthetic masks")
    mixture, held_out, _ = read_sources([str(tmp_path / "Gt")], val_masks=str(tmp_path / "list.json"))
    assert (len(mixture.masks), len(held_out), mixture.shares[0]) == (15, 5, 0)  # not those validated on
    with pytest.raises(DiffIMLError, match="absent holds no mask"):
        read_sources([str(tmp_path / "absent")])


def test_masks_that_images_or_sources_share_are_read_once(tmp_path, monkeypatch):
    (tmp_path / "Gt").mkdir()
    monkeypatch.chdir(tmp_path)
    for number in range(12):
        store(tmp_path / "Gt" / f"{number:02}.png", np.eye(8, k=number - 6, dtype=np.uint8) * 255)
    listed = [[f"{image}.jpg", f"Gt/{image % 12:02}.png"] for image in range(24)]
    (tmp_path / "list.json").write_text(json.dumps(listed))
    Path("linked").symlink_to("Gt")
    Path("hard").mkdir()
    Path("hard", "0.png").hardlink_to("Gt/00.png")
    assert len(find_masks(".")) == 12
    mixture, held_out, described = read_sources([str(tmp_path / "list.json"), "Gt", "linked", "hard"])
    assert (len(mixture.masks), len(held_out)) == (10, 2) and described.startswith("10 masks from files")
    assert not {mask.tobytes() for mask in mixture.masks} & {mask.tobytes() for mask in held_out}


def test_one_warning_counts_the_cut_masks_of_a_source(tmp_path, caplog):
    for index in range(20):
        soft = index >= 15
        store(tmp_path / f"{index:02d}.png", np.array([[0, 100 * soft, 255]], np.uint8))
    read_sources([str(tmp_path)], binarise=True)
    (warning,) = caplog.messages
    assert "15.png is not binary" in warning and "4 more of 20" in warning


def test_reading_shows_a_bar_on_a_terminal(tmp_path, capsys, monkeypatch):
    store(tmp_path / "a.png", np.eye(8, dtype=np.uint8))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    read_sources(["synthetic"], label_maps=str(tmp_path), val_masks=str(tmp_path))
    assert "reading masks" in capsys.readouterr().err
