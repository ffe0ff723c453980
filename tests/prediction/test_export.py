import json
import re
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.files import file_digest
from diffiml_plugin.framework.adapters import method_of
from diffiml_plugin.ledger import LEDGER
from diffiml_plugin.method.config import DiffIMLConfig
from diffiml_plugin.models.checkpoints import save_checkpoint
from diffiml_plugin.models.inputs import Inputs, InputSettings
from diffiml_plugin.models.opened import open_model
from diffiml_plugin.prediction import export as exporting
from diffiml_plugin.prediction import numpy_sampler
from diffiml_plugin.settings import CommonSettings

CPU = CommonSettings(device="cpu")
SAME = "tf_mobilenetv3_small_minimal_100"  # an encoder whose padding depends on the image's size
SETTINGS = {"encoder": SAME, "denoiser": "light", "num_inference_steps": 2, "ensemble_size": 3}
SIZES = ((64, 96), (160, 128))  # not the one that graphs are traced at


@pytest.fixture
def random_image():
    return lambda size: torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(3))


def graphs_of(diffiml):
    """The parts as functions of arrays, without a graph."""

    def run(part):
        return lambda *arrays: [tensor.numpy() for tensor in part.module(*map(torch.from_numpy, arrays))]

    with torch.no_grad():
        parts = exporting._parts(diffiml.requires_grad_(False))
    return {name: run(part) for name, part in zip(exporting._NAMES, parts, strict=True)}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Of random weights, whose predictions vary."""
    from diffiml_plugin.models.registry import find_model

    torch.manual_seed(1)
    card = find_model("DiffIML")
    flags = card.resolve(SETTINGS)
    path = tmp_path_factory.mktemp("weights") / "x.safetensors"
    facts = {"input": {"if_padding": True, "padding_mode": "reflect"}, "threshold": 0.4, "licence": "for\nnobody <b>"}
    save_checkpoint(path, card.build(flags), card.name, flags, **facts)
    return path


@pytest.fixture(scope="module")
def opened(checkpoint):
    return open_model(checkpoint, CPU, torch.device("cpu"))


@pytest.fixture(scope="module")
def diffiml(opened):
    return method_of(opened.build().eval())


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"tta": True},
        {"tta": True, "tta_fusion": "max", "ensemble_space": "pixel", "mask_bias": 1.5},
        {"sampler": "ancestral", "num_inference_steps": 3},
        {"timestep_spacing": "leading", "ensemble_size": 1},
        {"mask_reading": "sigmoid", "num_inference_steps": 7},
    ],
    ids=str,
)
def test_the_numpy_sampler_is_algorithm_2(opened, diffiml, random_image, flags):
    diffiml = diffiml.with_settings(**flags)
    config = exporting._configuration(opened, diffiml.config, "onnx")
    graphs, image = graphs_of(diffiml), random_image(SIZES[0])
    noise = diffiml.draw_noise(["x"], SIZES[0])[0].numpy()
    maps = numpy_sampler.sample(graphs, config, image.numpy(), noise)
    expected = diffiml.predict(image, ["x"], details=True)
    assert expected.probability.std() > 0.01
    assert np.abs(maps[0] - expected.probability[0, 0].numpy()).max() < 1e-4
    if not flags.get("tta"):  # whose edges a prediction shows of the upright view alone
        assert np.abs(maps[1] - expected.edge[0, 0].numpy()).max() < 1e-4
    assert numpy_sampler.draw_noise(config["sampling"], image.numpy()).shape == noise.shape


def test_a_bound_on_latents_is_kept(opened, diffiml, random_image):
    diffiml = diffiml.with_settings(latent_codec="lightvae-release", clip_latents=0.05)  # LightVAE's own take no bound
    config = exporting._configuration(opened, diffiml.config, "onnx")
    noise = diffiml.draw_noise(["x"], SIZES[0])[0].numpy()
    maps = numpy_sampler.sample(graphs_of(diffiml), config, random_image(SIZES[0]).numpy(), noise)
    expected = diffiml.predict(random_image(SIZES[0]), ["x"]).probability[0, 0].numpy()
    assert np.abs(maps[0] - expected).max() < 1e-4
    free = diffiml.with_settings(clip_latents=0.0).predict(random_image(SIZES[0]), ["x"]).probability[0, 0].numpy()
    assert np.abs(free - expected).max() > 1e-3


@pytest.mark.parametrize(
    "settings, tolerance",
    [
        (InputSettings(64, True, None, "reflect"), 1e-5),
        (InputSettings(64, True, None, "constant"), 1e-5),
        (InputSettings(64, False), 1.5 / 255 / 0.224),  # OpenCV's fixed-point arithmetic may round to the next level
    ],
)
@pytest.mark.parametrize("size", [(50, 70), (20, 90), (64, 64)])
def test_photos_are_prepared_as_the_model_sees_them(settings, tolerance, size):
    photo = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    expected, geometry = Inputs(settings, 32).prepare(photo)
    config = {**asdict(settings), "multiple": 32, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    image = numpy_sampler.prepare(config, photo)
    assert image.shape[1:] == expected.shape and image.dtype == np.float32
    assert np.abs(image[0] - expected.numpy()).max() <= tolerance
    undone = numpy_sampler.resize(image[0].transpose(1, 2, 0), *size)[..., 0]
    if not settings.if_padding:
        assert np.abs(undone - geometry.undo(torch.from_numpy(image[0, 0]))).max() < 1e-4


@pytest.fixture
def config(opened, diffiml):
    made = exporting._configuration(opened, diffiml.config, "onnx")
    told = {"checkpoint": "x", "weights": "0", "graphs": dict.fromkeys(exporting._NAMES, "0")}
    return json.loads(json.dumps({**told, **made}))


@pytest.mark.parametrize(
    ("part", "name", "value", "told"),
    [
        ("sampling", "sampler", "ddmi", "is 'ddmi'; expected ddim or ancestral"),
        ("sampling", "tta", 3, "is 3; expected a bool"),
        ("sampling", "clip_latents", -1, r"is -1; expected float in \[0.0, 1000.0\]"),
        ("sampling", "mask_bias", float("nan"), "is nan"),
        ("sampling", "ensemble_size", 2.0, r"is 2.0; expected int in \[1, 100\]"),
        ("sampling", "ensemble_size", True, "is True"),
        ("sampling", "steps", 4, "is no field that is known"),
        ("sampling", "num_inference_steps", 1001, "1001 sampling steps"),
        ("schedule", "beta_start", 0.03, "one of these is too large"),
        ("schedule", "beta_end", 1.0, "leaves nothing of a latent"),
        ("input", "if_padding", "no", "is 'no'; expected a bool"),
        ("input", "padding_mode", ["reflect"], "expected constant or reflect"),
        ("input", "mean", [0], "1 is missing"),
        ("input", "std", [0, 0, 0], "0 is 0; expected float"),
    ],
)
def test_a_configuration_is_not_believed(config, part, name, value, told):
    numpy_sampler.require_config(config)
    config[part][name] = value
    with pytest.raises(ValueError, match=f"config.json: .*{told}"):
        numpy_sampler.predict({}, config, np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize("name", ["threshold", "sampling"])
def test_a_field_of_a_configuration_that_is_missing_is_named(config, name):
    del config[name]
    with pytest.raises(ValueError, match=f"config.json: {name} is missing"):
        numpy_sampler.require_config(config)


@pytest.mark.parametrize(
    "name, values",
    [
        ("image_size", (0, 1, 4096, 4097)),
        ("padding_mode", ("constant", "reflect", "edge")),
        ("num_train_timesteps", (0, 1, 10_000, 10_001)),
        ("beta_start", (-0.1, 0, 1e-7, 1e-6, 0.02)),
        ("beta_end", (0, 0.1, 0.18, 0.19, 0.5, 1, 1.1)),
        ("num_inference_steps", (0, 1, 1000, 1001)),
        ("ensemble_size", (0, 1, 100, 101)),
        ("sampler", ("ddim", "ancestral", "")),
        ("timestep_spacing", ("trailing", "leading", "")),
        ("clip_latents", (-1, 0, 1000, 1001)),
        ("ensemble_space", ("latent", "pixel", "")),
        ("tta_fusion", ("mean", "max", "")),
        ("mask_bias", (-11, -10, 10, 11)),
    ],
)
def test_an_export_takes_the_models_own_values(config, name, values):
    part = next(part for part in ("input", "schedule", "sampling") if name in config[part])
    bounded = partial(DiffIMLConfig, latent_codec="lightvae-release")  # LightVAE's own latents take no bound
    for value in values:
        config[part][name] = value
        others = config["schedule"] | config["sampling"]
        fields = {one: others[one] for one in others if hasattr(DiffIMLConfig, one)}
        if name == "num_train_timesteps":
            config["sampling"]["num_inference_steps"] = fields["num_inference_steps"] = 1
        make = partial(InputSettings, **{name: value}) if part == "input" else partial(bounded, **fields)
        assert refuses(make) == refuses(partial(numpy_sampler.require_config, config)), value


def refuses(make):
    try:
        make()
    except (DiffIMLError, ValueError):
        return True
    return False


@pytest.mark.parametrize(
    "photo, noise, told",
    [
        (np.zeros((64, 64, 3)), None, "of float64; expected"),
        (np.zeros((64, 64, 4), np.uint8), None, "expected"),
        (np.zeros((0, 64, 3), np.uint8), None, "expected"),
        (np.zeros((64, 64, 3), np.uint8), np.zeros((1, 1, 2, 8, 8, 8), np.float32), "the noise is"),
        (np.zeros((64, 64, 3), np.uint8), np.full((1, 1, 3, 8, 8, 8), np.nan, np.float32), "expected finite"),
    ],
)
def test_other_photos_and_noise_are_refused(config, photo, noise, told):
    with pytest.raises(ValueError, match=told):
        numpy_sampler.predict({}, config, photo, noise)


def test_maps_that_are_no_numbers_are_refused(config, diffiml):
    graphs = graphs_of(diffiml) | {"decoder": lambda z: [np.full((1, 1, 64, 64), np.nan, np.float32)]}
    with pytest.raises(ValueError, match="the maps are not finite"):
        numpy_sampler.predict(graphs, config, np.zeros((64, 64, 3), np.uint8))


def test_graphs_are_those_that_the_configuration_was_written_with(config, tmp_path):
    for name in exporting._NAMES:
        (tmp_path / f"{name}.onnx").write_text(name)
        config["graphs"][name] = sha256(name.encode()).hexdigest()
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert numpy_sampler.load_config(tmp_path) == config
    (tmp_path / "step.onnx").write_text("of another model")
    with pytest.raises(ValueError, match="step.onnx is not the graph that config.json was written with"):
        numpy_sampler.load_config(tmp_path)


def test_a_configuration_says_each_field_once(config, tmp_path):
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="config.json is nested too deeply"):
        numpy_sampler.load_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config).replace('"tta"', '"tta": true, "tta"'))
    with pytest.raises(ValueError, match="a field stands twice"):
        numpy_sampler.load_config(tmp_path)


@pytest.mark.parametrize("target", ["photo.npy", "link.npy", "mask", "nowhere/mask.npy"])
def test_the_exported_program_overwrites_nothing(tmp_path, target):
    np.save(tmp_path / "photo.npy", np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "link.npy").symlink_to("elsewhere.npy")
    before = {path.name: path.lstat().st_mtime_ns for path in tmp_path.iterdir()}
    words = [numpy_sampler.__file__, "photo.npy", target]
    run = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 2 and re.search(rf"{target} is (there already|no .npy file|in no folder)", run.stderr)
    assert {path.name: path.lstat().st_mtime_ns for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("content", [b"PK\3\4garbage", b"\x93NUMPY\1\0\4\0 (((", b""])
def test_the_exported_program_refuses_what_is_no_array(tmp_path, content):
    (tmp_path / "photo.npy").write_bytes(content)
    with pytest.raises(ValueError, match="photo.npy is no array as numpy.save writes it"):
        numpy_sampler.read(str(tmp_path / "photo.npy"))


@pytest.mark.parametrize("content", [b"\n\x08location\x12\x05other", b"\n\x88\x00location", b"/x/allocation/y"])
def test_a_graph_has_no_numbers_in_another_file(config, tmp_path, content):
    for name in config["graphs"]:
        (tmp_path / f"{name}.onnx").write_bytes(b"\x08\x09" + content)
        config["graphs"][name] = file_digest(tmp_path / f"{name}.onnx")
    (tmp_path / "config.json").write_text(json.dumps(config))
    refused = pytest.raises(ValueError, match="has numbers in another file, which has no digest; export the model anew")
    with nullcontext() if b"alloc" in content else refused:  # of a path, as torch's exporter notes them
        numpy_sampler.load_config(tmp_path)


def test_an_array_is_no_larger_than_its_file(tmp_path):
    with open(tmp_path / "photo.npy", "wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (4_000_000, 4_000_000, 3)}
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(ValueError, match="photo.npy is no array"):
        numpy_sampler.read(str(tmp_path / "photo.npy"))


def test_a_mask_takes_its_place_whole_or_not_at_all(tmp_path, monkeypatch):
    numpy_sampler.write(str(tmp_path / "mask.npy"), np.ones(2))
    assert [path.name for path in tmp_path.iterdir()] == ["mask.npy"]
    with pytest.raises(ValueError, match="is there already"):  # it came after the program had looked
        numpy_sampler.write(str(tmp_path / "mask.npy"), np.zeros(2))
    monkeypatch.setattr(np, "save", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        numpy_sampler.write(str(tmp_path / "other.npy"), np.zeros(2))
    assert [path.name for path in tmp_path.iterdir()] == ["mask.npy"]
    assert np.load(tmp_path / "mask.npy").tolist() == [1, 1]


def test_noise_follows_from_the_photo(opened, diffiml):
    sampling = exporting._configuration(opened, diffiml.config, "onnx")["sampling"]
    images = np.zeros((1, 3, 64, 64), np.float32), np.ones((1, 3, 64, 64), np.float32)
    one, again, other = (numpy_sampler.draw_noise(sampling, image) for image in (images[0], *images))
    assert np.array_equal(one, again) and not np.array_equal(one, other)


@pytest.fixture
def any_torch(monkeypatch):
    """Nothing is written by it, so its version does not matter."""
    monkeypatch.setattr(exporting, "_require_packages", lambda format: None)


def test_other_models_are_refused(any_torch, tiny_model, stored, tmp_path):
    with pytest.raises(DiffIMLError, match="holds a TinyIML; only DiffIML is exported"):
        exporting.export(stored(), "torch_export", tmp_path / "out", CPU)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, tmp_path, checkpoint, name):
    monkeypatch.setattr(exporting, "find_spec", lambda wanted: None if wanted == name else wanted)
    with pytest.raises(DiffIMLError, match=rf"needs the package {name}; pip install 'diffiml-plugin\[export\]'"):
        exporting.export(str(checkpoint), "onnx", tmp_path / "out", CPU)


def test_what_cannot_be_exported_is_refused_in_one_sentence(any_torch, monkeypatch, tmp_path, checkpoint):
    def fail(*arguments):
        raise RuntimeError("no such operator\nfourteen pages of graph")

    monkeypatch.setattr(exporting, "_write", fail)
    with pytest.raises(
        DiffIMLError, match="the condition of this model .* cannot be exported as .*: no such operator$"
    ):
        exporting.export(str(checkpoint), "torch_export", tmp_path / "out", CPU)


def test_graphs_that_compute_something_else_are_refused(any_torch, monkeypatch, tmp_path, checkpoint):
    monkeypatch.setattr(exporting, "_write", lambda part, file: None)
    wrong = {"condition": lambda image: [image], "step": lambda z, t, c: [z], "decoder": lambda z: [z[:, :1]]}
    monkeypatch.setattr(exporting, "_open", lambda folder, format: wrong)
    monkeypatch.setattr(numpy_sampler, "sample", lambda *arguments: np.full((1, 1, 1), np.nan, np.float32))
    with pytest.raises(DiffIMLError, match="differ from the model by nan, more than 0.001; do not use them"):
        exporting.export(str(checkpoint), "torch_export", tmp_path / "out", CPU)
    assert not (tmp_path / "out" / "README.md").exists()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("config.json", "{}", "config.json was not made by this command"),
        ("README.md", "mine", "README.md was not made by this command"),
    ],
)
def test_a_folder_of_others_is_left_as_it_is(tmp_path, checkpoint, name, content, told):
    (tmp_path / name).write_text(content)
    with pytest.raises(DiffIMLError, match=told):
        exporting.export(str(checkpoint), "torch_export", tmp_path, CPU)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: content}


@pytest.fixture(scope="module")
def exported(request, tmp_path_factory, checkpoint):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("exported")
    result = exporting.export(str(checkpoint), request.param, folder, CPU, model_flags={"tta": True})
    return folder, result


@pytest.mark.slow
@pytest.mark.parametrize("exported", exporting.FORMATS, indirect=True)
def test_the_graphs_give_the_models_masks_at_any_size(exported, diffiml, random_image):
    folder, result = exported
    config = json.loads((folder / "config.json").read_text())
    diffiml = diffiml.with_settings(tta=True)
    graphs = exporting._open(folder, config["format"])
    for size in SIZES:
        noise = diffiml.draw_noise(["x"], size)[0].numpy()
        expected = diffiml.predict(random_image(size), ["x"]).probability[0, 0].numpy()
        assert expected.std() > 0.01
        maps = numpy_sampler.sample(graphs, config, random_image(size).numpy(), noise)
        assert np.abs(maps[0] - expected).max() < exporting.TOLERANCE
    assert 0 <= result.difference < exporting.TOLERANCE
    assert sorted([*result.files, folder / LEDGER]) == sorted(folder.iterdir())
    assert config["threshold"] == 0.4 and r"- licence: for\nnobody &lt;b&gt;" in (folder / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("exported", ["onnx"], indirect=True)
def test_the_folder_serves_without_torch(exported, opened, diffiml, tmp_path):
    folder, _ = exported
    photo = np.random.default_rng(0).integers(0, 256, (70, 100, 3), dtype=np.uint8)
    diffiml = diffiml.with_settings(tta=True)
    image, geometry = Inputs(opened.inputs, 32).prepare(photo)
    noise = diffiml.draw_noise(["x"], image.shape[1:])[0].numpy()
    np.save(tmp_path / "photo.npy", photo)
    np.save(tmp_path / "noise.npy", noise)
    run_without_torch(folder / "sample.py", "photo.npy", "mask.npy", "--noise", "noise.npy", cwd=tmp_path)
    expected = geometry.undo(diffiml.predict(image[None], ["x"]).probability[0, 0])
    assert np.abs(np.load(tmp_path / "mask.npy") - expected).max() < exporting.TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("exported", exporting.FORMATS, indirect=True)
def test_the_readmes_program_runs(exported):
    folder, _ = exported
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / "photo.jpg")
    block = re.search(r"(?:^    .*\n|^\n(?=    ))+", (folder / "README.md").read_text(), re.M)[0]
    (folder / "program.py").write_text(re.sub("^    ", "", block, flags=re.M))
    subprocess.run([sys.executable, "program.py"], cwd=folder, check=True)
    assert Image.open(folder / "mask.png").size == (50, 40)
    for name in ("photo.jpg", "program.py", "mask.png"):
        (folder / name).unlink()


def run_without_torch(script: Path, *words: str, cwd: Path) -> None:
    blocked = "import runpy, sys; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; "
    code = f"{blocked}runpy.run_path(sys.argv[0], run_name='__main__')"
    subprocess.run([sys.executable, "-c", code, str(script), *words], cwd=cwd, check=True)
