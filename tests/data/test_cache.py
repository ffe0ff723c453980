import os

import numpy as np
import pytest
from PIL import Image

from diffiml_plugin.data import cache
from diffiml_plugin.data.cache import PixelCache
from diffiml_plugin.data.images import read_image, read_mask


def stored(path, value):
    Image.fromarray(np.full((4, 6, 3), value, np.uint8)).save(path)
    return path


def test_what_was_decoded_once_is_read(tmp_path):
    cache, photo, calls = PixelCache(tmp_path / "cache"), stored(tmp_path / "a.png", 7), []

    def decode(path):
        calls.append(path)
        return read_image(path)

    first, second = (cache.read(photo, decode) for _ in range(2))
    assert np.array_equal(first, second) and first.dtype == second.dtype == np.uint8 and calls == [photo]
    assert cache.read(photo, read_mask).shape == (4, 6)  # another decoder, another entry


def test_links_in_the_folder_lead_nothing_out_of_it(tmp_path, caplog):
    folder, photo = tmp_path / "cache", stored(tmp_path / "a.png", 7)
    for part in (tmp_path / "elsewhere", folder):
        part.mkdir()
    for number in range(256):
        (folder / f"{number:02x}").symlink_to(tmp_path / "elsewhere")
    assert (PixelCache(folder).read(photo, read_image) == 7).all()
    assert "cannot be written" in caplog.text and not any((tmp_path / "elsewhere").iterdir())


def test_a_file_that_changes_is_decoded_anew(tmp_path):
    cache, photo = PixelCache(tmp_path / "cache"), stored(tmp_path / "a.png", 7)
    cache.read(photo, read_image)
    os.utime(stored(photo, 9), ns=(1, 1))  # of the same size
    assert (cache.read(photo, read_image) == 9).all()


def test_a_file_of_the_same_size_and_date_in_its_place_is_decoded_too(tmp_path):
    cache, photo = PixelCache(tmp_path / "cache"), stored(tmp_path / "a.bmp", 7)
    os.utime(photo, ns=(1, 1))
    cache.read(photo, read_image)
    os.utime(stored(tmp_path / "b.bmp", 9), ns=(1, 1))  # as archives unpack a mended release
    os.replace(tmp_path / "b.bmp", photo)
    assert (cache.read(photo, read_image) == 9).all()


def with_shape(words):
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {words}}}\n".encode()
    return lambda entry: b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: entry[:20],
        lambda entry: b"",
        lambda entry: b"PK\3\4" + entry,
        *map(with_shape, ["(10**9,)", "(99999999999999999999, 0)", "(2**62, 0)", "((4,), 6)", "(4, 6"]),
    ],
)
def test_a_damaged_entry_is_replaced(tmp_path, damage):
    cache, photo = PixelCache(tmp_path / "cache"), stored(tmp_path / "a.png", 7)
    cache.read(photo, read_image)
    (entry,) = (tmp_path / "cache").rglob("*.npy")
    entry.write_bytes(damage(entry.read_bytes()))
    assert (cache.read(photo, read_image) == 7).all() and np.load(entry).shape == (4, 6, 3)


@pytest.mark.parametrize("version", ["PIL.__version__", "cv2.__version__", "file_digest"])
def test_what_another_version_decoded_is_decoded_anew(tmp_path, monkeypatch, version):
    photo = stored(tmp_path / "a.png", 7)
    PixelCache(tmp_path / "cache").read(photo, read_image)
    value = (lambda path: "the next") if version == "file_digest" else "the next"
    monkeypatch.setattr(f"{cache.__name__}.{version}", value)

    def decode(path):
        return read_image(path) + 1

    decode.__name__ = read_image.__name__
    assert (PixelCache(tmp_path / "cache").read(photo, decode) == 8).all()


@pytest.mark.parametrize(
    "decode, other",
    [
        (read_image, np.ones((4, 6, 3), np.float32)),
        (read_image, np.ones((4, 6), np.uint8)),
        (read_image, np.ones((4, 6, 4), np.uint8)),
        (read_image, np.ones((0, 6, 3), np.uint8)),
        (read_mask, np.ones((4, 6), np.uint8)),
        (read_mask, np.full((4, 6), 255, np.float32)),
        (read_mask, np.full((4, 6, 3), 255, np.uint8)),
    ],
)
def test_an_entry_of_other_type_shape_or_levels_is_replaced(tmp_path, decode, other):
    cache, photo = PixelCache(tmp_path / "cache"), stored(tmp_path / "a.png", 200)
    expected = cache.read(photo, decode)
    (entry,) = (tmp_path / "cache").rglob("*.npy")
    np.save(entry, other)
    for found in (cache.read(photo, decode), np.load(entry)):
        assert np.array_equal(found, expected) and found.dtype == expected.dtype


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path, caplog):
    (tmp_path / "cache").write_text("a file")
    cache, photo = PixelCache(tmp_path / "cache"), stored(tmp_path / "a.png", 7)
    assert (cache.read(photo, read_image) == 7).all() and (cache.read(photo, read_image) == 7).all()
    (message,) = caplog.messages
    assert "cannot be written" in message and "decoded anew" in message
