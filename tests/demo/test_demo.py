import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from diffiml_plugin.demo.photographs import photographs
from diffiml_plugin.errors import DiffIMLError

TINY = {"encoder": "segformer_b0", "ensemble_size": 2, "num_inference_steps": 1}


def run(folder, train_images=4, epochs=1, **changes):
    from diffiml_plugin.demo.demo import demo
    from diffiml_plugin.training.settings import TrainSettings

    settings = TrainSettings(
        image_size=64,
        batch_size=4,
        total_batch_size=4,
        epochs=epochs,
        device="cpu",
        num_workers=0,
        output_dir=str(folder),
        **changes,
    )
    return demo(settings, TINY, train_images, test_images=6)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return run(tmp_path_factory.mktemp("demo"))


def test_same_seed_gives_the_same_figures(first, tmp_path):
    again = run(tmp_path)
    assert (again.before, again.constant, again.after) == (first.before, first.constant, first.after)


def test_a_model_that_asks_where_it_is_gets_a_device(tmp_path, monkeypatch):
    import torch

    from diffiml_plugin.demo import demo as module
    from diffiml_plugin.framework.imdlbenco import MODELS
    from diffiml_plugin.training.settings import TrainSettings

    class Tested(Exception):
        pass

    class PlacedIML(torch.nn.Module):
        def __init__(self, device: str):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1, device=device))

    def test(*args, **options):
        raise Tested

    monkeypatch.setitem(MODELS.module_dict, "PlacedIML", PlacedIML)
    monkeypatch.setattr(module, "test", test)
    settings = TrainSettings(model="PlacedIML", image_size=64, output_dir=str(tmp_path))
    with pytest.raises(Tested):
        module.demo(settings, {}, 4, test_images=1)


def test_the_minutes_of_a_demo_that_went_on_are_not_taken_for_all(tmp_path):
    assert "minutes, tests included" in run(tmp_path).report.read_text()
    again = run(tmp_path, epochs=2, resume="auto").report.read_text()
    assert "trained on " in again and "minutes, tests included" not in again


def test_report_is_self_contained_and_shows_every_picture(first):
    text = first.report.read_text()
    assert f"{first.after:.3f}" in text and f"{first.constant:.3f}" in text
    assert text.count("<img ") == 6 * 4
    assert not re.search(r"src='(?!data:)", text)


def test_a_model_without_uncertainty_has_its_report_too(tmp_path):
    from diffiml_plugin.demo import report as demo_report

    for name in ("Tp/a.png", "Gt/a.png", "found/a_mask.png"):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / name)
    shown = demo_report._pictures(tmp_path / "Tp" / "a.png", tmp_path / "found")
    assert list(shown) == ["input", "truth", "prediction"]


def test_tested_photographs_are_never_trained_on(first):
    pairs = json.loads((first.report.parent / "unseen" / "list.json").read_text())
    unseen = {photo.name for photo in photographs("test")}
    assert len(pairs) == 6 and all(any(f"Tp/{name}_" in image for name in unseen) for image, *_ in pairs)


def test_constant_answer_is_the_framework_f1_of_all_ones(first):
    import torch
    from IMDLBenCo.evaluation import PixelF1

    masks = [np.array(Image.open(path)) > 127 for path in (first.report.parent / "unseen" / "Gt").iterdir()]
    masks = torch.tensor(np.stack(masks)).double()[:, None]
    figures = PixelF1(0.5).batch_update(predict=torch.ones_like(masks), mask=masks)
    assert first.constant == pytest.approx(float(figures.mean()), abs=1e-6)


def test_a_finished_demo_is_not_overwritten(first):
    with pytest.raises(DiffIMLError, match="holds a demo already"):
        run(first.report.parent)


@pytest.mark.parametrize("place", ["after", "predictions", "link"])
def test_the_users_own_results_in_its_folders_are_not_discarded(first, tmp_path, place):
    """Of the demo's own images and weights, too, where a demo was cut and its user looked at the model."""
    from diffiml_plugin.evaluation.settings import TestSettings
    from diffiml_plugin.evaluation.test import test
    from diffiml_plugin.prediction.detector import Detector
    from diffiml_plugin.prediction.files import predict

    folder, cpu = tmp_path / "work", {"device": "cpu", "num_workers": 0}
    shutil.copytree(first.report.parent, folder)
    for name in ("after", "predictions", "report.html", "pictures.jpg"):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    settings = TestSettings(
        checkpoint_path=str(folder / "training" / "last.safetensors"),
        test_data_path=str(folder / "unseen" / "list.json"),
        output_dir=str(folder / "after"),
        **cpu,
    )
    if place == "after":
        test(settings, {"ensemble_size": 1, "noise_seed": 5})
    else:
        if place == "link":
            (tmp_path / "mine").mkdir()
            (folder / "predictions").symlink_to("../mine")
        image = next((folder / "unseen" / "Tp").iterdir())
        predict(Detector(folder / "untrained.safetensors", settings), [str(image)], folder / "predictions")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.*") if file.is_file()}
    with pytest.raises(DiffIMLError, match="was not made by this command and is not overwritten"):
        run(folder, resume="auto")
    assert {file: file.read_bytes() for file in tmp_path.rglob("*.*") if file.is_file()} == before


@pytest.mark.parametrize("place", ["before", "predictions"])
def test_results_of_other_images_are_not_discarded(tmp_path, place, scored_settings, tiny_dataset, tiny_model):
    from diffiml_plugin.evaluation.test import test
    from diffiml_plugin.prediction.detector import Detector
    from diffiml_plugin.prediction.files import predict

    folder, image = tmp_path / "work", tiny_dataset / "Tp" / "0.png"
    if place == "before":
        test(replace(scored_settings, output_dir=str(folder / place)))
    else:
        predict(Detector(scored_settings.checkpoint_path, scored_settings), [str(image)], folder / place)
    before = {file: file.read_bytes() for file in folder.rglob("*.*") if file.is_file()}
    with pytest.raises(DiffIMLError, match=f"{place}/.* was not made by this command and is not overwritten"):
        run(folder)
    assert {file: file.read_bytes() for file in folder.rglob("*.*") if file.is_file()} == before


def test_the_page_of_a_training_that_is_gone_is_kept(tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("diffiml_plugin.demo.demo.train", stopped)
        run(tmp_path)
    for changes in ({"train_images": 8}, {"epochs": 2}, {"lr": 1e-3}):
        with pytest.raises(DiffIMLError, match=f"was made with other {next(iter(changes))} and is not overwritten"):
            run(tmp_path, **changes)
    first = run(tmp_path).report.read_text()
    assert run(tmp_path, epochs=2, resume="auto").report.read_text() != first  # the same training, longer
    shutil.rmtree(tmp_path / "training")
    with pytest.raises(DiffIMLError, match="was made with other train_images and is not overwritten"):
        run(tmp_path, train_images=8)
