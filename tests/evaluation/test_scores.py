import numpy as np
import pytest
import torch
from IMDLBenCo.evaluation import PixelAccuracy, PixelAUC, PixelF1, PixelIOU
from PIL import Image
from sklearn.metrics import f1_score, roc_auc_score

from diffiml_plugin.data.lists import NEGATIVE, ImageList
from diffiml_plugin.data.pairs import PairsDataset
from diffiml_plugin.data.pairs import test_transform as no_transform
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.evaluation.scores import THRESHOLDS, at_threshold, average, best_threshold, score_batch, summarise
from diffiml_plugin.models.inputs import Inputs, InputSettings


def test_regions_that_vanish_in_resizing_are_counted(tmp_path):
    small, large = np.zeros((2, 640, 640), np.uint8)
    small[13:17, 13:17], large[:320] = 255, 255
    for name, array in (("small.png", small), ("large.png", large), ("image.png", np.zeros((640, 640, 3), np.uint8))):
        Image.fromarray(array).save(tmp_path / name)
    masks = (str(tmp_path / "small.png"), str(tmp_path / "large.png"), NEGATIVE)
    files = ImageList("x", (str(tmp_path / "image.png"),) * 3, masks)
    dataset = PairsDataset(files, Inputs(InputSettings(64)), no_transform(), None)
    batch = torch.utils.data.default_collate([dict(dataset[i], index=i) for i in range(3)])
    found = score_batch({"pred_mask": batch["mask"]}, batch)
    assert [(record["label"], record["mask_area"]) for record in found] == [(1, 0), (1, 0.5), (0, 0)]
    summary = summarise(found)
    assert summary["vanished"] == 1 and summary["pixel-level F1"] < 0.6  # of a prediction that is the mask
    assert "vanished" not in average([summary]) and "vanished" not in summarise(found[1:])


@pytest.fixture
def graded():
    """Records of a tampered and an authentic image of 10 pixels in a row, 2 of them padding, and their figures."""
    probability = torch.tensor([[0.9, 0.8, 0.3, 0.3, 0.3, 0.2, 0.1, 0, 1, 1], [0.6, 0.3, 0.3, 0, 0, 0, 0, 0, 1, 1]])
    mask = torch.zeros(2, 10)
    mask[0, :4] = 1
    batch = {
        "name": ["tampered", "authentic"],
        "index": torch.arange(2),
        "label": torch.tensor([1, 0]),
        "mask": mask[:, None, None],
        "shape_mask": torch.tensor([1.0] * 8 + [0.0] * 2).expand(2, 1, 1, 10),
    }
    return score_batch({"pred_mask": probability[:, None, None]}, batch, complete=True)


def test_curves_over_thresholds_count_real_pixels(graded):
    tampered, authentic = graded
    assert tampered["f1_by_threshold"][THRESHOLDS.index(0.5)] == pytest.approx(tampered["f1"])  # the framework's
    assert tampered["f1_by_threshold"][THRESHOLDS.index(0.25)] == pytest.approx(2 * 4 / (5 + 4))
    assert authentic["false_alarm_area_by_threshold"][THRESHOLDS.index(0.5)] == authentic["false_alarm_area"] == 1 / 8
    assert authentic["f1_by_threshold"] is None is tampered["false_alarm_area_by_threshold"]


def test_figures_at_the_models_own_threshold(graded):
    assert "f1_at_own_threshold" not in graded[0]
    probability = torch.tensor([[[[0.9, 0.3]]], [[[0.3, 0.3]]]])
    batch = {
        "name": ["tampered", "authentic"],
        "index": torch.arange(2),
        "label": torch.tensor([1, 0]),
        "mask": torch.tensor([[[[1.0, 1.0]]], [[[0.0, 0.0]]]]),
    }
    tampered, authentic = score_batch({"pred_mask": probability}, batch, threshold=0.299)
    assert (tampered["f1_at_own_threshold"], authentic["false_alarm_area_at_own_threshold"]) == (pytest.approx(1), 1)
    assert tampered["f1"] == pytest.approx(2 / 3) and authentic["false_alarm_area"] == 0
    assert tampered["false_alarm_area_at_own_threshold"] is None is authentic["f1_at_own_threshold"]
    summary = summarise([tampered, authentic])
    assert summary["pixel-level F1 at own threshold"] == pytest.approx(1)
    assert summary["false_alarm_area at own threshold"] == 1


