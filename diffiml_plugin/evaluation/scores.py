"""Figures of one image, and of a dataset from its images: the framework's, from pixels counted and sorted once."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from diffiml_plugin.evaluation.results import Record, Summary
from diffiml_plugin.f1 import pixel_f1
from diffiml_plugin.models.passes import read_output

THRESHOLD = 0.5  # fixed, as in the paper; exactly 0.5 counts as authentic
THRESHOLDS = tuple(step / 20 for step in range(1, 20))  # what else a test tries
# The framework's AUC depends on the order of equal scores, which is the pixels' here, and its testers count the padding
# in the accuracy of a last, smaller batch; scikit-learn's definitions stand beside them.
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
OWN = {key: f"{key}_at_own_threshold" for key in _CURVES}  # key of a record -> of its value at the model's own
_OF_TAMPERED = {*PIXEL_FIGURES, "mask_area", _CURVES["f1"], OWN["f1"]}  # which figures a record of either kind has
_OF_AUTHENTIC = {"mask_area", "false_alarm_area", _CURVES["false_alarm_area"], OWN["false_alarm_area"]}
_BEST_THRESHOLD = "best threshold"
_AT_BEST = {key: f"{MEANS[key]} at {_BEST_THRESHOLD}" for key in _CURVES}
_NO_MEAN = ("images", "tampered", "vanished", _BEST_THRESHOLD, *_AT_BEST.values())  # of a summary


def score_batch(
    output: Mapping[str, Any], batch: Mapping[str, Any], complete: bool = False, threshold: float | None = None
) -> list[Record]:
    """One record per image of the batch; shares are of its real pixels.

    Args:
        output: as `read_output` takes it.
        batch: of the framework's dataset, `shape_mask` (1 = real pixels) where images were padded.
        complete: AUC and accuracy too, which take their time, and F1 and false-alarm area at each of `THRESHOLDS`.
        threshold: the model's own, at which F1 and false-alarm area are given too, under the names of `OWN`.

    Raises:
        DiffIMLError: as `read_output`.
    """
    mask = batch["mask"]
    probability, scores = read_output(output, mask.shape, batch["name"])
    padding = batch.get("shape_mask")
    real = torch.ones_like(mask, dtype=torch.bool) if padding is None else padding > 0
    truth = (mask > 0) & real
    figures = _counted((probability > THRESHOLD) & real, truth, real, complete)
    if complete:
        figures = [one | _ranked(*image) for one, *image in zip(figures, probability, truth, real, strict=True)]
    if threshold is not None:
        at_own = _counted((probability > threshold) & real, truth, real, False)
        figures = [
            one | {name: own[key] for key, name in OWN.items()} for one, own in zip(figures, at_own, strict=True)
        ]
    records = []
    for i, label in enumerate(batch["label"].tolist()):
        own = _OF_TAMPERED if label == 1 else _OF_AUTHENTIC
        record = {
            "name": batch["name"][i],
            "index": int(batch["index"][i]),
            "label": label,
            **{key: value if key in own else None for key, value in figures[i].items()},
            "score": scores[i],
        }
        if "content" in batch:
            record["content"] = batch["content"][i]
        records.append(cast(Record, record))
    return records


def summarise(records: Iterable[Mapping[str, Any]]) -> Summary:
    """A dataset's figures: pixel figures are means over its tampered images, `false_alarm_area` over its authentic
    ones; image-level figures need a score for each image, and images of both kinds.

    `vanished`, where there are any, counts the tampered images whose region has no pixel left at the size that was
    scored: their pixel-F1 is 0 whatever the prediction. "At best threshold": the one that is best for the F1 of these
    very images, which no user could know.
    """
    records = list(records)
    tampered = [record for record in records if record["label"] == 1]
    summary: Summary = {"images": len(records), "tampered": len(tampered)}
    if vanished := sum(record.get("mask_area") == 0 for record in tampered):
        summary["vanished"] = vanished
    for key, name in (*MEANS.items(), *((OWN[key], f"{MEANS[key]} at own threshold") for key in OWN)):
        values = [record[key] for record in records if record.get(key) is not None]
        if values:
            summary[name] = fmean(values)
    if (threshold := best_threshold(records)) is not None:
        cut: Sequence[Mapping[str, Any]] = at_threshold(records, threshold)
        summary[_BEST_THRESHOLD] = threshold
        for key, name in _AT_BEST.items():
            if values := [record[key] for record in cut if record[key] is not None]:
                summary[name] = fmean(values)
    if 0 < len(tampered) < len(records) and all(record["score"] is not None for record in records):
        summary |= _image_figures(records)
    return summary


def best_threshold(records: Iterable[Mapping[str, Any]]) -> float | None:
    """That of `THRESHOLDS` with the highest mean F1 (the highest of equals), where each of several datasets
    weighs the same, as in `average`; None where no image has its curve."""
    sets: dict[str, list[Sequence[float]]] = {}
    for record in records:
        if (curve := record.get(_CURVES["f1"])) is not None:
            sets.setdefault(record.get("dataset", ""), []).append(curve)
    of_sets = [[fmean(values) for values in zip(*curves, strict=True)] for curves in sets.values()]
    means = [fmean(values) for values in zip(*of_sets, strict=True)]
    return max(zip(means, THRESHOLDS, strict=True))[1] if means else None


def at_threshold(records: Iterable[Mapping[str, Any]], threshold: float) -> list[Record]:
    """The records with F1 and false-alarm area, no other figure, as if `threshold`, of `THRESHOLDS`, had cut them."""
    position = THRESHOLDS.index(threshold)

    def cut(record: Mapping[str, Any]) -> dict[str, float | None]:
        return {key: curve[position] if (curve := record.get(name)) else None for key, name in _CURVES.items()}

    return [cast(Record, {**record, **cut(record)}) for record in records]


def average(summaries: Iterable[Summary]) -> Summary:
    """The mean of each figure over the datasets that have it; none of those at best threshold, which differs."""
    summaries = list(summaries)
    names = dict.fromkeys(name for summary in summaries for name in summary if name not in _NO_MEAN)
    return {name: fmean(summary[name] for summary in summaries if name in summary) for name in names}


def _counted(called: Tensor, truth: Tensor, real: Tensor, complete: bool) -> list[dict[str, float]]:
    """What counting pixels gives, by image: F1, IoU, the tampered share, the share that is called so, and accuracy.

    Args:
        called, truth, real: [B, 1, S, S] bool; the first two nowhere outside the third.
        complete: accuracy too.
    """
    counts = (part.flatten(1).sum(1).double() for part in (called & truth, called, truth, real))
    hits, calls, tampered, pixels = counts  # each [B]
    rejected = pixels - calls - tampered + hits
    accuracy = (hits + rejected) / pixels
    figures = {
        "f1": pixel_f1(hits, calls, tampered),
        "iou": hits / (calls + tampered - hits + 1e-8),  # as the framework's PixelIOU
        "mask_area": tampered / pixels,
        "false_alarm_area": calls / pixels,
    }
    if complete:
        figures |= {"accuracy": accuracy, "accuracy_sklearn": accuracy}
    return [dict(zip(figures, values, strict=True)) for values in torch.stack([*figures.values()], 1).tolist()]


def _ranked(probability: Tensor, truth: Tensor, real: Tensor) -> dict[str, Any]:
    """What the order of one image's pixels gives: both AUCs, and F1 and the called share at each of `THRESHOLDS`.

    Args:
        probability, truth, real: [1, S, S] float32, bool and bool.

    An AUC is None where only one class is there.
    """
    probability, truth = (values.masked_select(real) for values in (probability, truth))  # [P]
    keys, order = torch.sort(_descending(probability), stable=True)  # the most probable first
    positive = truth.index_select(0, order)
    hits = F.pad(positive, (1, 0)).cumsum(0, dtype=torch.int32)  # [P + 1], tampered pixels among so many first ones
    called = torch.searchsorted(keys, _descending(probability.new_tensor(THRESHOLDS)))
    hits_called, tampered = hits[called], hits[-1]
    figures: dict[str, Any] = {
        "auc": None,
        "auc_sklearn": None,
        _CURVES["f1"]: pixel_f1(hits_called, called, tampered).tolist(),
        _CURVES["false_alarm_area"]: (called / len(keys)).tolist(),
    }
    pairs = int(tampered) * (len(keys) - int(tampered))  # of a tampered and an authentic pixel
    if pairs:
        ordered = int((hits[1:] * ~positive).sum())  # pairs whose tampered pixel comes first
        figures["auc"] = ordered / pairs
        figures["auc_sklearn"] = (ordered + _halved_ties(keys, positive) / 2) / pairs
    return figures


def _descending(values: Tensor) -> Tensor:
    """int32 numbers in the opposite order of finite float32 ones, equal where those are: they sort 6 times faster."""
    bits = (values + 0.0).view(torch.int32)  # + 0.0: there are two zeros
    return ~torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def _halved_ties(keys: Tensor, positive: Tensor) -> int:
    """Twice what the pairs come to more if those of equal keys count a half, not by their pixels' order.

    Args:
        keys: [P], sorted.
        positive: [P] bool.
    """
    same = keys[1:] == keys[:-1]
    tied = (F.pad(same, (1, 0)) | F.pad(same, (0, 1))).nonzero().flatten()
    positive = positive[tied]
    hits = positive.cumsum(0)
    ends = torch.unique_consecutive(keys[tied], return_counts=True)[1].cumsum(0)  # one of each run of equal keys
    up = F.pad(hits[ends - 1], (1, 0))  # the ROC curve's points at the runs' ends
    right = F.pad(ends, (1, 0)) - up
    doubled_area = (right.diff() * (up[1:] + up[:-1])).sum()
    return int(doubled_area - 2 * (hits * ~positive).sum())


def _image_figures(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    from diffiml_plugin.framework.imdlbenco import ImageAccuracy, ImageAUC, ImageF1  # seconds, where none is needed

    scores = torch.tensor([record["score"] for record in records], dtype=torch.float64)
    labels = torch.tensor([record["label"] for record in records])
    figures = {}
    for evaluator in (ImageF1(THRESHOLD), ImageAUC(THRESHOLD), ImageAccuracy(THRESHOLD)):
        evaluator.remain_update(predict_label=scores, label=labels)  # the path that needs no process group
        figures[evaluator.name] = float(evaluator.epoch_update())
    return figures
