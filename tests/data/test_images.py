import numpy as np
import pytest
from PIL import Image

from diffiml_plugin.data.images import find_images, read_image
from diffiml_plugin.errors import DiffIMLError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def test_pixels_are_as_stored_whatever_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees"
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png"), PIXELS)


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


@pytest.mark.parametrize("content", [b"", b"text", "half"])
def test_undecodable_file_is_named(tmp_path, content):
    path = tmp_path / "broken.jpg"
    Image.fromarray(np.repeat(PIXELS, 40, 0)).save(path)
    path.write_bytes(path.read_bytes()[:700] if content == "half" else content)
    with pytest.raises(DiffIMLError, match=r"broken\.jpg cannot be read"):
        read_image(path)


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


def test_the_images_own_folder_is_no_output(tmp_path):
    for part in ("Tp", "Au"):  # beside an image, a_mask.png may be the truth
        (tmp_path / part).mkdir()
        (tmp_path / part / "a.png").touch()
    for paths, output in ((["Tp"], "Tp"), (["Tp/a.png"], "Tp"), (["Tp", "Au"], ".")):
        with pytest.raises(DiffIMLError, match="is the folder of the images|would put masks among the images"):
            find_images([tmp_path / path for path in paths], tmp_path / output)


def test_find_images(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.PNG", "deep/a.jpg", "notes.txt"):
        (tmp_path / name).touch()
    found = find_images([tmp_path, tmp_path / "b.PNG"], tmp_path / "out")
    assert [str(relative) for _, relative in found] == ["b.PNG", "deep/a.jpg"]
    with pytest.raises(DiffIMLError, match="missing does not exist"):
        find_images([tmp_path / "missing"], tmp_path)
    (tmp_path / "deep" / "a.jpg").unlink()
    with pytest.raises(DiffIMLError, match="deep holds no image"):
        find_images([tmp_path / "deep"], tmp_path)


def test_files_of_one_name_keep_their_folders(tmp_path):
    for name in ("x/1.jpg", "y/1.jpg", "y/2.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for named in ([tmp_path / "x", tmp_path / "y"], sorted(tmp_path.rglob("*.jpg"))):
        found = find_images(named, tmp_path / "out")
        assert [str(relative) for _, relative in found] == ["x/1.jpg", "y/1.jpg", "y/2.jpg"]


def test_output_folder_is_left_out(tmp_path):
    (tmp_path / "out").mkdir()
    for name in ("a.jpg", "out/a_mask.png"):
        (tmp_path / name).touch()
    assert len(find_images([tmp_path], tmp_path / "out")) == 1
    assert len(find_images([tmp_path / "out" / "a_mask.png"], tmp_path)) == 1
    with pytest.raises(DiffIMLError, match="is the folder of the images"):
        find_images([tmp_path], tmp_path)