def test_the_best_threshold_and_its_price_stand_beside_the_fixed_one(graded):
    summary = summarise(graded)
    assert summary["pixel-level F1"] == pytest.approx(2 * 2 / (2 + 4))
    assert best_threshold(graded) == summary["best threshold"] == 0.25  # the highest of equals
    assert summary["pixel-level F1 at best threshold"] == pytest.approx(2 * 4 / (5 + 4))
    assert summary["false_alarm_area at best threshold"] == pytest.approx(3 / 8)
    assert [record["score"] for record in at_threshold(graded, 0.25)] == [record["score"] for record in graded]
    assert not any("best threshold" in name for name in average([summary]))
    without = [{key: value for key, value in record.items() if "by_threshold" not in key} for record in graded]
    assert best_threshold(without) is None and "best threshold" not in summarise(without)  # robust's and sweep's


def test_of_several_datasets_the_threshold_is_best_for_their_mean():
    def of_set(dataset: str, best: int, images: int) -> list[dict]:
        curve = [float(position == best) for position in range(len(THRESHOLDS))]
        return [{"dataset": dataset, "f1_by_threshold": [value * images**-0.5 for value in curve]}] * images

    large, small = of_set("large", 3, 4), of_set("small", 9, 1)  # F1 of 0.5 and 1; 2 and 1 in the sum over images
    assert best_threshold(large + small) == THRESHOLDS[9]
    assert best_threshold(large) == THRESHOLDS[3]


def test_image_figures_need_both_kinds_and_scores(batch_of):
    masks = [np.eye(4), np.zeros((4, 4)), np.eye(4)]
    output = {"pred_mask": torch.zeros(3, 1, 4, 4), "pred_label": torch.tensor([[0.9], [0.2], [0.4]])}
    found = score_batch(output, batch_of(masks, "abc"))
    summary = summarise(found)
    assert summary["image-level AUC"] == 1 and summary["image-level Accuracy"] == pytest.approx(2 / 3)
    assert "image-level F1" not in summarise(found[:1])
    assert "image-level F1" not in summarise([{**record, "score": None} for record in found])


def test_mean_is_over_the_sets_that_have_the_figure():
    assert average([{"images": 1, "a": 1.0}, {"images": 2, "a": 3.0, "b": 5.0}]) == {"a": 2.0, "b": 5.0}


def test_pixel_figures_are_scikit_learns(batch_of):
    random = np.random.default_rng(0)
    masks, guess = random.integers(0, 2, (2, 16, 16)), random.integers(0, 5, (2, 16, 16)) / 4  # many ties
    found = score_batch({"pred_mask": torch.tensor(guess)[:, None]}, batch_of(masks), complete=True)
    for record, mask, probability in zip(found, masks, guess, strict=True):
        assert record["f1"] == pytest.approx(f1_score(mask.ravel(), probability.ravel() > 0.5), abs=1e-7)
        assert record["auc_sklearn"] == pytest.approx(roc_auc_score(mask.ravel(), probability.ravel()), abs=1e-12)
        assert record["accuracy_sklearn"] == pytest.approx(np.mean(mask == (probability > 0.5)))
        assert record["accuracy"] == pytest.approx(record["accuracy_sklearn"])


@pytest.mark.parametrize("padded", [False, True])
def test_pixel_figures_are_the_frameworks(padded):
    """With no two probabilities equal, for then the framework's AUC has one value."""
    generator = torch.Generator().manual_seed(0)
    probability = torch.randperm(2 * 48 * 48, generator=generator).view(2, 1, 48, 48) / (2 * 48 * 48)
    mask = (torch.rand(2, 1, 48, 48, generator=generator) < probability).double()
    shape_mask = torch.ones_like(mask)
    if padded:
        shape_mask[:, :, 40:], shape_mask[0, :, :, 32:] = 0, 0
        mask *= shape_mask
    batch = {
        "name": ["a", "b"],
        "index": torch.arange(2),
        "label": torch.ones(2),
        "mask": mask,
        "shape_mask": shape_mask,
    }
    found = score_batch({"pred_mask": probability}, batch, complete=True)
    for key, evaluator in {"f1": PixelF1(), "iou": PixelIOU(), "accuracy": PixelAccuracy(), "auc": PixelAUC()}.items():
        theirs = evaluator.batch_update(predict=probability, mask=mask, shape_mask=shape_mask)
        assert [record[key] for record in found] == pytest.approx(theirs.tolist(), abs=1e-7), key
    assert [record["auc"] for record in found] == pytest.approx([record["auc_sklearn"] for record in found], abs=1e-12)


