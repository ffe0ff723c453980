"""Ten thousand odd files: each is read or refused by a DiffIMLError, in bounded memory. Nothing else is raised.

Half of them are whole files of ours with bytes changed, put in or cut off; the rest are texts and JSON as hypothesis
draws them. The seed is fixed, so that a failure repeats.
"""

import io
import json
import resource
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from diffiml_plugin.cli.config_file import read_config
from diffiml_plugin.data.formats import FORMATS, readable_formats
from diffiml_plugin.data.images import read_image, read_mask
from diffiml_plugin.data.lists import read_balanced, read_test_sets
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.models.checkpoints import read_checkpoint
from diffiml_plugin.tampering.styles import read_styles
from diffiml_plugin.training.resume import state_to_resume
from diffiml_plugin.weights.foreign import read_foreign
from diffiml_plugin.weights.lightvae import load_lightvae

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tiny_model")]
MEMORY = 2**30  # bytes that all of one kind may add to the process
CHANGES = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from(["put in", "replace", "cut"]), st.binary(min_size=1, max_size=8)),
    min_size=1,
    max_size=8,
)
WORDS = st.sampled_from(
    ["model", "config", "input", "threshold", "DiffIML", "TinyIML", "Trufor", "encoder", "image_size", "width",
     "poison", "a.png", "Negative", "extends", "rows", "only", "weight", "kinds", "../x", "/dev/zero", "${HERE}"]
)  # fmt: skip
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | WORDS
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(WORDS | st.text(max_size=5), inner, max_size=5)
)


def changed(content: bytes, changes: list[tuple[float, str, bytes]]) -> bytes:
    """`content` after each of (place in [0, 1], what to do there, bytes)."""
    for place, change, put in changes:
        at = int(place * len(content))
        if change == "cut":
            content = content[:at]
        else:
            content = content[:at] + put + content[at + len(put) * (change == "replace") :]
    return content


def survives(read: Callable[[Path], object], path: Path, contents: st.SearchStrategy, examples: int) -> None:
    """`read` gives a value or raises DiffIMLError for so many files, and the process grows by less than MEMORY."""

    @settings(
        max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(contents)
    def once(content: bytes) -> None:
        nonlocal inputs
        inputs += 1
        path.write_bytes(content)
        with suppress(DiffIMLError):
            read(path)

    inputs, before = 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    once()
    assert inputs >= examples
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MEMORY


def encoded(form: str, mode: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 16, 4), np.uint8)
    image = Image.fromarray(pixels).convert(mode) if mode != "I;16" else Image.fromarray(pixels.view(np.uint16)[..., 0])
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


@pytest.mark.parametrize(
    ("form", "mode"),
    [*((form, "RGB") for form in FORMATS), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "I;16"),
     ("BMP", "1"), ("TIFF", "I;16")],
)  # fmt: skip
def test_images(form, mode, tmp_path):
    if form not in readable_formats():
        pytest.skip(f"this Pillow does not read {form}")
    whole = encoded(form, mode)

    def read(path: Path) -> None:
        with suppress(DiffIMLError):
            read_mask(path)
        read_image(path)

    survives(read, tmp_path / "x", CHANGES.map(lambda changes: changed(whole, changes)), 300)


TEXTS = st.text(max_size=200).map(str.encode) | st.binary(max_size=200)


def test_lists(tmp_path):
    whole = json.dumps([["a.png", "b.png"], ["c.png", "Negative", "splice"]] * 3).encode()
    drawn = JSON.map(lambda value: json.dumps(value).encode())

    def read(path: Path) -> None:
        with suppress(DiffIMLError):
            read_balanced(path)
        read_test_sets(path)

    survives(read, tmp_path / "x.json", CHANGES.map(lambda changes: changed(whole, changes)) | drawn | TEXTS, 1500)


CONFIG = b"""extends: paper
only: {train: {epochs: 3}}
rows:
  a: &a {lr: 1e-4}
  b: {<<: *a, after: [{noise: [0, 1]}]}
"""


@pytest.mark.parametrize("read", [lambda path: read_config(str(path), "train"), read_styles], ids=["config", "styles"])
def test_yaml(read, tmp_path):
    drawn = JSON.map(lambda value: json.dumps(value).encode())  # which is YAML too
    survives(read, tmp_path / "x.yaml", CHANGES.map(lambda changes: changed(CONFIG, changes)) | drawn | TEXTS, 1000)


def with_header(header: object) -> bytes:
    text = header if isinstance(header, str) else json.dumps(header)
    with suppress(UnicodeEncodeError):  # of a lone surrogate
        return safetensors.torch.save({"x": torch.zeros(1)}, {"diffiml": text})
    return b""


def test_headers(tmp_path, restore):
    fields = st.fixed_dictionaries(
        {"model": st.sampled_from(["DiffIML", "TinyIML", "SPAN", "Trufor", "SparseViT"]) | JSON},
        optional={name: JSON for name in ("config", "input", "threshold", "calibration")},
    )
    tiny = {"model": "TinyIML", "config": {"width": 4, "poison": "x"}, "input": {"image_size": 64}}
    whole = with_header(tiny)

    def read(path: Path) -> None:
        checkpoint = read_checkpoint(path)
        checkpoint.settle({}, {"image_size": 64, "device": "cpu"})
        if checkpoint.card.name == "TinyIML":
            restore(path)

    contents = (fields | JSON | st.text()).map(with_header) | CHANGES.map(lambda changes: changed(whole, changes))
    survives(read, tmp_path / "x.safetensors", contents, 1500)


def pickled(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


STATE = {"settings": {"lr": 0.1}, "model": {"x": torch.zeros(2)}, "optimizer": {"state": {}}, "epoch": 1, "best": 0.5}
VALUES = st.dictionaries(st.sampled_from([*STATE]), JSON).map(lambda values: pickled(STATE | values))


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("x.pt", lambda path: state_to_resume(path.parent, str(path), {"lr": 0.1}, {})),
        ("x.pth", read_foreign),
        ("x.safetensors", load_lightvae),
    ],
)
def test_weights_and_states(name, read, tmp_path):
    whole = (
        with_header({"model": "LightVAE", "config": {"width": 1}}) if name.endswith("safetensors") else pickled(STATE)
    )
    mutated = CHANGES.map(lambda changes: changed(whole, changes))
    survives(read, tmp_path / name, mutated | VALUES if name == "x.pt" else mutated, 500)
