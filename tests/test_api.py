import os
import re
import subprocess
import sys

import numpy as np
import psutil
import pytest
import torch

import diffiml_plugin
from diffiml_plugin import Detector, DiffIMLError, load, load_model
from diffiml_plugin.models.checkpoints import RELEASED
from diffiml_plugin.settings import CommonSettings

SMALL = {"device": "cpu", "ensemble_size": 2, "num_inference_steps": 1, "tta": False}
IMAGE = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def photo():
    return np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model():
    return load_model("small")


def test_a_detector_of_the_model_that_travels_with_the_package(photo, tmp_path):
    detector = load("small", **SMALL)
    result = detector(photo)
    assert result.probability.shape == result.mask.shape == result.uncertainty.shape == (70, 90)
    assert result.probability.dtype == np.float32 and 0 <= result.score <= 1
    assert 0 < result.uncertainty.max() <= 0.5
    assert detector.model.diffiml.config.ensemble_size == 2
    result.save(tmp_path)
    assert len(list(tmp_path.glob("[!.]*"))) == 4  # beside the ledger


@pytest.mark.parametrize(
    ("change", "back", "told"),
    [
        (torch.set_default_dtype, (torch.float64, torch.float32), "new tensors are torch.float64 on cpu"),
        (torch.set_default_device, ("meta", None), "new tensors are torch.float32 on meta"),
    ],
)
def test_torchs_defaults_of_another_program_are_refused(photo, model, change, back, told):
    """Float64 would draw other noise and build another network, under the same settings."""
    detector = load("small", **SMALL)
    change(back[0])
    try:
        for use in (lambda: load("small", **SMALL), lambda: detector(photo), lambda: load_model("small"), model):
            with pytest.raises(DiffIMLError, match=told):
                use(IMAGE) if use is model else use()
    finally:
        change(back[1])
    assert detector(photo).score > 0


def test_max_memory_cuts_a_photo_that_goes_whole_without():
    photo = np.zeros((1200, 1200, 3), np.uint8)
    used = psutil.Process().memory_info().rss / 1e9
    assert load("small", **SMALL).read(photo).prepared
    assert not load("small", max_memory=used + 0.3, **SMALL).read(photo).prepared


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"name_or_path": "smal"}, "smal does not exist"),
        ({"ensemble_sise": 3}, "no argument ensemble_sise; did you mean 'ensemble_size'"),
        ({"ensemble_size": 0}, "ensemble_size=0 is outside"),
        ({"device": "gpu"}, "device gpu is not one of auto, cuda, cpu; did you mean 'cpu'"),
        ({"image_size": 33}, "image_size 33 is not a multiple of 32, which DiffIML needs; try 32"),
        ({"image_size": -1}, "image_size -1 must be a positive number"),
        ({"threshold": 2.0}, r"threshold 2.0 is outside \[0, 1\]"),
        ({"max_memory": 0}, "max_memory 0 is not above 0; it is in GB"),
        ({"precision": "fp64"}, "precision fp64 is not one of"),
        ({"model": "MVSSNet"}, "holds a DiffIML, not a MVSSNet; leave model out"),
        ({"encoder": "resnet50"}, "was trained with encoder tf_efficientnet_lite0.*leave the argument out"),
        ({"name_or_path": None}, r"load: name_or_path is None; expected str \| os.PathLike"),
        ({"image_size": "64"}, r"load: image_size is '64'; expected int \| None"),
        ({"image_size": 64.0}, r"load: image_size is 64.0; expected int \| None"),
        ({"threshold": "0.5"}, r"load: threshold is '0.5'; expected float \| None"),
        ({"threshold": True}, "load: threshold is True; expected float"),
        ({"threshold": float("nan")}, r"load: threshold is nan; expected float \| None, within ±2\^63"),
        ({"max_memory": "2"}, "load: max_memory is '2'; expected float"),
        ({"compile": 1}, "load: compile is 1; expected str"),
        ({"precision": None}, "load: precision is None; expected str"),
        ({"tta": 2}, r"DiffIML: tta is 2; expected bool \| None"),
        ({"tta": "yes"}, "DiffIML: tta is 'yes'; expected bool"),
        ({"ensemble_size": "2"}, r"DiffIML: ensemble_size is '2'; expected int \| None"),
        ({"ensemble_size": True}, "DiffIML: ensemble_size is True; expected int"),
        ({"num_inference_steps": 2.5}, "DiffIML: num_inference_steps is 2.5; expected int"),
        ({"noise_seed": 1.5}, "DiffIML: noise_seed is 1.5; expected int"),
        ({"mask_bias": True}, r"DiffIML: mask_bias is True; expected float \| None"),
    ],
)
def test_wrong_arguments_are_refused_in_the_words_of_python(arguments, told):
    with pytest.raises(DiffIMLError, match=told) as refused:
        load(**{"name_or_path": "small", "device": "cpu", **arguments})
    assert "--" not in str(refused.value) and "\n" not in str(refused.value)


def test_a_detector_made_by_hand_checks_its_types_too():
    with pytest.raises(DiffIMLError, match="Detector: threshold is '0.5'; expected float"):
        Detector("small", CommonSettings(device="cpu"), threshold="0.5")


def test_whole_numbers_and_paths_serve_for_fractions_and_names():
    path = RELEASED["small"]
    assert load(path, threshold=1, mask_bias=0, max_memory=4, **SMALL).threshold == 1


