from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from diffiml_plugin import load
from diffiml_plugin.models.tiles import OVERLAP, SIDE, Tile, Tiling, _part


@pytest.mark.parametrize("size", [(100, 90), (512, 512), (513, 700), (1500, 2111), (4000, 777)], ids=str)
@pytest.mark.parametrize("side", [512, 768])
def test_tiles_cover_a_photo_on_the_grid_and_their_weights_amount_to_one(size, side):
    tiling = Tiling(*size, side, 32)
    total, values = np.zeros(size, np.float32), np.random.default_rng(0).random(size, dtype=np.float32)
    tiles = list(tiling)
    for tile in tiles:
        assert tile.top % 32 == tile.left % 32 == 0 and max(tile.height, tile.width) <= side
        tiling.add(total, tile, tile.of(values))
    np.testing.assert_allclose(total, values, atol=1e-5)
    assert len(tiles) == len(tiling) == len(set(tiles))


def test_neighbours_share_enough_and_are_no_more_than_needed():
    starts = Tiling(1536, 4000, 1536, 32).columns
    assert len(starts) == 3 and min(starts[i] + 1536 - starts[i + 1] for i in range(2)) >= OVERLAP - 32


def test_the_border_of_a_tile_does_not_count():
    tiling = Tiling(512, 760, 512, 32)
    first, second = tiling.weights[1]
    assert (first[-32:] == 0).all() and (second[:32] == 0).all()
    assert first[0] == 1 and second[-1] == 1  # where the photo ends nothing else can say it


def test_tiles_start_from_the_noise_of_the_whole_photo():
    noise = torch.arange(2 * 64 * 96).view(2, 1, 1, 1, 64, 96)  # two views of a photo of 512x768
    part = _part(noise, Tile(128, 256, 200, 256), (224, 256))
    assert torch.equal(part[0], noise[0, ..., 16:44, 32:64])
    assert torch.equal(part[1].flip(-1), noise[1].flip(-1)[..., 16:44, 32:64])  # the mirrored view's, seen upright


@pytest.fixture
def forgery(tmp_path):
    """A photo of three megapixels with an ellipse out of another one, saved once, and its mask."""
    folder = Path(__file__).parents[3] / "shared" / "data" / "real" / "IMD2020_45" / "Au"
    files = [folder / name for name in ("1b7c47_orig.jpg", "1bax4h_orig.jpg")]
    if not all(file.is_file() for file in files):
        pytest.skip(f"no photos in {folder}")
    photo, other = (np.array(Image.open(file).convert("RGB"))[:1696, :1824] for file in files)
    mask = cv2.ellipse(np.zeros(photo.shape[:2], np.uint8), (900, 800), (260, 190), 30, 0, 360, 255, -1)
    photo[mask > 0] = cv2.resize(other, None, fx=1.25, fy=1.25)[: len(photo), : photo.shape[1]][mask > 0]
    Image.fromarray(photo).save(tmp_path / "forgery.jpg", quality=92)
    return tmp_path / "forgery.jpg", mask > 0


@pytest.mark.slow
def test_tiles_find_what_the_whole_photo_does(forgery):
    file, truth = forgery
    detector = load("small", device="cpu", num_inference_steps=1, ensemble_size=1, tta=False)
    photograph = detector.read(file)
    masks = [detector._maps(photograph, side).probability > detector.threshold for side in (None, SIDE)]
    whole, tiled = (2 * (mask & truth).sum() / (mask.sum() + truth.sum()) for mask in masks)
    assert whole > 0.5 and abs(whole - tiled) <= 0.01
