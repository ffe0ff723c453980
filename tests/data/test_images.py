import zlib
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngImageFile, PngInfo

from diffiml_plugin.data.images import (
    as_viewed,
    decoding,
    orientation_of,
    pixels_held,
    read_header,
    read_image,
    read_mask,
    stored_pixels,
)
from diffiml_plugin.errors import DiffIMLError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", ["png", "tif"])  # Pillow turns a TIFF when it decodes it
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_as_stored_whatever_exif_says(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(PIXELS).save(file, exif=exif)
    assert read_header(file) == (9, 6, orientation)
    assert np.array_equal(read_image(file), PIXELS)
    assert np.array_equal(read_mask(file), 255 * (PIXELS.mean(2) > 127.5))
    with Image.open(file) as image:
        assert np.array_equal(stored_pixels(image, "it"), PIXELS)


def test_alpha_is_dropped_not_blended(tmp_path):
    Image.fromarray(np.dstack([PIXELS, np.zeros((6, 9), np.uint8)])).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), PIXELS)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_keep_their_upper_eight(tmp_path, suffix):
    grey = PIXELS[..., 0]
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / f"a.{suffix}")
    assert np.array_equal(read_image(tmp_path / f"a.{suffix}"), np.repeat(grey[..., None], 3, 2))


def test_grey_is_repeated(tmp_path):
    Image.fromarray(PIXELS[..., 0]).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), np.repeat(PIXELS[..., :1], 3, 2))


