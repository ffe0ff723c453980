"""Figures of one image, and of a dataset from its images; the framework's own evaluators do the arithmetic."""

from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

import torch
from sklearn.metrics import accuracy_score, roc_auc_score
from torch import Tensor

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.framework.imdlbenco import (
    ImageAccuracy,
    ImageAUC,
    ImageF1,
    PixelAccuracy,
    PixelAUC,
    PixelF1,
    PixelIOU,
)

Record = dict[str, Any]

THRESHOLD = 0.5  # fixed, as in the paper; exactly 0.5 counts as authentic
THRESHOLDS = tuple(step / 20 for step in range(1, 20))  # what else a test tries
# The framework's AUC depends on the order of equal scores, and its testers count the padding in the accuracy of a last,
# smaller batch; scikit-learn's stand beside them.
PIXEL_FIGURES = {
    "f1": "pixel-level F1",
    "iou": "pixel-level IOU",
    "auc": "pixel-level AUC",
    "auc_sklearn": "pixel-level AUC (scikit-learn)",
    "accuracy": "pixel-level Accuracy",
    "accuracy_sklearn": "pixel-level Accuracy (scikit-learn)",
}
MEANS = {**PIXEL_FIGURES, "false_alarm_area": "false_alarm_area"}  # over images: key of a record -> figure
_CURVES = {key: f"{key}_by_threshold" for key in ("f1", "false_alarm_area")}  # key of a record -> of its values there
_BEST_THRESHOLD = "best threshold"
_AT_BEST = {key: f"{MEANS[key]} at {_BEST_THRESHOLD}" for key in _CURVES}
_NO_MEAN = ("images", "tampered", "vanished", _BEST_THRESHOLD, *_AT_BEST.values())  # of a summary


def score_batch(output: Mapping[str, Any], batch: Mapping[str, Any], complete: bool = False) -> list[Record]:
    """One record per image of the batch: `name`, `index`, `label` (1 tampered), `score` (None: the model has none),
    the pixel figures (None for an authentic image), `mask_area`, the share of the real pixels that are tampered, and
    `false_alarm_area`, the share of an authentic image's that are called so (None for a tampered one).

    Args:
        output: of the model in test mode: `pred_mask` [B, 1, S, S] in [0, 1]; `pred_label` [B] or absent.
        batch: of the framework's dataset, `shape_mask` (1 = real pixels) where images were padded.
        complete: AUC and accuracy too, which take their time, and F1 and false-alarm area at each of `THRESHOLDS`.

    Raises:
        DiffIMLError: no mask, one of another shape, or a value that is not finite; names the image.
    """
    probability, mask, scores = output.get("pred_mask"), batch["mask"], output.get("pred_label")
    if probability is None or probability.shape != mask.shape:
        given = "none" if probability is None else list(probability.shape)
        raise DiffIMLError(f"the model's pred_mask must have the mask's shape {list(mask.shape)}; it gave {given}")
    if scores is not None and scores.numel() != len(mask):
        raise DiffIMLError(f"the model's pred_label must have shape [{len(mask)}]; it gave {list(scores.shape)}")
    scores = [None] * len(mask) if scores is None else scores.detach().float().flatten().tolist()
    probability = probability.detach().float()
    broken = [
        name
        for name, p, score in zip(batch["name"], probability, scores, strict=True)
        if not (p.isfinite().all() and (score is None or abs(score) < float("inf")))
    ]
    if broken:
        raise DiffIMLError(f"the prediction for {', '.join(broken)} is not finite; the weights have probably diverged")

    real = batch.get("shape_mask")
    figures = _pixel_figures(probability, mask, real, complete)
    area, called = _share(mask > 0, real), _share(probability > THRESHOLD, real)
    curves = _by_threshold(probability, mask, real) if complete else {}
    records = []
    for i, label in enumerate(batch["label"].tolist()):
        tampered = label == 1
        records.append(
            {
                "name": batch["name"][i],
                "index": int(batch["index"][i]),
                "label": label,
                **{name: values[i] if tampered else None for name, values in figures.items()},
                "mask_area": area[i],
                "false_alarm_area": None if tampered else called[i],
                **{_CURVES[name]: values[i] if tampered == (name == "f1") else None for name, values in curves.items()},
                "score": scores[i],
            }
        )
    return records


