import pickle
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from torch import nn

from diffiml_plugin.api import load
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.evaluation.calibration import Calibration, Rates
from diffiml_plugin.framework.adapters import method_of
from diffiml_plugin.framework.imdlbenco import MODELS, POSTFUNCS
from diffiml_plugin.models.checkpoints import save_checkpoint
from diffiml_plugin.prediction import memory, photograph
from diffiml_plugin.prediction.detector import Detector, Failure
from diffiml_plugin.settings import CommonSettings
from diffiml_plugin.weights.files import load_weights, save_weights

CPU = CommonSettings(device="cpu")


@pytest.fixture
def detector(tiny_model, stored):
    return Detector(stored(), CPU)


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_files_images_and_arrays_are_photos_alike(detector, photo):
    results = detector([photo, str(photo), Image.open(photo), np.array(Image.open(photo))])
    for result in results:
        assert np.array_equal(result.image, results[0].image)
        assert np.array_equal(result.probability, results[0].probability)
    assert [result.name for result in results[:2]] == ["photo.png"] * 2
    assert results[2].name == results[3].name != detector(results[0].image[::-1]).name


def test_a_photo_that_another_takes_the_place_of_has_the_digest_of_what_is_decoded(detector, photo, swapped):
    pictures = swapped(photo)
    found = detector.read(photo)
    assert np.array_equal(found.image, pictures[found.digest])


def test_an_array_that_is_filled_with_the_next_picture_changes_no_result(detector, photo):
    frame = np.array(Image.open(photo))
    result, seen = detector(frame), frame.copy()
    frame[:] = 0
    assert np.array_equal(result.image, seen) and detector(seen).name == result.name


def test_threads_that_share_a_detector_take_turns(detector, photo, monkeypatch):
    """One thread's end would put the model back into training mode under another."""
    forward, modes, inside = detector.model.forward, [], []

    def slow(*args, **kwargs):
        inside.append(1)
        time.sleep(0.05)
        modes.append((detector.model.training, len(inside)))
        inside.pop()
        return forward(*args, **kwargs)

    monkeypatch.setattr(detector.model, "forward", slow)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(detector, [photo] * 6))
    assert modes == [(False, 1)] * 6 and len({result.score for result in found}) == 1


def test_one_photo_gives_one_result_and_a_list_a_list(detector, photo):
    assert detector(photo).probability.shape == (30, 50)
    assert [result.name for result in detector((photo,))] == ["photo.png"] and detector([]) == []


def test_grey_transparent_and_deep_images_are_read_as_their_files_are(detector, tmp_path):
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16)
    images = {
        "grey.png": Image.fromarray(grey.astype(np.uint8)),
        "alpha.png": Image.fromarray(np.dstack([grey.astype(np.uint8)] * 4)),
        "deep.png": Image.fromarray(grey * 257),
    }
    for name, image in images.items():
        image.save(tmp_path / name)
        stored, opened = detector(tmp_path / name), detector(image)
        assert np.array_equal(stored.image, opened.image) and stored.image.shape == (16, 16, 3)
    with pytest.raises(DiffIMLError, match="the image holds floating-point pixels; convert it"):
        detector(Image.fromarray(grey.astype(np.float32)))


def test_what_is_no_image_is_refused_before_its_bytes_are_read(detector, tmp_path, monkeypatch):
    (tmp_path / "large.jpg").write_bytes(bytes(99))
    monkeypatch.setattr(photograph, "read_content", lambda path: pytest.fail("the bytes were read"))
    with pytest.raises(DiffIMLError, match="large.jpg cannot be read as an image"):
        detector(tmp_path / "large.jpg")


def test_an_image_that_is_not_decoded_yet_is_read_as_its_file_is_and_stays_so(detector, photo, tmp_path):
    pixels = np.array(Image.open(photo))
    Image.fromarray(pixels).save(tmp_path / "side.tif", tiffinfo={0x0112: 6})
    with Image.open(tmp_path / "side.tif") as image:
        for result in detector([image, image]):
            assert np.array_equal(result.image, pixels) and result.orientation == 6
    cv2.imwrite(str(tmp_path / "low.png"), pixels.astype(np.uint16))
    with Image.open(tmp_path / "low.png") as image:
        for _ in range(2):
            with pytest.raises(DiffIMLError, match="the image holds no level above 255 of 65535; scale its levels"):
                detector(image)


