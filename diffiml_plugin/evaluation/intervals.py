"""The table of a test with an interval for each figure, and the kinds of manipulation apart."""

from collections.abc import Mapping, Sequence
from typing import Any

from diffiml_plugin.evaluation.results import Record
from diffiml_plugin.evaluation.scores import OWN, THRESHOLD, at_threshold, best_threshold
from diffiml_plugin.evaluation.statistics import Figure, auc_figure, mean_figure
from diffiml_plugin.table import Table

_Groups = Sequence[Sequence[Mapping[str, Any]]]  # of datasets; a figure is the mean of theirs
_FIGURES = {"f1": "F1", "false_alarm_area": "false alarm"}  # key of a record -> head of a column


def intervals(by_set: Mapping[str, Sequence[Record]], own_threshold: float | None = None) -> Table:
    """A row for each dataset, for each kind of manipulation of one that has several, and for the mean of the datasets.

    Args:
        by_set: the records by dataset.
        own_threshold: the model's, at which the records hold figures too.
    """
    rows = []  # no mapping: a dataset may be called as any text that a dataset and a kind would make
    for name, records in by_set.items():
        rows.append({"": name, **_row([records], own_threshold)})
        kinds = sorted({record["kind"] for record in records if "kind" in record})
        for kind in kinds if len(kinds) > 1 else ():
            of_kind = [record for record in records if record.get("kind") == kind]
            rows.append({"": name, **_row([of_kind], own_threshold, kind)})
    if len(by_set) > 1:
        rows.append({"": "mean", **_row([*by_set.values()], own_threshold)})
    return Table.listed(rows)


def figures(by_set: Mapping[str, Sequence[Record]]) -> dict[str, dict[str, tuple[float, float, float]]]:
    """By dataset, the figures that it has, each with the ends of its 95 % interval; plain numbers for a checkpoint."""
    shown = {"f1": "pixel-level F1", "auc": "pixel-level AUC", "false_alarm_area": "false alarm area"}

    def of_set(records: Sequence[Record]) -> dict[str, Figure | None]:
        return {name: _mean([records], key) for key, name in shown.items()} | {"image-level AUC": _image_auc([records])}

    return {
        dataset: {name: (f.value, *f.interval) for name, f in of_set(records).items() if f and f.interval}
        for dataset, records in by_set.items()
    }


def _row(groups: _Groups, own_threshold: float | None, kind: str | None = None) -> dict[str, Any]:
    """By column, the figures of one dataset, or a kind of it, or the mean of several, which has no best threshold."""
    labels = [record["label"] for records in groups for record in records]
    best = best_threshold(groups[0]) if len(groups) == 1 else None
    cuts = {f"{THRESHOLD:g}": (groups, {key: key for key in OWN})}  # by name: records, and their keys
    if own_threshold is not None:
        cuts[f"its own {own_threshold:g}"] = groups, OWN
    if best is not None:
        cuts["the best"] = [at_threshold(groups[0], best)], cuts[f"{THRESHOLD:g}"][1]
    cells: dict[str, Any] = {"kind": kind, "tampered": labels.count(1), "authentic": labels.count(0)}
    cells["best threshold"] = None if best is None else f"{best:g}"
    for key, figure in _FIGURES.items():
        for cut, (records, keys) in cuts.items():
            cells[f"{figure} at {cut}"] = _mean(records, keys[key])
    return cells | {"image AUC": _image_auc(groups)}


def _mean(groups: _Groups, key: str) -> Figure | None:
    values = [[record[key] for record in records if record[key] is not None] for records in groups]
    return mean_figure([group for group in values if group]) if any(values) else None


def _image_auc(groups: _Groups) -> Figure | None:
    """Over the datasets that hold images of both kinds, of a model that scores images."""
    scores = [
        tuple([record["score"] for record in records if record["label"] == label] for label in (1, 0))
        for records in groups
    ]
    both = [(tampered, authentic) for tampered, authentic in scores if tampered and authentic]
    if not both or any(score is None for pair in both for part in pair for score in part):
        return None
    return auc_figure(both)
