import os
import struct
import zlib
from contextlib import nullcontext

import numpy as np
import pytest
from PIL import Image

from diffiml_plugin.data.formats import holds_several, readable_formats
from diffiml_plugin.data.images import read_header, read_image
from diffiml_plugin.errors import DiffIMLError

WRITTEN = Image.registered_extensions()
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


@pytest.mark.parametrize("content", [b"", b"text", "half"])
def test_undecodable_file_is_named(tmp_path, content):
    path = tmp_path / "broken.jpg"
    Image.fromarray(np.repeat(PIXELS, 40, 0)).save(path)
    path.write_bytes(path.read_bytes()[:700] if content == "half" else content)
    with pytest.raises(DiffIMLError, match=r"broken\.jpg cannot be read"):
        read_image(path)


@pytest.mark.parametrize("suffix", [name for name in ("tif", "gif", "webp", "png", "avif") if f".{name}" in WRITTEN])
def test_a_file_of_several_pictures_is_known(tmp_path, suffix):
    one, other = (Image.fromarray(np.full((32, 48, 3), level, np.uint8)) for level in (40, 200))
    one.save(tmp_path / f"one.{suffix}")
    one.save(tmp_path / f"two.{suffix}", save_all=True, append_images=[other])
    assert [holds_several(tmp_path / f"{name}.{suffix}") for name in ("one", "two")] == [False, True]


def test_of_a_tiff_that_begins_with_a_preview_the_picture_is_read(tmp_path):
    small, whole = (Image.fromarray(np.full((side, side, 3), side, np.uint8)) for side in (16, 160))
    reduced = {254: 1}  # NewSubfileType
    small.save(tmp_path / "preview.tif", tiffinfo=reduced)
    small.save(tmp_path / "a.tif", save_all=True, append_images=[whole], tiffinfo=reduced)
    entry = struct.pack("<HHLL", 254, 4, 1, 1)
    before, _, behind = (tmp_path / "a.tif").read_bytes().rpartition(entry)  # the second page's
    (tmp_path / "a.tif").write_bytes(before + struct.pack("<HHLL", 254, 4, 1, 0) + behind)
    assert read_header(tmp_path / "a.tif")[:2] == (160, 160) and not holds_several(tmp_path / "a.tif")
    assert (read_image(tmp_path / "a.tif") == 160).all()
    assert (read_image(tmp_path / "preview.tif") == 16).all()
    whole.save(tmp_path / "b.tif", save_all=True, append_images=[small], tiffinfo=reduced)
    before, entry, behind = (tmp_path / "b.tif").read_bytes().partition(entry)  # the first page's
    (tmp_path / "b.tif").write_bytes(before + struct.pack("<HHLL", 254, 4, 1, 0) + behind)
    assert (read_image(tmp_path / "b.tif") == 160).all() and not holds_several(tmp_path / "b.tif")


@pytest.mark.parametrize("kind", [name for name in readable_formats() if name not in ("MPO", "DIB")])
def test_each_format_that_is_named_is_read_whatever_its_suffix(tmp_path, kind):
    Image.fromarray(np.kron(PIXELS, np.ones((8, 8, 1), np.uint8))).save(tmp_path / "photo", kind)
    os.rename(tmp_path / "photo", tmp_path / "photo.jpg")
    assert read_image(tmp_path / "photo.jpg").shape == (48, 72, 3)
    assert read_header(tmp_path / "photo.jpg") == (72, 48, 1)


def test_of_an_animation_the_first_frame_is_read(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (read_image(tmp_path / "a.gif") == [255, 0, 0]).all()


@pytest.mark.parametrize("kind", ["EPS", "PCX", "DDS", "ICNS"])
def test_no_other_reader_is_called_whatever_the_suffix(tmp_path, kind, monkeypatch):
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "photo.jpg", kind)
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("Ghostscript was called"))
    with pytest.raises(DiffIMLError, match="of another format than JPEG"):
        read_image(tmp_path / "photo.jpg")


def test_heic_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    monkeypatch.setattr("diffiml_plugin.data.formats.readable_formats", lambda: ("JPEG",))
    with pytest.raises(DiffIMLError, match=r"HEIC need pillow-heif; pip install 'diffiml-plugin\[heic\]'"):
        read_image(tmp_path / "a.heic")


def test_a_list_of_photos_is_told_from_one(tmp_path):
    (tmp_path / "list.txt").write_text("a.jpg\n")
    with pytest.raises(DiffIMLError, match="it is text; `benco predict - < FILE` reads a list of photos"):
        read_image(tmp_path / "list.txt")


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "pipe.jpg", tmp_path, "/dev/zero"):
        with pytest.raises(DiffIMLError, match="is no regular file"):
            read_image(path)
    with pytest.raises(DiffIMLError, match=r"gone\.jpg cannot be read as an image: No such file"):
        read_image(tmp_path / "gone.jpg")


def test_a_file_of_more_bytes_than_are_read_is_refused(tmp_path, monkeypatch):
    Image.fromarray(PIXELS).save(tmp_path / "a.bmp")
    monkeypatch.setattr("diffiml_plugin.data.formats.MOST_BYTES", 200)
    with pytest.raises(DiffIMLError, match=r"a\.bmp has 222 bytes, more than the 200 that are read of an image"):
        read_image(tmp_path / "a.bmp")
    assert read_header(tmp_path / "a.bmp") == (9, 6, 1)


def test_the_size_is_checked_before_decoding(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    with pytest.raises(DiffIMLError, match="has more than .* pixels, the most that are read"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize(("side", "read"), [(16, True), (1024, True), (4096, False)])
def test_tiles_far_larger_than_their_picture_are_refused(tmp_path, side, read):
    """Each is decoded whole, whatever it says."""
    tile = zlib.compress(bytes(side * side))
    entries = [
        (256, 4, 8),
        (257, 4, 8),
        (258, 3, 8),
        (259, 3, 8),
        (262, 3, 1),
        (277, 3, 1),
        (322, 4, side),
        (323, 4, side),
    ]
    start = 8 + 2 + 12 * (len(entries) + 2) + 4
    entries += [(324, 4, start), (325, 4, len(tile))]
    fields = b"".join(struct.pack("<HHLL", tag, kind, 1, value) for tag, kind, value in entries)
    (tmp_path / "a.tif").write_bytes(b"II*\0" + struct.pack("<LH", 8, len(entries)) + fields + bytes(4) + tile)
    with nullcontext() if read else pytest.raises(DiffIMLError, match=f"tiles of {side}x{side} pixels for 8x8"):
        assert read_image(tmp_path / "a.tif").shape == (8, 8, 3)


@pytest.mark.parametrize("pointer", [3, 10**6])
def test_a_sound_page_before_a_broken_pointer_is_read(tmp_path, pointer):
    Image.fromarray(PIXELS).save(tmp_path / "a.tif")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    (start,) = struct.unpack_from("<L", content, 4)
    (entries,) = struct.unpack_from("<H", content, start)
    struct.pack_into("<L", content, start + 2 + 12 * entries, pointer)
    (tmp_path / "a.tif").write_bytes(content)
    assert np.array_equal(read_image(tmp_path / "a.tif"), PIXELS) and not holds_several(tmp_path / "a.tif")


def test_a_sound_frame_before_one_that_is_cut_off_is_read(tmp_path):
    frames = [Image.fromarray(np.full((64, 64, 3), level, np.uint8)) for level in (40, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    content = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "a.gif").write_bytes(content[: content.rindex(b"\x2c") + 4])
    holds_several(tmp_path / "a.gif")
    assert (read_image(tmp_path / "a.gif") == 40).all()
