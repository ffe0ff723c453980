import json
import random

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from diffiml_plugin.errors import DiffIMLError

synthetic = pytest.importorskip("diffiml_plugin.bench.synthetic")


@pytest.fixture
def folder(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        image = np.random.default_rng(number).integers(0, 256, (64, 80, 3), dtype=np.uint8)
        cv2.imwrite(str(photos / f"{number}.png"), image)
    return photos


def make(photographs, **settings):
    from IMDLBenCo.transforms import get_albu_transforms

    augment = get_albu_transforms("train")
    return synthetic.SyntheticTampering(
        photographs, is_resizing=True, output_size=(64, 64), common_transforms=augment, **settings)


def epoch_of(dataset, epoch, workers):
    dataset.set_epoch(epoch)
    return list(DataLoader(dataset, batch_size=2, num_workers=workers))


def test_samples_do_not_depend_on_workers_or_global_state(folder):
    dataset = make(folder, samples=6)
    alone = epoch_of(dataset, 1, 0)
    random.seed(99)
    shared = epoch_of(dataset, 1, 2)
    for a, b in zip(alone, shared, strict=True):
        assert a["name"] == b["name"]
        assert torch.equal(a["image"], b["image"]) and torch.equal(a["mask"], b["mask"])
    assert not torch.equal(alone[0]["image"], epoch_of(dataset, 2, 0)[0]["image"])


def test_running_workers_see_the_new_epoch(folder):
    dataset = make(folder, samples=4)
    loader = DataLoader(dataset, num_workers=1, persistent_workers=True)
    epochs = []
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        epochs.append([batch["image"] for batch in loader])
    assert not any(torch.equal(a, b) for a, b in zip(*epochs, strict=True))


def test_global_random_state_is_left_alone(folder):
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].copy()
    make(folder)[0]
    assert random.getstate() == before[0] and np.array_equal(np.random.get_state()[1], before[1])


def test_sample_is_the_frameworks_dict(folder):
    sample = make(folder, post_funcs=lambda sample: sample.update(seen=True))[0]
    assert sample["image"].shape == (3, 64, 64) and sample["image"].dtype == torch.float32
    assert sample["mask"].shape == (1, 64, 64) and sample["seen"]
    assert {"label", "name", "shape", "origin_shape"} <= sample.keys()


def test_authentic_share(folder):
    kinds = [make(folder, samples=200, authentic=0.3).draw(i).kind for i in range(200)]
    assert 35 <= kinds.count("authentic") <= 85
    assert {make(folder, kinds=["removal"], authentic=0).draw(i).kind for i in range(5)} == {"removal"}


def test_regions_beside_the_folder_are_used(folder):
    regions = folder.parent / "regions"
    regions.mkdir()
    labels = np.zeros((64, 80), np.uint8)
    labels[10:30, 10:40] = 3
    for photo in folder.iterdir():
        cv2.imwrite(str(regions / photo.name), labels)
    assert np.array_equal(make(folder, kinds=["removal"], authentic=0).draw(0).mask, labels == 3)
    cv2.imwrite(str(regions / "1.png"), labels[:50])
    with pytest.raises(DiffIMLError, match=r"1\.png is 80x50 pixels.*80x64"):
        make(folder)


def test_window_size(folder):
    assert make(folder, window=32).draw(0).image.shape == (32, 32, 3)


def test_bad_folders(folder, tmp_path):
    with pytest.raises(DiffIMLError, match="nowhere is not a folder"):
        make(tmp_path / "nowhere")
    (folder / "0.png").write_bytes(b"not an image")
    with pytest.raises(DiffIMLError, match=r"0\.png is not a readable image"):
        make(folder)
    for name in "01":
        (folder / f"{name}.png").unlink()
    with pytest.raises(DiffIMLError, match="holds 1 photographs"):
        make(folder)


def test_written_set_equals_the_stream(folder, tmp_path):
    stream = make(folder, samples=8, authentic=0.4)
    listing = synthetic.write_tampered(stream, tmp_path / "set")
    pairs = json.loads(listing.read_text())
    assert len(pairs) == 8 and {len(p) for p in pairs} == {2}
    for index, (image, mask) in enumerate(pairs):
        made = stream.draw(index)
        assert np.array_equal(cv2.imread(str(listing.parent / image))[..., ::-1], made.image)
        if mask != "Negative":
            assert np.array_equal(cv2.imread(str(listing.parent / mask), 0), made.mask * 255)
    assert "Negative" in dict(pairs).values()