@pytest.mark.parametrize(
    ("photo", "told"),
    [
        (3, r"a photo is a path, a PIL image or an array \[H, W, 3\] of uint8, not a int"),
        (None, "not a NoneType"),
        (np.zeros((8, 8, 3)), "the photo is an array of float64 and shape"),
        (np.zeros((8, 8), np.uint8), r"shape \(8, 8\); expected uint8 and \(height, width, 3\)"),
        ("gone.jpg", "gone.jpg cannot be read as an image"),
        ("https://example.com/a.jpg", "https://example.com/a.jpg is an address; download the photo"),
        (Path("https://example.com/a.jpg"), "a.jpg is an address; download the photo"),
    ],
)
def test_anything_else_is_refused_in_one_sentence(detector, photo, told):
    for given in (photo, [photo]):
        with pytest.raises(DiffIMLError, match=told) as refused:
            detector(given)
        assert "\n" not in str(refused.value) and "--" not in str(refused.value)


def test_a_file_that_fails_does_not_end_a_run(detector, photo, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    broken, fine = detector.predict([tmp_path / "broken.jpg", photo])
    assert isinstance(broken, Failure) and "broken.jpg cannot be read" in broken.reason
    assert fine.name == "photo.png"


def test_the_threshold_is_the_callers_then_the_checkpoints_then_one_half(tiny_model, stored, restore):
    path = stored()
    assert Detector(path, CPU).threshold == 0.5
    model, flags = restore(path).model, restore(path).flags
    save_checkpoint(path, model, "TinyIML", flags, input={"image_size": 64}, threshold=0.0)
    assert Detector(path, CPU).threshold == 0.0
    assert Detector(path, CPU, threshold=0.7).threshold == 0.7
    saved = Detector(path, CPU, threshold=0.7).save_pretrained(path.parent / "saved")
    with pytest.raises(DiffIMLError, match="was made with other threshold"):
        Detector(path, CPU, threshold=0.2).save_pretrained(saved)
    assert Detector(saved, CPU).threshold == 0.7


@pytest.mark.parametrize("field", ["data", "licence", "limits", "figures", "left_out", "calibrated_on", "provenance"])
def test_a_saved_models_statements_are_not_replaced(tiny_model, stored, tmp_path, field):
    """Whatever else the file says is compared too: these are what its card tells, and who made it."""
    path, saved = stored(), tmp_path / "saved"
    weights, metadata = load_weights(path)

    def detector(number):
        said = {
            "figures": {"set": {"F1": [number, 0.0, 1.0]}},
            "left_out": {"set": number},
            "calibrated_on": [str(number)],
            "provenance": {"steps": number},
        }
        save_weights(path, weights, {**metadata, field: said.get(field, str(number))})
        return Detector(path, CPU)

    detector(0).save_pretrained(saved)
    detector(0).save_pretrained(saved)
    before = {file.name: file.read_bytes() for file in saved.iterdir()}
    with pytest.raises(DiffIMLError, match=f"model.safetensors .* {field}.* is not overwritten"):
        detector(1).save_pretrained(saved)
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before


def test_a_card_of_another_name_is_not_replaced(tiny_model, stored, tmp_path):
    Detector(stored(), CPU).save_pretrained(tmp_path / "saved", name="One")
    with pytest.raises(DiffIMLError, match="was made with other name and is not overwritten"):
        Detector(stored(), CPU).save_pretrained(tmp_path / "saved", name="Two")
    assert "# One" in (tmp_path / "saved" / "README.md").read_text()


def test_of_several_pages_the_answer_says_that_it_is_of_the_first(tiny_model, stored, tmp_path):
    page, detector = Image.new("RGB", (64, 48)), Detector(stored(), CPU)
    for name, more in (("scan.tif", [page]), ("photo.tif", [])):
        page.save(tmp_path / name, save_all=True, append_images=more)
    assert "scan.tif (the first of its pictures): uncalibrated" in detector(tmp_path / "scan.tif").sentence
    assert "photo.tif: uncalibrated" in detector(tmp_path / "photo.tif").sentence


@pytest.mark.parametrize("way", [pickle.dumps, deepcopy])
def test_it_is_neither_pickled_nor_copied_and_says_what_to_do(tiny_model, stored, way):
    with pytest.raises(DiffIMLError, match="load it anew in each process, or take the network alone, by load_model"):
        way(Detector(stored(), CPU))


def test_a_network_that_was_changed_is_not_told_as_its_files(tiny_model, stored, photo, tmp_path):
    detector = Detector(stored(), CPU)
    with torch.no_grad():
        next(detector.model.parameters()).mul_(2)
    for told in (lambda: detector(photo), lambda: detector.save_pretrained(tmp_path / "saved")):
        with pytest.raises(DiffIMLError, match="the network of this detector was changed"):
            told()
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("name", ["latent_std", "running_mean", "alphas_cumprod"])  # the last is in no file
def test_nor_is_one_whose_buffers_were_changed(sampler, photo, name):
    assert sampler([photo, photo])  # a pass writes none
    next(buffer for place, buffer in sampler.model.named_buffers() if place.endswith(name)).mul_(3)
    with pytest.raises(DiffIMLError, match="the network of this detector was changed"):
        sampler(photo)


def _settings(detector, other):
    method = method_of(detector.model)
    method.config = replace(method.config, mask_bias=1.0)


@pytest.mark.parametrize(
    "exchange",
    [
        lambda detector, other: setattr(detector, "model", other),
        lambda detector, other: setattr(detector.model, "diffiml", other.diffiml),
        lambda detector, other: detector.model.load_state_dict(other.state_dict(), assign=True),
        lambda detector, other: setattr(next(detector.model.parameters()), "data", next(other.parameters()).data),
        _settings,
    ],
)
def test_nor_is_one_that_was_exchanged(sampler, photo, exchange):
    exchange(sampler, deepcopy(sampler.model))
    with pytest.raises(DiffIMLError, match="the network of this detector was changed"):
        sampler(photo)


def test_what_a_pass_itself_writes_is_put_back(tiny_model, stored, photo, monkeypatch):
    """As MVSSNet, which normalises its filters in each."""
    tiny = MODELS.module_dict["TinyIML"]
    forward = tiny.forward

    def writing(self, image, *args, **inputs):
        self.layers[0].weight.data = self.layers[0].weight.data * 2
        self.layers[0].bias.add_(1)
        return forward(self, image, *args, **inputs)

    monkeypatch.setattr(tiny, "forward", writing)
    detector = Detector(stored(), CPU)
    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(detector, [photo] * 8)
    assert all(np.array_equal(first.probability, other.probability) for other in others)
    detector.model.layers[0].weight.data = detector.model.layers[0].weight.data * 2
    with pytest.raises(DiffIMLError, match="the network of this detector was changed"):
        detector(photo)


def test_a_size_that_a_model_of_the_zoo_cannot_take_is_said(tiny_model, stored, photo, monkeypatch):
    def refusing(self, image, *args, **inputs):
        raise RuntimeError("The size of tensor a (72) must match the size of tensor b (392)")

    monkeypatch.setattr(MODELS.module_dict["TinyIML"], "forward", refusing)
    with pytest.raises(DiffIMLError, match="TinyIML cannot take 1 images of .* pixels.* choose the size"):
        Detector(stored(), CPU)(photo)


def test_what_is_saved_is_compared_with_the_file(tiny_model, stored, tmp_path):
    """torch does not count what is written through `data`."""
    detector = Detector(stored(), CPU)
    next(detector.model.parameters()).data.mul_(2)
    with pytest.raises(DiffIMLError, match="the network of this detector was changed"):
        detector.save_pretrained(tmp_path / "saved")
    with pytest.raises(AttributeError):
        detector.threshold = 0.9


def test_a_detector_may_be_made_in_inference_mode(tiny_model, stored, photo):
    with torch.inference_mode():
        detector = Detector(stored(), CPU)
    assert detector(photo).name == "photo.png"


CALIBRATION = Calibration(Rates(0.05, 0.1, 0.04, 0.5), (0.0,) * 6, 3.5, 0.9, 0.2, 40, 60)


def test_a_calibration_holds_for_the_settings_that_it_was_made_with(tiny_model, stored, photo, caplog, restore):
    path = stored()
    model, flags = restore(path).model, restore(path).flags
    facts = {"input": {"image_size": 64}, "calibration": asdict(CALIBRATION)}
    save_checkpoint(path, model, "TinyIML", flags, **facts)
    result = Detector(path, CPU, threshold=0.1)(photo)
    assert result.calibration == CALIBRATION and result.sentence.startswith("photo.png: tampered (0.97)")
    assert Detector(path, CommonSettings(device="cpu", image_size=64)).calibration and not caplog.messages
    assert Detector(path, CommonSettings(device="cpu", image_size=32))(photo).verdict == "uncalibrated"
    assert "calibrated with another image_size" in caplog.text
    save_checkpoint(path, model, "TinyIML", flags, **{**facts, "calibration": {"intercept": 1}})
    assert Detector(path, CPU).calibration is None and "run `benco calibrate`" in caplog.text


@pytest.mark.parametrize("option", [{"precision": "fp8"}, {"compile_mode": "maybe"}, {"threshold": 1.5}])
def test_values_that_no_setting_has_are_refused(tiny_model, stored, option):
    with pytest.raises(DiffIMLError, match=str(*option.values())):
        Detector(stored(), CPU, **option)


def test_checkpoint_of_another_model(checkpoint):
    with pytest.raises(DiffIMLError, match="BrightnessModel"):
        load(checkpoint, device="cpu", model="DiffIML")


def test_a_size_that_changes_nothing_is_said(checkpoint, caplog, brightness_model):
    caplog.set_level("INFO")
    load(checkpoint, image_size=32, device="cpu")
    assert not caplog.messages
    assert load(checkpoint, max_memory=0.1, device="cpu").memory.limit is None
    assert "max_memory 0.1 is not used: this model sees photos of any size at one" in caplog.text
    save_checkpoint(
        checkpoint,
        brightness_model(),
        "BrightnessModel",
        {"gain": 1.0},
        input={"image_size": 64, "if_padding": True, "padding_mode": "reflect"},
    )
    load(checkpoint, image_size=32, device="cpu")
    assert "the image size is not used" in caplog.text


def test_padded_model_keeps_pixels_in_place_in_larger_images_too(checkpoint, folder, brightness_model):
    trained = {"image_size": 96, "if_padding": True}
    for mode, size in (("constant", None), ("constant", 64), ("reflect", None)):  # of 90x60 pixels
        save_checkpoint(checkpoint, brightness_model(), "BrightnessModel", {}, input={**trained, "padding_mode": mode})
        made = load(checkpoint, image_size=size, device="cpu")(folder / "a.png")
        assert np.array_equal(made.probability > 0.5, made.image[..., 0] > 127)


def test_an_image_too_large_for_a_model_of_one_size_is_refused(checkpoint, folder, monkeypatch, brightness_model):
    monkeypatch.delattr(brightness_model, "size_multiple")
    save_checkpoint(checkpoint, brightness_model(), "BrightnessModel", {}, input={"image_size": 64, "if_padding": True})
    with pytest.raises(DiffIMLError, match="has 90x60 pixels, the model takes 64 at most"):
        load(checkpoint, device="cpu")(folder / "a.png")


def test_same_mask_as_benco_test(tmp_path):
    """The probabilities of an image equal those of the test loader, also when others are tested beside it."""
    pytest.importorskip("diffiml_plugin.weights.lightvae")
    from diffiml_plugin.data.lists import NEGATIVE, ImageList
    from diffiml_plugin.data.packed import unpack
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
        batch = unpack(torch.utils.data.default_collate([dataset[0], dataset[1]]), torch.device("cpu"))
        tested = model(**batch)["pred_mask"]
    for expected, result in zip(tested, load(weights, device="cpu")(files), strict=True):
        assert np.abs(result.probability - expected[0].numpy()).max() < 1e-5
        assert 0 < result.uncertainty.max() <= 0.5


class WantsPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 1, 1)

    def forward(self, image, mask, label, place, *args, **kwargs):
        assert not mask.any() and not label.any() and place == ["here"]
        return {"pred_mask": self.layer(image).sigmoid()}