def test_only_real_pixels_count_when_padding(tmp_path):
    """A model that calls everything tampered: the padding must not lower its F1."""
    image, mask = np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), np.uint8)
    mask[:16] = 255
    for name, array in (("i.png", image), ("m.png", mask)):
        Image.fromarray(array).save(tmp_path / name)
    files = ImageList("x", (str(tmp_path / "i.png"),) * 2, (str(tmp_path / "m.png"), NEGATIVE))
    dataset = PairsDataset(files, Inputs(InputSettings(64, if_padding=True)), no_transform(), None)
    batch = torch.utils.data.default_collate([dict(dataset[i], index=i) for i in range(2)])
    found = score_batch({"pred_mask": torch.ones(2, 1, 64, 64)}, batch, complete=True)
    assert found[0]["f1"] == pytest.approx(f1_score([1, 0], [1, 1]), abs=1e-6)
    assert found[0]["accuracy"] == found[0]["accuracy_sklearn"] == 0.5
    assert found[1]["false_alarm_area"] == 1


@pytest.mark.parametrize("levels", [1, 2, 5, 300])
def test_pixels_of_equal_probability_count_a_half(levels):
    """As scikit-learn has it, in the real pixels of a padded image; by their order in the framework's figure."""
    generator = torch.Generator().manual_seed(levels)
    probability = torch.randint(levels, (1, 1, 24, 20), generator=generator) / levels
    mask = (torch.rand(1, 1, 24, 20, generator=generator) < 0.3).double()
    shape_mask = torch.ones_like(mask)
    shape_mask[..., 15:] = 0
    batch = {"name": ["a"], "index": torch.arange(1), "label": torch.ones(1), "mask": mask, "shape_mask": shape_mask}
    record = score_batch({"pred_mask": probability}, batch, complete=True)[0]
    real = shape_mask > 0
    expected = roc_auc_score(mask[real].numpy(), probability[real].numpy())
    assert record["auc_sklearn"] == pytest.approx(expected, abs=1e-12)
    positions = probability[real].argsort(descending=True, stable=True)
    hits = mask[real][positions]
    in_order = float((hits.cumsum(0) * (1 - hits)).sum() / hits.sum() / (1 - hits).sum())
    assert record["auc"] == pytest.approx(in_order, abs=1e-12)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_value_that_is_not_finite_is_an_error_that_names_the_image(value):
    probability = torch.full((2, 1, 8, 8), 0.5)
    probability[1, 0, 7, 7] = value
    mask = torch.zeros(2, 1, 8, 8)
    batch = {"name": ["fine", "broken"], "index": torch.arange(2), "label": torch.zeros(2), "mask": mask}
    with pytest.raises(DiffIMLError, match="the prediction for broken is not finite"):
        score_batch({"pred_mask": probability}, batch)


@pytest.mark.parametrize("output", [{"pred_mask": 1.5}, {"pred_mask": -0.5}, {"pred_mask": 0.5, "pred_label": 3.0}])
def test_logits_are_no_probabilities(output):
    values = {"pred_mask": torch.full((1, 1, 8, 8), output["pred_mask"])}
    if "pred_label" in output:
        values["pred_label"] = torch.tensor([output["pred_label"]])
    batch = {"name": ["a"], "index": torch.arange(1), "label": torch.zeros(1), "mask": torch.zeros(1, 1, 8, 8)}
    with pytest.raises(DiffIMLError, match=r"expected probabilities in \[0, 1\]"):
        score_batch(values, batch)


def test_zeros_of_both_signs_are_equal():
    batch = {
        "name": ["a"],
        "index": torch.arange(1),
        "label": torch.ones(1),
        "mask": torch.tensor([[[[1.0, 0, 0, 1]]]]),
    }
    probability = torch.tensor([[[[0.0, -0.0, 0.0, -0.0]]]])
    assert score_batch({"pred_mask": probability}, batch, complete=True)[0]["auc_sklearn"] == 0.5
