"""The page of `benco demo`: figures, and what the model sees in images of photographs it was not trained on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffiml_plugin.data.images import read_image
from diffiml_plugin.demo.photographs import photographs
from diffiml_plugin.files import write_picture
from diffiml_plugin.prediction.pictures import heat, strip
from diffiml_plugin.reports import page
from diffiml_plugin.table import Table
from diffiml_plugin.tampering.settings import KINDS

PICTURES = "pictures.jpg"
_IN_PICTURE = 4  # rows of it


def write_report(
    path: Path,
    figures: dict[str, float],
    model: str,
    records: Sequence[dict[str, Any]],
    predictions: Path,
    shown: int,
) -> None:
    """Writes the page, and its first rows as PICTURES beside it.

    Args:
        figures: label -> pixel-F1; the last is the one to look at.
        model: its name and how it was trained.
        records: of all tested images (`scores.score_batch`, and `path`); images in Tp/, masks in Gt/.
        predictions: the folder `benco predict` wrote for the first `shown` of them.
    """
    train, test = (", ".join(photo.name for photo in photographs(part)) for part in ("train", "test"))
    rows = [_pictures(Path(record["path"]), predictions) for record in records[:shown]]
    page.write_page(
        path,
        "DiffIML, a demonstration",
        f"{model}. The images were tampered on the fly, from the photographs {train}; it is tested on {len(records)} "
        f"tampered images of photographs it never saw: {test}. The tampering is easier to see than in the wild.",
        [
            page.Section("By manipulation", tables=[Table(["manipulation", "images", "pixel-F1"], _by_kind(records))]),
            page.Section(
                "Unseen photographs",
                "Uncertainty: the standard deviation over the members of the ensemble, from black (none) to yellow.",
                [
                    page.Strip(row, f"{Path(record['name']).stem}: pixel-F1 {record['f1']:.2f}")
                    for row, record in zip(rows, records, strict=False)
                ],
            ),
        ],
        {label: f"{value:.3f}" for label, value in figures.items()},
    )
    below = ((0, 4), (0, 0), (0, 0))  # a white line
    picture = [np.pad(strip(*row.values()), below, constant_values=255) for row in rows[:_IN_PICTURE]]
    write_picture(path.with_name(PICTURES), np.vstack(picture), quality=92)


def _by_kind(records: Sequence[dict[str, Any]]) -> list[list[str]]:
    f1_by_kind = {kind: [record["f1"] for record in records if f"_{kind}_" in record["name"]] for kind in KINDS}
    return [[kind.replace("_", "-"), str(len(f1)), f"{np.mean(f1):.3f}"] for kind, f1 in f1_by_kind.items() if f1]


def _pictures(image: Path, predictions: Path) -> dict[str, np.ndarray]:
    shown = {
        "input": read_image(image),
        "truth": _map(image.parent.with_name("Gt") / image.name),
        "prediction": _map(predictions / f"{image.stem}_mask.png"),
    }
    uncertainty = predictions / f"{image.stem}_uncertainty.png"  # only a model that samples has one
    return {**shown, "uncertainty": heat(_map(uncertainty))} if uncertainty.exists() else shown


def _map(path: Path) -> np.ndarray:
    return read_image(path)[..., 0] / 255