def test_a_model_of_the_registry_gets_what_its_post_function_makes(monkeypatch, tmp_path, photo):
    monkeypatch.setitem(MODELS.module_dict, "WantsPlace", WantsPlace)
    save_checkpoint(tmp_path / "x.safetensors", WantsPlace(), "WantsPlace", {}, input={"image_size": 64})
    with pytest.raises(DiffIMLError, match="WantsPlace needs place, which the data do not give"):
        Detector(tmp_path / "x.safetensors", CPU)(photo)
    monkeypatch.setitem(POSTFUNCS.module_dict, "wantsplace_post_func", lambda sample: sample.update(place="here"))
    result = Detector(tmp_path / "x.safetensors", CPU)(photo)
    assert result.uncertainty is None and result.score is None and result.probability.shape == (30, 50)


@pytest.fixture
def sampler(stored):
    """A detector that samples, from noise."""
    return Detector(stored("DiffIML", encoder="resnet10t", num_inference_steps=2, ensemble_size=2), CPU)


def test_the_evidence_decides_and_not_its_name(sampler, photo, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    copy = shutil.copy(photo, tmp_path / "elsewhere" / "renamed.png")
    touched = tmp_path / "touched.png"
    touched.write_bytes(photo.read_bytes() + b"one more byte")  # the same pixels
    first, *others = sampler([photo, copy, touched, Image.open(photo), np.array(Image.open(photo))])
    assert np.array_equal(first.probability, others[0].probability)
    assert np.array_equal(first.uncertainty, others[0].uncertainty)
    assert not np.array_equal(first.probability, others[1].probability)
    assert np.array_equal(others[2].probability, others[3].probability)


NATIVE = {"image_size": 64, "if_padding": True}


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_tiles_of_a_model_that_sees_single_pixels_give_the_whole_photos_answer(tmp_path, monkeypatch, mode):
    monkeypatch.setitem(MODELS.module_dict, "Pointwise", Pointwise)
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, Pointwise(), "Pointwise", {}, input={**NATIVE, "padding_mode": mode})
    detector = Detector(path, CPU)
    image = np.random.default_rng(0).integers(0, 256, (600, 1100, 3), dtype=np.uint8)
    photograph = detector.read(image)
    whole, tiled = detector._maps(photograph, None), detector._maps(photograph, 512)
    np.testing.assert_allclose(tiled.probability, whole.probability, atol=1e-6)
    np.testing.assert_allclose(tiled.uncertainty, whole.uncertainty, atol=1e-6)
    assert tiled.score == pytest.approx(whole.score)