def test_float_pixels_are_refused(tmp_path):
    Image.fromarray(PIXELS[..., 0].astype(np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DiffIMLError, match="floating-point"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("kind", [np.uint16, np.int32])
def test_levels_that_would_come_out_black_are_refused(tmp_path, kind):
    Image.fromarray(PIXELS[..., 0].astype(kind) * 16).save(tmp_path / "a.tif")  # 12 bits
    with pytest.raises(DiffIMLError, match="holds no level above 3968 of 65535; scale its levels"):
        read_image(tmp_path / "a.tif")
    Image.fromarray(np.zeros((6, 9), kind)).save(tmp_path / "black.tif")
    assert not read_image(tmp_path / "black.tif").any()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_colours_that_would_come_out_black_are_refused(tmp_path, suffix):
    file = str(tmp_path / f"a.{suffix}")
    for levels in (16, 1):  # the 8 bits of PIXELS in 12, and in 8
        cv2.imwrite(file, PIXELS.astype(np.uint16) * levels)
        with pytest.raises(DiffIMLError, match=r"a\.... holds no level above \d+ of 65535; scale its levels"):
            read_image(file)
    with pytest.raises(DiffIMLError, match=r"a\.... holds no level above 255 of 65535; scale its levels"):
        read_mask(file)  # in the upper 8 bits it is empty
    with (
        pytest.raises(DiffIMLError, match="holds no level above 255"),
        Image.open(BytesIO(Path(file).read_bytes())) as it,
    ):
        stored_pixels(it, "it")
    with pytest.raises(DiffIMLError, match="holds no level above 255"), Image.open(file) as it:
        assert orientation_of(it) == 1  # which Pillow would decode a PNG to find
        stored_pixels(it, "it")
    cv2.imwrite(file, PIXELS[..., ::-1].astype(np.uint16) * 257)
    assert np.array_equal(read_image(file), PIXELS)


def test_a_ppm_whose_16_bits_are_hardly_used_is_refused(tmp_path):
    file = str(tmp_path / "a.ppm")
    for levels in (16, 1):
        cv2.imwrite(file, PIXELS.astype(np.uint16) * levels)
        with pytest.raises(DiffIMLError, match=r"a\.ppm holds no level above \d+ of 65535; scale its levels"):
            read_image(file)
    cv2.imwrite(file, PIXELS[..., ::-1].astype(np.uint16) * 257)
    assert np.array_equal(read_image(file), PIXELS)


def test_colours_of_a_deep_jpeg_2000_are_refused_and_grey_is_not(tmp_path):
    file = str(tmp_path / "a.jp2")
    for channels in (3, 4):
        cv2.imwrite(file, np.full((64, 96, channels), 65535, np.uint16))
        for read in (read_image, read_mask):
            with pytest.raises(DiffIMLError, match=r"a\.jp2 is a JPEG 2000 of more than 8 bits per channel"):
                read(file)
        with pytest.raises(DiffIMLError, match="of more than 8 bits"), Image.open(file) as it:
            stored_pixels(it, "it")
    cv2.imwrite(file, np.full((64, 96), 65535, np.uint16))
    assert (read_image(file) == 255).all()
    cv2.imwrite(file, np.full((64, 96, 3), 255, np.uint8))
    assert (read_image(file) == 255).all() and (read_mask(file) == 255).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_black_of_16_bits_is_black(tmp_path, suffix, channels):
    file = str(tmp_path / f"a.{suffix}")
    black = np.zeros((6, 9, channels), np.uint16)
    black[..., 3:] = 65535  # opaque
    cv2.imwrite(file, black)
    for read in (read_image, read_mask):
        assert not read(file).any()
    for source in (file, BytesIO(Path(file).read_bytes())):
        with Image.open(source) as photo:
            assert not stored_pixels(photo, "a photo").any()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_an_image_of_the_callers_is_left_as_it_is(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    frames[0].save(tmp_path / f"a.{suffix}", exif=exif, save_all=True, append_images=frames[1:])
    for number, frame in enumerate(frames):
        for source in (tmp_path / f"a.{suffix}", BytesIO((tmp_path / f"a.{suffix}").read_bytes())):
            with Image.open(source) as image:
                image.seek(number)
                for _ in range(2):
                    assert orientation_of(image) == 6
                    assert np.array_equal(stored_pixels(image, "it"), np.array(frame))
                assert image.tile and np.array_equal(np.sort(image, None), np.sort(frame, None))


def test_an_image_that_cannot_be_decoded_is_refused_in_a_sentence(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    half, closed = Image.open(BytesIO((tmp_path / "a.png").read_bytes()[:100])), Image.open(tmp_path / "a.png")
    closed.close()
    for image in (half, closed):
        with pytest.raises(DiffIMLError, match="the image cannot be read as an image: ."):
            stored_pixels(image, "the image")


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_a_dark_tiff_of_8_bits_is_read_wherever_its_parts_lie(tmp_path, compression):
    for width in range(150, 180):
        pixels = np.full((9, width, 3), 5, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "a.tif", compression=compression)
        assert np.array_equal(read_image(tmp_path / "a.tif"), pixels)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("orientation", [1, 6])
def test_where_0_is_white_no_image_comes_out_inverted(tmp_path, kind, orientation):
    file = tmp_path / "a.tif"
    grey = PIXELS[..., 0]
    tags = {262: 0, 0x0112: orientation}
    said = grey if kind is np.uint8 else 65535 - grey.astype(kind) * 257  # Pillow writes negatives up to 8 bits alone
    Image.fromarray(said).save(file, tiffinfo=tags)
    assert np.array_equal(read_image(file)[..., 0], grey)
    assert np.array_equal(read_mask(file) > 0, grey > 127)
    with Image.open(file) as photo:
        assert np.array_equal(stored_pixels(photo, "a photo")[..., 0], grey)
    with Image.open(file) as photo:
        photo.load()
        shown = stored_pixels(photo, "a photo")[..., 0]
        assert np.array_equal(stored_pixels(photo, "a photo")[..., 0], shown)  # not inverted again
        assert np.array_equal(np.sort(shown, None), np.sort(grey, None))


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_a_turned_tiff_is_read_as_stored_in_every_mode(tmp_path, compression, orientation):
    pixels = np.dstack([PIXELS, PIXELS[..., :1]])
    for stored in (PIXELS[..., 0], PIXELS[..., 0].astype(np.uint16) * 257, PIXELS, pixels):
        Image.fromarray(stored).save(tmp_path / "a.tif", compression=compression, tiffinfo={0x0112: orientation})
        with decoding(tmp_path / "a.tif") as image:
            assert np.array_equal(np.asarray(image), stored)


def test_a_jpeg_that_goes_through_its_pixels_for_hours_is_refused(tmp_path):
    file = BytesIO()
    Image.fromarray(np.kron(PIXELS, np.ones((8, 8, 1), np.uint8))).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    assert content.count(b"\xff\xda") == 10
    start = content.rindex(b"\xff\xda")
    motion = content + b"\xff\xda" * 1000  # as phones append a film, which is none of the image's
    (tmp_path / "motion.jpg").write_bytes(motion)
    assert read_image(tmp_path / "motion.jpg").shape == (48, 72, 3)
    (tmp_path / "slow.jpg").write_bytes(content[:-2] + content[start:-2] * 91 + content[-2:])
    with pytest.raises(DiffIMLError, match=r"slow\.jpg has more than 100 scans; `jpegtran` makes"):
        read_image(tmp_path / "slow.jpg")
    with pytest.raises(DiffIMLError, match="scans"):
        read_mask(tmp_path / "slow.jpg")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_as_a_viewer_does(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    assert read_header(tmp_path / "a.png") == (9, 6, orientation)
    with Image.open(tmp_path / "a.png") as image:
        assert orientation_of(image) == orientation
        turned = np.array(ImageOps.exif_transpose(image))
    assert np.array_equal(as_viewed(read_image(tmp_path / "a.png"), orientation), turned)
    assert np.array_equal(as_viewed(PIXELS[..., 0], orientation), turned[..., 0])


@pytest.mark.parametrize("place", ["before", "behind", "profile", "xmp"])
def test_a_header_is_read_without_decoding(tmp_path, monkeypatch, place):
    exif, said = Image.Exif(), PngInfo()
    exif[0x0112] = 6
    if place == "profile":  # as ImageMagick writes it
        said.add_text("Raw profile type exif", f"\nexif\n{len(exif.tobytes())}\n{exif.tobytes().hex()}\n", zip=True)
    elif place == "xmp":
        said.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    file = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(file, pnginfo=said, **({"exif": exif} if place == "before" else {}))
    if place == "behind":
        chunk = b"eXIf" + exif.tobytes()[6:]
        end = len(chunk[4:]).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big") + bytes(4) + b"IEND"
        file.write_bytes(file.read_bytes().replace(bytes(4) + b"IEND", end))
    monkeypatch.setattr(PngImageFile, "load", lambda _: pytest.fail("the image was decoded"))
    assert read_header(file) == read_header(file, file.read_bytes()) == (9, 6, 6)
    content = file.read_bytes()
    assert read_header(file, content[: content.index(b"IDAT") + 10]) == (9, 6, 1 if place == "behind" else 6)  # cut off


def test_what_reading_holds_is_of_the_header_or_of_the_bytes(tmp_path):
    file = tmp_path / "a.png"
    Image.new("RGB", (300, 200)).save(file)
    assert pixels_held(file) == 60_000
    with open(file, "ab") as appended:
        appended.truncate(3_000_000)
    assert pixels_held(file) == 1_000_000
    file.write_bytes(bytes(90))
    assert pixels_held(file) == 30
    assert pixels_held(tmp_path / "gone.png") == pixels_held(tmp_path / "nul\0.png") == 0
    Image.new("L", (20, 20)).save(tmp_path / "b.png")
    assert pixels_held(tmp_path) == 400


def test_an_orientation_that_is_none_is_as_stored(tmp_path):
    for stated in (0, 9):
        exif = Image.Exif()
        exif[0x0112] = stated
        Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
        assert read_header(tmp_path / "a.png")[2] == 1