def test_numbers_of_numpys_serve_for_pythons(tmp_path):
    """As a loop over `np.arange` gives them; what is saved has them too."""
    chosen = {"ensemble_size": np.int64(3), "image_size": np.int32(96), "tta": np.bool_(True)}
    settings = {"device": "cpu", "num_inference_steps": np.int64(1), "threshold": np.float32(0.25), **chosen}
    saved = load(load("small", **settings).save_pretrained(tmp_path / "saved"), device="cpu")
    values = {name: saved.description["settings"][name] for name in (*chosen, "num_inference_steps", "threshold")}
    assert values == {"ensemble_size": 3, "image_size": 96, "tta": True, "num_inference_steps": 1, "threshold": 0.25}


def test_a_model_takes_normalised_tensors(model):
    output = model(image=IMAGE, noise_key=["a", "b"])
    assert output["pred_mask"].shape == (2, 1, 64, 96) and output["pred_label"].shape == (2,)
    assert torch.equal(model(IMAGE, noise_key=["a", "b"])["pred_mask"], output["pred_mask"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_computed_in_the_weights_own(model, dtype):
    image = IMAGE.to(dtype)
    mask = model(image=image, noise_key=["a", "b"])["pred_mask"]
    assert mask.dtype == torch.float32
    assert torch.equal(mask, model(image=image.float(), noise_key=["a", "b"])["pred_mask"])


RAW = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (RAW, "image holds torch.float32 from .* to .*, which is not normalised"),
        (255 * RAW, "which is not normalised"),
        ((255 * RAW).byte(), "image holds torch.uint8 from 0 to 25., which is not normalised"),
        (RAW.half(), "which is not normalised"),
        (torch.full((1, 3, 64, 64), float("nan")), "image holds torch.float32 from nan to nan"),
        (IMAGE / torch.zeros(1), "image holds torch.float32 from -inf to inf"),
        (np.zeros((64, 64, 3), np.uint8), "image is a ndarray; this model takes tensors .*diffiml_plugin.load"),
        ("photo.jpg", "image is a str"),
        (IMAGE[0], r"image has shape \(3, 64, 96\); expected \[B, 3, H, W\]"),
        (IMAGE[:0], r"image has shape \(0, 3, 64, 96\)"),
        (IMAGE[:, :, :50], r"image sides \(50, 96\) are not multiples of 32"),
    ],
)
def test_anything_else_is_refused(model, image, told):
    for call in (lambda: model(image), lambda: model(image=image)):
        with pytest.raises(DiffIMLError, match=told):
            call()


@pytest.mark.parametrize("shape", [(1,), (1, 1, 1, 5, 8, 8, 12), (2, 1, 1, 5, 8, 8, 8)])
def test_noise_of_another_shape_is_refused(model, shape):
    config = model.diffiml.config
    expected = (2, 1 + config.tta, 1, config.ensemble_size, config.joint_channels, 8, 12)
    said = re.escape(f"noise has shape {shape}; expected {expected}")
    with pytest.raises(DiffIMLError, match=said):
        model(image=IMAGE, noise=torch.zeros(shape))
    mask = model(image=IMAGE, noise=model.diffiml.draw_noise(["a", "b"], (64, 96)))["pred_mask"]
    assert torch.equal(mask, model(image=IMAGE, noise_key=["a", "b"])["pred_mask"])


def test_bright_dark_and_uniform_photos_are_not_taken_for_unnormalised(model):
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for photo in (0.7 + 0.3 * RAW, 0.2 * RAW, torch.zeros(1, 3, 64, 64), torch.ones(1, 3, 64, 64)):
        model(image=(photo - mean) / std)
    model(image=torch.zeros(1, 3, 64, 64))


def test_weights_that_were_cast_are_refused():
    with pytest.raises(DiffIMLError, match="weights were cast to torch.float16; keep them in float32"):
        load_model("small").half()(image=IMAGE.half())


def test_the_package_is_imported_without_anything_heavy():
    code = "import sys; before = set(sys.modules); import diffiml_plugin; print(sorted(set(sys.modules) - before))"
    command, own = [sys.executable, "-S", "-c", code], {**os.environ, "PYTHONPATH": _ROOT}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=own)
    assert done.stdout.strip() == "['diffiml_plugin']"


_ROOT = diffiml_plugin.__path__[0] + "/.."


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        diffiml_plugin.lod  # noqa: B018


@pytest.mark.slow
def test_type_checkers_know_what_a_detector_gives(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "user.py").write_text(
        "import numpy as np\n"
        "from PIL import Image\n"
        "from diffiml_plugin import Detector, Result, load\n"
        "detector: Detector = load('small', ensemble_size=1)\n"
        "result: Result = detector('photo.jpg')\n"
        "several: list[Result] = detector(['a.jpg', Image.new('RGB', (8, 8))])\n"
        "score: float | None = detector(np.zeros((8, 8, 3), np.uint8)).score\n"
        "wrong: str = result.mask\n"
    )
    words = ["--strict", "--follow-imports=silent", "--ignore-missing-imports", str(tmp_path / "user.py")]
    done = subprocess.run([sys.executable, "-m", "mypy", *words], capture_output=True, text=True, cwd=_ROOT)
    assert "Found 1 error" in done.stdout and "user.py:8" in done.stdout, done.stdout
