import json
import sys

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.tampering.settings import TamperSettings, read_strength
from diffiml_plugin.tampering.styles import StageSettings, Style

synthetic = pytest.importorskip("diffiml_plugin.tampering.stream")


@pytest.fixture
def folder(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        image = np.random.default_rng(number).integers(0, 256, (64, 80, 3), dtype=np.uint8)
        cv2.imwrite(str(photos / f"{number}.png"), image)
    return photos


def make(photographs, **settings):
    from diffiml_plugin.models.inputs import Inputs, InputSettings
    from diffiml_plugin.training.sources import train_transform

    return synthetic.SyntheticTampering(
        photographs, Inputs(InputSettings(64)), **{"transform": train_transform(), **settings}
    )


def draw(stream, index, seed=0):
    return stream.draw(index, np.random.default_rng((seed, index)))


def epoch_of(stream, epoch, workers):
    from diffiml_plugin.data.order import SeededDataset, make_loader

    batches = [(0, 1), (2, 3), (4, 5)]
    return list(make_loader(SeededDataset(stream, 7), epoch, batches, workers, torch.device("cpu")))


@pytest.mark.parametrize("strength", ["realistic", "world"])
def test_samples_do_not_depend_on_workers_or_global_state(folder, strength):
    stream = make(folder, samples=6, settings=read_strength(strength))
    alone = epoch_of(stream, 1, 0)
    np.random.seed(99)
    shared = epoch_of(stream, 1, 2)
    for a, b in zip(alone, shared, strict=True):
        assert a["name"] == b["name"]
        assert torch.equal(a["image"], b["image"]) and torch.equal(a["mask"], b["mask"])
    assert not torch.equal(alone[0]["image"], epoch_of(stream, 2, 0)[0]["image"])


def test_sample_is_the_frameworks_dict(folder):
    sample = make(folder, post=lambda made: made.update(seen=True))[0]
    assert sample["image"].shape == (3, 64, 64) and sample["image"].dtype == torch.float32
    assert sample["mask"].shape == (1, 64, 64) and sample["seen"]
    assert {"label", "name", "shape", "origin_shape"} <= sample.keys()


def test_what_a_stream_is_made_of_leaves_defaults_out():
    """So that a version with more settings says the same of an earlier stream."""
    chosen = synthetic._chosen
    assert chosen(TamperSettings()) == {} and chosen(TamperSettings(area=(0.1, 0.2))) == {"area": [0.1, 0.2]}
    styles = [Style(after=(StageSettings(), StageSettings(blurred=0.5)))]
    assert chosen(styles) == [{"after": [{}, {"blurred": 0.5}]}]


def test_authentic_share(folder):
    kinds = [draw(make(folder, authentic=0.3), i).kind for i in range(200)]
    assert 35 <= kinds.count("authentic") <= 85
    assert {draw(make(folder, kinds=["removal"], authentic=0), i).kind for i in range(5)} == {"removal"}


def test_regions_beside_the_folder_are_used(folder):
    regions = folder.parent / "regions"
    regions.mkdir()
    labels = np.zeros((64, 80), np.uint8)
    labels[10:30, 10:40] = 3
    for photo in folder.iterdir():
        cv2.imwrite(str(regions / photo.name), labels)
    assert np.array_equal(draw(make(folder, kinds=["removal"], authentic=0), 0).mask, labels == 3)
    for file in regions.iterdir():
        palette = Image.fromarray(labels, "P")
        palette.putpalette([0, 0, 0] + [200, 0, 0] * 255)
        palette.save(file)
    assert np.array_equal(draw(make(folder, kinds=["removal"], authentic=0), 0).mask, labels == 3)
    cv2.imwrite(str(regions / "1.png"), labels[:50])
    with pytest.raises(DiffIMLError, match=r"1\.png is 80x50 pixels.*80x64"):
        make(folder)


def test_a_label_map_is_of_one_photograph(folder):
    cv2.imwrite(str(folder / "0.bmp"), cv2.imread(str(folder / "0.png")))
    make(folder)  # two photographs of one name, without a map
    regions = folder.parent / "regions"
    regions.mkdir()
    cv2.imwrite(str(regions / "1.png"), np.zeros((64, 80), np.uint8))
    make(folder)
    cv2.imwrite(str(regions / "0.png"), np.zeros((64, 80), np.uint8))
    with pytest.raises(DiffIMLError, match=r"regions/0\.png has the name of two photographs, 0\.bmp and 0\.png; "):
        make(folder)


def test_window_size(folder):
    assert draw(make(folder, window=32), 0).image.shape == (32, 32, 3)


def test_one_image_of_each_photograph_comes_first(folder):
    stream = make(folder, samples=3, settings=read_strength("world"), window=32)
    names = {stream.name(index, draw(stream, index)).split("_")[0] for index in range(3)}
    assert names == {"0", "1", "2"}


def test_each_photograph_is_a_host_in_time(folder):
    from diffiml_plugin.data.order import SeededDataset

    stream = SeededDataset(make(folder, samples=2), seed=0)
    hosts = {stream[epoch, index]["name"].split("_")[0] for epoch in range(8) for index in range(2)}
    assert hosts == {"0", "1", "2"}


def test_strengths_are_named(tmp_path):
    with pytest.raises(DiffIMLError, match="did you mean 'visible'"):
        read_strength("visibel")
    with pytest.raises(DiffIMLError, match=r"cannot read .*mine\.yaml"):
        read_strength(str(tmp_path / "mine.yaml"))


def test_large_photographs_are_shrunk_with_their_regions(folder):
    regions = folder.parent / "regions"
    regions.mkdir()
    labels = np.zeros((800, 2048), np.uint8)
    labels[200:600, 400:1000] = 3
    for photo in folder.iterdir():
        cv2.imwrite(str(photo), np.random.default_rng(0).integers(0, 256, (800, 2048, 3), dtype=np.uint8))
        cv2.imwrite(str(regions / photo.name), labels)
    made = draw(make(folder, kinds=["removal"], authentic=0), 0)
    assert made.image.shape == (400, 1024, 3) and np.array_equal(made.mask, labels[::2, ::2] == 3)


def test_what_cannot_be_used_is_named_and_left_out(folder, caplog):
    regions = folder.parent / "regions"
    regions.mkdir()
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:200])
    cv2.imwrite(str(folder / "tiny.png"), np.zeros((20, 400, 3), np.uint8))
    (folder / "coloured.png").write_bytes((folder / "0.png").read_bytes())
    cv2.imwrite(str(regions / "coloured.png"), np.random.default_rng(0).integers(0, 9, (64, 80, 3), dtype=np.uint8))
    stream = make(folder)
    assert [file.name for file in stream.photographs.files] == ["0.png", "1.png", "2.png"]
    told = caplog.messages
    assert len(told) == 3 and all("left out" in line for line in told)
    for name in ("broken.png", "tiny.png is 400x20", "coloured.png is coloured"):
        assert sum(name in line for line in told) == 1