@pytest.mark.parametrize("tta", [False, True])
def test_one_tile_is_the_whole(stored, tta, restore):
    path = stored("DiffIML", encoder="resnet10t", num_inference_steps=2, ensemble_size=2, tta=tta)
    model, flags = restore(path).model, restore(path).flags
    save_checkpoint(path, model, "DiffIML", flags, input={**NATIVE, "padding_mode": "reflect"})
    detector = Detector(path, CPU)
    photograph = detector.read(np.random.default_rng(0).integers(0, 256, (100, 130, 3), dtype=np.uint8))
    whole, tiled = detector._maps(photograph, None), detector._maps(photograph, 512)
    np.testing.assert_allclose(tiled.probability, whole.probability, atol=1e-6)


class Pointwise(nn.Module):
    size_multiple = 32

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, image, *args, **kwargs):
        mask = (self.gain * image.mean(1, keepdim=True)).sigmoid()
        return {"pred_mask": mask, "pred_label": mask.amax((1, 2, 3)), "uncertainty": mask / 2}


@pytest.fixture
def pointwise(tmp_path, monkeypatch):
    """Makes a detector of photos at their own size."""
    monkeypatch.setitem(MODELS.module_dict, "Pointwise", Pointwise)
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, Pointwise(), "Pointwise", {}, input={**NATIVE, "padding_mode": "reflect"})
    return lambda **options: Detector(path, CPU, **options)


