import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from diffiml_plugin.api import load
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.evaluation import test as testing
from diffiml_plugin.evaluation.settings import TestSettings
from diffiml_plugin.framework.imdlbenco import MODELS
from diffiml_plugin.models.checkpoints import RELEASED, save_checkpoint
from diffiml_plugin.prediction.files import predict
from diffiml_plugin.weights.files import read_metadata


class BrightnessModel(nn.Module):
    """Calls bright pixels tampered: what it answers can be worked out by hand."""

    size_multiple = 2

    def __init__(self, gain: float = 1.0):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, image, mask=None, label=None, name=None, details=False, *args, **kwargs):
        brightness = torch.sigmoid(2 * self.gain * image.mean(1, keepdim=True))
        return {"pred_mask": brightness, "pred_label": brightness.amax((1, 2, 3)), "uncertainty": brightness * 0 + 0.25}


@pytest.fixture
def checkpoint(tmp_path):
    if not MODELS.has("BrightnessModel"):
        MODELS.register_module(module=BrightnessModel)
    path = tmp_path / "weights.safetensors"
    save_checkpoint(path, BrightnessModel(), "BrightnessModel", {"gain": 1.0}, input={"image_size": 64})
    return path


@pytest.fixture
def folder(tmp_path):
    """A dark image with a bright right half, 90x60; and its twin of the same stem in a sub-folder."""
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[:, 45:] = 255
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("a.png", "a.bmp", "deep/a.png"):
        Image.fromarray(pixels).save(tmp_path / "in" / name)
    return tmp_path / "in"


def read(path):
    return np.array(Image.open(path))


def test_a_size_that_changes_nothing_is_said(checkpoint, caplog):
    caplog.set_level("INFO")
    load(checkpoint, image_size=32, device="cpu")
    assert not caplog.messages
    save_checkpoint(
        checkpoint,
        BrightnessModel(),
        "BrightnessModel",
        {"gain": 1.0},
        input={"image_size": 64, "if_padding": True, "padding_mode": "reflect"},
    )
    load(checkpoint, image_size=32, device="cpu")
    assert "the image size is not used" in caplog.text


def test_files_have_the_image_size_and_folders(checkpoint, folder, tmp_path):
    out = tmp_path / "out"
    assert predict(load(checkpoint, device="cpu"), [str(folder)], out) == []
    assert {str(p.relative_to(out)) for p in out.rglob("*_mask.png")} == {
        "a.png_mask.png",
        "a.bmp_mask.png",
        "deep/a_mask.png",
    }
    mask, binary = read(out / "deep/a_mask.png"), read(out / "deep/a_binary.png")
    assert mask.shape == (60, 90) and mask[:, :40].max() < 10 and mask[:, 50:].min() > 245
    assert np.array_equal(np.unique(binary), [0, 255])
    assert (read(out / "deep/a_uncertainty.png") == 128).all()
    assert read(out / "deep/a_overlay.jpg").shape == (60, 90, 3)
    scores = {entry["image"]: entry for entry in json.loads((out / "scores.json").read_text())}
    assert len(scores) == 3
    entry = scores[str(folder / "deep" / "a.png")]
    assert entry["area"] == pytest.approx(0.5, abs=0.03) and entry["score"] > 0.9
    assert (out / entry["mask"]).is_file()


def test_unreadable_file_is_reported_and_the_others_are_done(checkpoint, folder, tmp_path, caplog):
    (folder / "broken.jpg").write_bytes(b"no image")
    failures = predict(load(checkpoint, device="cpu"), [str(folder)], tmp_path / "out")
    assert [failure.path.name for failure in failures] == ["broken.jpg"]
    assert "broken.jpg cannot be read" in caplog.text
    assert len(list((tmp_path / "out").rglob("*_mask.png"))) == 3


def test_a_prediction_that_is_not_finite_is_a_failure(checkpoint, folder, tmp_path):
    save_checkpoint(checkpoint, BrightnessModel(float("nan")), "BrightnessModel", {}, input={"image_size": 64})
    (failure,) = predict(load(checkpoint, device="cpu"), [str(folder / "a.png")], tmp_path / "out")
    assert "a.png is not finite" in failure.reason and not list((tmp_path / "out").glob("*.png"))


def test_earlier_output_is_no_input(checkpoint, folder):
    detector = load(checkpoint, device="cpu")
    for _ in range(2):
        predict(detector, [str(folder)], folder / "out")
    assert len(list(folder.rglob("*_mask.png"))) == 3


