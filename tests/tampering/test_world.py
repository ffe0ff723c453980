from dataclasses import replace

import cv2
import numpy as np
import pytest

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.tampering.photographs import Photographs
from diffiml_plugin.tampering.styles import _BOUNDS, KINDS, StageSettings, Style, read_styles, restricted
from diffiml_plugin.tampering.world import draw_picture

UNTOUCHED = StageSettings(compressed=0)


def photo(seed, height=220, width=300):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set") / "photos"
    (folder.parent / "regions").mkdir()
    folder.mkdir()
    for number in range(4):
        cv2.imwrite(str(folder / f"{number}.jpg"), photo(number), [cv2.IMWRITE_JPEG_QUALITY, 70 + 5 * number])
    labels = np.zeros((220, 300), np.uint8)
    labels[60:140, 100:190] = 4
    cv2.imwrite(str(folder.parent / "regions" / "1.png"), labels)
    return Photographs(folder, 2048)


def draw(photographs, style, seed, tampered=True, window=128):
    return draw_picture(photographs, seed % 4, style, np.random.default_rng(seed), tampered, window)


@pytest.mark.parametrize("name", read_styles("world"))
def test_every_style_makes_windows_that_the_generator_decides(photographs, name):
    style = read_styles("world")[name]
    for seed in range(12):
        made, again = (draw(photographs, style, seed) for _ in range(2))
        assert made.image.shape == (128, 128, 3) and made.image.dtype == np.uint8
        assert made.mask.shape == (128, 128) and set(np.unique(made.mask)) <= {0, 1}
        assert np.array_equal(made.image, again.image) and np.array_equal(made.mask, again.mask)
        authentic = draw(photographs, style, seed, tampered=False)
        assert authentic.kind == "authentic" and not authentic.mask.any()


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_region_changes(photographs, kind):
    style = restricted(Style(after=(UNTOUCHED,), smeared=0, sharp=1), [kind])
    shown = 0
    for seed in range(6):
        made, clean = draw(photographs, style, seed), draw(photographs, style, seed, tampered=False)
        change = np.abs(made.image.astype(int) - clean.image).max(axis=2)
        away = cv2.distanceTransform(1 - made.mask, cv2.DIST_L2, 5) > 2
        assert not change[away].any()
        shown += made.kind == kind and change[made.mask > 0].mean() > 4
    assert shown >= 4


def test_no_window_makes_whole_pictures_of_many_sizes(photographs):
    sizes = [draw(photographs, Style(), seed, window=None).image.shape[:2] for seed in range(6)]
    assert len(set(sizes)) > 3
    assert all(abs(width / height - 300 / 220) < 0.05 for height, width in sizes)


def test_geometry_of_the_past_and_the_future_leaves_windows_full(photographs):
    stage = StageSettings(resized=1, factor=(0.6, 1.4), off_grid=1)
    style = Style(before=(stage, stage), after=(stage, stage), native=1)
    for seed in range(8):
        made = draw(photographs, style, seed, window=96)
        assert made.image.shape == (96, 96, 3) and made.mask.shape == (96, 96)


def test_a_file_of_styles(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("a: {weight: 2, kinds: {splice: 1}, area: [0.1, 0.2], after: [{quality: [50, 60]}]}\nb: {}\n")
    styles = read_styles(file)
    assert styles["b"] == Style()
    assert styles["a"] == replace(
        Style(), weight=2, kinds={"splice": 1}, area=(0.1, 0.2), after=(StageSettings(quality=(50, 60)),)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {wieght: 1}", "did you mean 'weight'"),
        ("a: {area: [0.2, 0.1]}", "area: expected two numbers"),
        ("a: {after: [{qualty: [1, 2]}]}", "after: unknown key 'qualty'"),
        ("a: {kinds: {spice: 1}}", "kinds: expected weights of splice"),
        ("a: {sharp: often}", "sharp: expected a number"),
        ("a: {sharp: 1.5}", "sharp: expected a number from 0 to 1"),
        ("a: {scale: [0, 1]}", "scale: expected two numbers from 0.1 to 10"),
        ("a: {feather: [1, 1000000]}", "feather: expected two numbers from 0.1 to 20"),
        ("a: {halo: [0.5, 1]}", "halo: expected two whole numbers from -50 to 50"),
        ("a: {before: [{factor: [1, 1000]}]}", "factor: expected two numbers from 0.1 to 4"),
        ("a: {before: [{blur: [0, 0]}]}", "blur: expected two numbers from 0.1 to 20"),
        ("a: {after: [{quality: [0, 100]}]}", "quality: expected two whole numbers from 1 to 100"),
        ("a: {objects: [" + "1, " * 20 + "1]}", "objects: expected a list of at most 20 weights"),
        ("a: {after: [" + "{}, " * 20 + "{}]}", "after: expected a list of at most 20 stages"),
        (
            "a: {before: [{resized: 1, factor: [0.2, 1]}, {resized: 1, factor: [0.2, 1]}]}",
            "its stages resize a picture to 0.04 to 1 times",
        ),
        (
            "a: {after: [{resized: 1, factor: [0.5, 4]}, {resized: 1, factor: [2, 4]}, {resized: 1, factor: [1, 2]}]}",
            "its stages resize a picture to 0.5 to 32 times",
        ),
        ("a: {weight: 0}\nb: {weight: 0}", "every style has a weight of 0"),
        ("a: 3", "expected {key: value"),
        ("[", "is not YAML in line 1"),
        ("", "holds no style"),
    ],
)
def test_a_bad_file_of_styles_is_refused_by_name(tmp_path, text, message):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(DiffIMLError, match=message):
        read_styles(file)


@pytest.mark.parametrize("end", [0, 1])
def test_pictures_are_drawn_at_either_end_of_every_range(photographs, end):
    def extreme(kind, **others):
        ranges = {name: bounds[end] for name, bounds in _BOUNDS.items() if name in kind.__dataclass_fields__}
        defaults = {name: getattr(kind(), name) for name in ranges}
        pairs = {name: (value, value) if isinstance(defaults[name], tuple) else value for name, value in ranges.items()}
        return kind(**pairs, **others)

    always = {name: 1.0 for name in ("resized", "denoised", "blurred", "noisy", "toned", "sharpened")}
    stage = extreme(StageSettings, **always)
    style = extreme(
        Style, before=(replace(stage, resized=0.0),), after=(stage,), small=float(end), unwarped=0.0, recoloured=1.0
    )
    for kind in KINDS:
        made = draw(photographs, replace(style, kinds={kind: 1.0}), 0, window=96)
        assert made.image.shape == (96, 96, 3)


def test_kinds_can_be_restricted():
    assert restricted(Style(), ["splice", "text"]).kinds == {"splice": 0.5, "text": 0.06}
    with pytest.raises(DiffIMLError, match="did you mean 'splice'"):
        restricted(Style(), ["splise"])