def test_a_large_photo_goes_in_tiles_and_says_what_it_takes(pointwise, monkeypatch, caplog):
    monkeypatch.setattr("diffiml_plugin.prediction.memory.WHOLE", 600 * 600)
    monkeypatch.setattr("diffiml_plugin.models.tiles.SIDE", 512)
    caplog.set_level("INFO")
    detector = pointwise()
    large, small = (np.zeros((side, 700, 3), np.uint8) for side in (900, 400))
    assert detector.read(small).prepared and not detector.read(large).prepared
    assert detector(large).probability.shape == (900, 700)
    detector(large)
    (said,) = [line for line in caplog.messages if "megapixels" in line]
    assert "0.6 megapixels: tiles of 512x512, about" in said and "GB, about" in said


def test_max_memory_decides_the_tiles(pointwise):
    free = psutil.Process().memory_info().rss / 1e9
    roomy, tight = pointwise(max_memory=free + 8), pointwise(max_memory=free + 0.3)
    image = np.zeros((2000, 2500, 3), np.uint8)  # of 5 megapixels
    assert roomy.read(image).prepared and not tight.read(image).prepared
    assert 512 <= tight.memory.side(image, "x") < 2000
    with pytest.raises(
        DiffIMLError,
        match=r"x has 5.0 megapixels and takes .* GB at the least, of 0.1 that it may; .* raise --max_memory",
    ):
        pointwise(max_memory=0.1).memory.side(image, "x")
    with pytest.raises(DiffIMLError, match="--max_memory 0 is not above 0"):
        pointwise(max_memory=0)