def test_threshold(checkpoint, folder, tmp_path):
    predict(load(checkpoint, device="cpu", threshold=0.999), [str(folder / "a.png")], tmp_path)
    assert not read(tmp_path / "a_binary.png").any()
    with pytest.raises(DiffIMLError, match="threshold 50"):
        load(checkpoint, device="cpu", threshold=50)


def test_padded_model_keeps_pixels_in_place_in_larger_images_too(checkpoint, folder):
    trained = {"image_size": 96, "if_padding": True}
    for mode, size in (("constant", None), ("constant", 64), ("reflect", None)):  # of 90x60 pixels
        save_checkpoint(checkpoint, BrightnessModel(), "BrightnessModel", {}, input={**trained, "padding_mode": mode})
        (made,) = load(checkpoint, image_size=size, device="cpu").predict([folder / "a.png"])
        assert np.array_equal(made.probability > 0.5, made.image[..., 0] > 127)


def test_an_image_too_large_for_a_model_of_one_size_is_refused(checkpoint, folder, monkeypatch):
    monkeypatch.delattr(BrightnessModel, "size_multiple")
    save_checkpoint(checkpoint, BrightnessModel(), "BrightnessModel", {}, input={"image_size": 64, "if_padding": True})
    (refused,) = load(checkpoint, device="cpu").predict([folder / "a.png"])
    assert "has 90x60 pixels, the model takes 64 at most" in refused.reason


def test_checkpoint_of_another_model(checkpoint):
    with pytest.raises(DiffIMLError, match="BrightnessModel"):
        load(checkpoint, device="cpu", model="DiffIML")


def test_same_mask_as_benco_test(tmp_path):
    """The probabilities of an image equal those of the test loader, also when others are tested beside it."""
    pytest.importorskip("diffiml_plugin.weights.lightvae")
    from diffiml_plugin.data.lists import NEGATIVE, ImageList
    from diffiml_plugin.data.pairs import make_test_set
    from diffiml_plugin.models.inputs import InputSettings
    from diffiml_plugin.models.registry import DIFFIML

    flags = {"encoder": "segformer_b0", "num_inference_steps": 2, "ensemble_size": 2}
    torch.manual_seed(0)
    model = DIFFIML.build(flags).eval()
    weights = tmp_path / "weights.safetensors"
    save_checkpoint(weights, model, "DiffIML", flags, input={"image_size": 64})
    files = []
    for number in range(2):
        files.append(tmp_path / f"{number}.png")
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(files[-1])

    listed = ImageList("", tuple(map(str, files)), (NEGATIVE,) * 2)
    dataset = make_test_set(listed, InputSettings(64), DIFFIML)
    with torch.no_grad():
        tested = model(**torch.utils.data.default_collate([dataset[0], dataset[1]]))["pred_mask"]
    for expected, result in zip(tested, load(weights, device="cpu").predict(files), strict=True):
        assert np.abs(result.probability - expected[0].numpy()).max() < 1e-5
        assert 0 < result.uncertainty.max() <= 0.5


def test_the_small_model_travels_with_the_package_and_says_what_it_is(tmp_path):
    path = RELEASED["small"]
    metadata = read_metadata(path)
    assert path.stat().st_size <= 16e6 and metadata["model"] == "DiffIML"
    assert metadata["data"] and metadata["limits"] and 0 < metadata["figures"]["pixel-level F1"] < 1
    noise = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.jpg")
    flags = {"num_inference_steps": 1, "ensemble_size": 2}
    detector = load("small", image_size=96, device="cpu", **flags)
    assert not predict(detector, [str(tmp_path / "photo.jpg")], tmp_path / "out")
    assert np.array(Image.open(tmp_path / "out" / "photo_uncertainty.png")).shape == (70, 90)


@pytest.mark.slow
def test_the_small_model_reaches_the_figures_of_its_card(bsds, tmp_path):
    figures = read_metadata(RELEASED["small"])["figures"]
    found = testing.test(
        TestSettings(
            checkpoint_path="small",
            test_data_path=str(bsds / "val" / "list.json"),
            output_dir=str(tmp_path),
            device="cpu",
            num_workers=0,
        )
    )["datasets"]["val"]
    for figure in ("pixel-level F1", "pixel-level AUC", "false_alarm_area"):
        assert found[figure] == pytest.approx(figures[figure], abs=0.01)


def test_each_file_is_decoded_once(checkpoint, folder, tmp_path, monkeypatch):
    opened, open_image = [], Image.open
    monkeypatch.setattr(Image, "open", lambda file, *args: opened.append(str(file)) or open_image(file, *args))
    predict(load(checkpoint, device="cpu"), [str(folder)], tmp_path / "out")
    assert sorted(opened) == sorted(str(file) for file in folder.rglob("*.*"))