def summarise(records: Iterable[Record]) -> dict[str, Any]:
    """A dataset's figures: pixel figures are means over its tampered images, `false_alarm_area` over its authentic
    ones; image-level figures need a score for each image, and images of both kinds.

    `vanished`, where there are any, counts the tampered images whose region has no pixel left at the size that was
    scored: their pixel-F1 is 0 whatever the prediction. "At best threshold": the one that is best for the F1 of these
    very images, which no user could know.
    """
    records = list(records)
    tampered = [record for record in records if record["label"] == 1]
    summary = {"images": len(records), "tampered": len(tampered)}
    if vanished := sum(record.get("mask_area") == 0 for record in tampered):
        summary["vanished"] = vanished
    for key, name in MEANS.items():
        values = [record[key] for record in records if record.get(key) is not None]
        if values:
            summary[name] = fmean(values)
    if (threshold := best_threshold(records)) is not None:
        cut, summary[_BEST_THRESHOLD] = at_threshold(records, threshold), threshold
        for key, name in _AT_BEST.items():
            if values := [record[key] for record in cut if record[key] is not None]:
                summary[name] = fmean(values)
    if 0 < len(tampered) < len(records) and all(record["score"] is not None for record in records):
        summary |= _image_figures(records)
    return summary


def best_threshold(records: Iterable[Record]) -> float | None:
    """That of `THRESHOLDS` with the highest mean F1 (the highest of equals); None where no image has its curve."""
    curves = [curve for record in records if (curve := record.get(_CURVES["f1"])) is not None]
    means = [fmean(values) for values in zip(*curves, strict=True)]
    return max(zip(means, THRESHOLDS, strict=True))[1] if means else None


def at_threshold(records: Iterable[Record], threshold: float) -> list[Record]:
    """The records with F1 and false-alarm area, no other figure, as if `threshold`, of `THRESHOLDS`, had cut them."""
    position = THRESHOLDS.index(threshold)
    return [
        {**record, **{key: curve[position] if (curve := record.get(name)) else None for key, name in _CURVES.items()}}
        for record in records
    ]


def average(summaries: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The mean of each figure over the datasets that have it; none of those at best threshold, which differs."""
    summaries = list(summaries)
    names = dict.fromkeys(name for summary in summaries for name in summary if name not in _NO_MEAN)
    return {name: fmean(summary[name] for summary in summaries if name in summary) for name in names}


def _pixel_figures(probability: Tensor, mask: Tensor, real: Tensor | None, complete: bool) -> dict[str, list]:
    evaluators = {"f1": PixelF1(THRESHOLD), "iou": PixelIOU(THRESHOLD)}
    if complete:
        evaluators |= {"auc": PixelAUC(), "accuracy": PixelAccuracy(THRESHOLD)}
    figures = {
        key: evaluator.batch_update(predict=probability, mask=mask, shape_mask=real).tolist()
        for key, evaluator in evaluators.items()
    }
    if complete:
        inside = torch.ones_like(mask) if real is None else real
        shown = [(p[i > 0], m[i > 0]) for p, m, i in zip(probability, mask, inside, strict=True)]
        figures["auc_sklearn"] = [_auc(p, m) for p, m in shown]
        figures["accuracy_sklearn"] = [float(accuracy_score(m.cpu() > 0, p.cpu() > THRESHOLD)) for p, m in shown]
        figures["auc"] = [
            None if exact is None else auc for auc, exact in zip(figures["auc"], figures["auc_sklearn"], strict=True)
        ]
    return figures


def _by_threshold(probability: Tensor, mask: Tensor, real: Tensor | None) -> dict[str, list[list[float]]]:
    """By figure, by image, its value at each of `THRESHOLDS`; F1 is 2 TP / (2 TP + FP + FN)."""
    inside = torch.ones_like(mask, dtype=torch.bool) if real is None else real > 0
    truth, sums = (mask > 0) & inside, (1, 2, 3)
    f1, areas = [], []
    for threshold in THRESHOLDS:
        called = (probability > threshold) & inside
        f1.append(2 * (called & truth).sum(sums) / (called.sum(sums) + truth.sum(sums)).clamp(min=1))
        areas.append(called.sum(sums) / inside.sum(sums))
    return {"f1": torch.stack(f1, 1).tolist(), "false_alarm_area": torch.stack(areas, 1).tolist()}


def _auc(probability: Tensor, truth: Tensor) -> float | None:
    """None where only one class is there."""
    if not 0 < truth.mean() < 1:
        return None
    return float(roc_auc_score(truth.cpu().numpy(), probability.cpu().numpy()))


def _share(chosen: Tensor, real: Tensor | None) -> list[float]:
    """Of the real pixels of each image; `chosen` [B, 1, S, S] bool."""
    real = torch.ones_like(chosen, dtype=torch.float64) if real is None else real
    return ((chosen * real).sum((1, 2, 3)) / real.sum((1, 2, 3))).tolist()


def _image_figures(records: list[Record]) -> dict[str, float]:
    scores = torch.tensor([record["score"] for record in records], dtype=torch.float64)
    labels = torch.tensor([record["label"] for record in records])
    figures = {}
    for evaluator in (ImageF1(THRESHOLD), ImageAUC(THRESHOLD), ImageAccuracy(THRESHOLD)):
        evaluator.remain_update(predict_label=scores, label=labels)  # the path that needs no process group
        figures[evaluator.name] = float(evaluator.epoch_update())
    return figures