def test_without_a_limit_what_the_computer_has_bounds_a_photo(pointwise, photo, monkeypatch):
    image = np.zeros((3000, 3000, 3), np.uint8)
    assert pointwise().memory.side(image, "x") == 1536
    monkeypatch.setattr(memory, "host_memory", lambda: 1e9)
    detector = pointwise()
    assert detector.memory.computer.most == 0.9e9
    for own, side in ((2e9, 1536), (0.25e9, 1024), (0.185e9, None)):  # 0.18 GB of which are beside the tiles
        detector.memory.own = detector.memory.computer = replace(detector.memory.computer, taken=0, most=own)
        if side:
            assert detector.memory.side(image, "x") <= side
        else:
            with pytest.raises(DiffIMLError, match="x has 9.0 megapixels and takes 0.2 GB at the least, of 0.2 that"):
                detector.memory.side(image, "x")
    detector.memory.computer = replace(detector.memory.computer, most=20 * 30 * 50 - 1)
    monkeypatch.setattr("diffiml_plugin.prediction.photograph.read_image", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(DiffIMLError, match="photo.png has 0.0 megapixels and takes .* GB at the least"):
        detector(photo)


def test_where_the_memory_is_too_small_tiles_are_halved_and_it_is_said(pointwise, caplog):
    detector, tried = pointwise(), []
    predicted = detector._predicted

    def crowded(name, batch, geometry):
        tried.append(tuple(batch["image"].shape[2:]))
        if max(tried[-1]) > 1024:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return predicted(name, batch, geometry)

    detector._predicted = crowded
    assert detector(np.zeros((600, 2100, 3), np.uint8)).probability.shape == (600, 2100)
    assert tried[0] == (608, 2112) and set(tried[1:]) == {(608, 1024)}
    assert "the memory is full; the photo is cut into tiles of 1024x1024" in caplog.text
    detector._predicted = lambda *_: (_ for _ in ()).throw(RuntimeError("can't allocate memory: 8 bytes"))
    with pytest.raises(DiffIMLError, match="the memory is full with the smallest tile"):
        detector(np.zeros((600, 600, 3), np.uint8))
