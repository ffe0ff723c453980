import json
import shutil
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.legend import Legend

from diffiml_plugin.data.images import read_image
from diffiml_plugin.evaluation import robust as module
from diffiml_plugin.evaluation import scoring
from diffiml_plugin.evaluation import test as testing
from diffiml_plugin.evaluation.evaluate import evaluate
from diffiml_plugin.evaluation.robust import PERTURBATIONS, curve_of, perturb, perturbed, robust

pytestmark = pytest.mark.usefixtures("tiny_model")
FEW = {name: (wrapper, strengths[-2:], text) for name, (wrapper, strengths, text) in PERTURBATIONS.items()}


@pytest.fixture
def settings(scored_settings, monkeypatch):
    monkeypatch.setattr(module, "PERTURBATIONS", FEW)
    return scored_settings


def records(settings):
    return [json.loads(line) for line in open(f"{settings.output_dir}/robust_per_image.jsonl")]


def test_curves_are_the_means_of_the_images_and_start_from_one_clean_baseline(settings, capsys):
    results = robust(settings)
    assert json.load(open(f"{settings.output_dir}/robust.json")) == results
    clean = testing.test(replace(settings, output_dir=settings.output_dir + "_clean"))
    assert results["datasets"]["tiny"]["pixel-level F1"] == clean["datasets"]["tiny"]["pixel-level F1"]
    lines = records(settings)
    assert len(lines) == 4 * (1 + 3 * 2)
    for name, curve in curve_of(results, "tiny").items():
        assert list(curve) == [0, *FEW[name][1]]
        for strength, value in curve.items():
            variant = f"{name} {strength}" if strength else "clean"
            f1 = [line["f1"] for line in lines if line["variant"] == variant and line["label"] == 1]
            assert len(f1) == 3 and value == pytest.approx(np.mean(f1))
    assert len({tuple(curve.values()) for curve in curve_of(results).values()}) == 3
    assert (open(f"{settings.output_dir}/robust.png", "rb").read(4)) == b"\x89PNG"
    assert "Gaussian blur" in capsys.readouterr().out


def test_each_curve_has_its_name_in_the_legend(tmp_path, monkeypatch):
    figure = Figure()
    monkeypatch.setattr(module, "drawing", lambda path, size, dpi: nullcontext(figure))
    curve = {"jpeg": {0: 0.9, 50: 0.5}}
    module.plot(tmp_path / "a.png", {"_ours: val": curve, "b: val": curve}, {"_theirs, paper": curve})
    (legend,) = figure.findobj(Legend)
    assert [text.get_text() for text in legend.get_texts()] == ["_ours: val", "b: val", "_theirs, paper"]


def test_neither_workers_nor_batch_size_matter(settings):
    figures = []
    for workers, size in ((0, 4), (2, 1)):
        robust(replace(settings, num_workers=workers, test_batch_size=size))
        figures.append([(line["variant"], line["index"], line["f1"]) for line in records(settings)])
    assert figures[0] == figures[1]


def test_neither_order_nor_what_is_left_out_matters(settings, tiny_dataset):
    pairs, figures = json.loads((tiny_dataset / "list.json").read_text()), []
    for listed in (pairs, pairs[::-1], pairs[1:]):
        (tiny_dataset / "list.json").write_text(json.dumps(listed))
        shutil.rmtree(settings.output_dir, ignore_errors=True)
        robust(settings)
        figures.append({(one["variant"], one["name"]): {**one, "index": None} for one in records(settings)})
    first, reverse, without = figures
    assert reverse == first and without == {key: figure for key, figure in first.items() if key[1] != "0.png"}


def test_perturbations_are_of_the_seed_and_of_each_image_its_own(settings, tiny_dataset):
    images = [read_image(tiny_dataset / "Tp" / f"{number}.png") for number in range(2)]
    mask, draw = images[0][..., :1], perturbed("noise", 23)
    drawn = [
        perturb(seed, draw, image, mask)["image"].astype(int) - image
        for seed, image in ((0, images[0]), (0, images[0]), (1, images[0]), (0, images[1]))
    ]
    assert (drawn[0] == drawn[1]).all() and all((drawn[0] != other).mean() > 0.5 for other in drawn[2:])


def test_an_interrupted_sweep_goes_on(settings, monkeypatch):
    expected, done = robust(settings), []

    def watched(*arguments, title, **options):
        if len(done) == 3 and not resumed:
            raise KeyboardInterrupt
        done.append(title)
        return evaluate(*arguments, title=title, **options)

    monkeypatch.setattr(scoring, "evaluate", watched)
    resumed = False
    with pytest.raises(KeyboardInterrupt):
        robust(settings)
    resumed = True
    assert robust(settings)["curves"] == expected["curves"]
    assert len(done) == len(set(done)) == 7  # nothing twice


def test_each_transform_is_the_frameworks_at_that_strength():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    spread = [
        np.abs(perturbed("noise", strength)(image=image)["image"].astype(int) - image).mean()
        for strength in PERTURBATIONS["noise"][1]
    ]
    assert spread == sorted(spread) and 0 < spread[0]
    assert perturbed("jpeg", 50).quality_upper == 50 and perturbed("blur", 23).blur_limit == (23, 23)