def test_bad_folders(folder, tmp_path):
    with pytest.raises(DiffIMLError, match="nowhere is not a folder"):
        make(tmp_path / "nowhere")
    for name in "01":
        (folder / f"{name}.png").unlink()
    with pytest.raises(DiffIMLError, match="holds 1 photographs"):
        make(folder)


def test_label_0_is_no_region(folder):
    regions = folder.parent / "regions"
    regions.mkdir()
    labels = np.zeros((64, 80), np.uint8)
    labels[:40] = 3
    for photo in folder.iterdir():
        cv2.imwrite(str(regions / photo.name), labels)
    settings = TamperSettings(area=(0.1, 0.9))
    for index in range(12):
        made = draw(make(folder, kinds=["removal"], authentic=0, settings=settings), index)
        assert np.array_equal(made.mask, labels == 3)


def test_written_set_equals_the_stream(folder, tmp_path):
    stream = make(folder, samples=8, authentic=0.4)
    listing = synthetic.write_tampered(stream, tmp_path / "set", seed=5)
    pairs = json.loads(listing.read_text())
    assert len(pairs) == 8
    for index, (image, mask, *kind) in enumerate(pairs):
        made = draw(stream, index, 5)
        assert np.array_equal(cv2.imread(str(listing.parent / image))[..., ::-1], made.image)
        assert kind == ([] if mask == "Negative" else [made.kind])
        if kind:
            assert np.array_equal(cv2.imread(str(listing.parent / mask), 0), made.mask * 255)
    assert ["Negative"] in [pair[1:] for pair in pairs]


def test_writing_shows_a_bar_on_a_terminal(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    synthetic.write_tampered(make(folder, samples=2), tmp_path / "set", seed=5)
    assert "tamper:" in capsys.readouterr().err
