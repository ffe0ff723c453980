"""`benco robust`: pixel-F1 against the strength of the framework's perturbations (DiffIML, Figure 4)."""

import warnings
from collections.abc import Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from diffiml_plugin.data.order import seed_cpu
from diffiml_plugin.drawing import add_legend, drawing
from diffiml_plugin.evaluation.records import records_file
from diffiml_plugin.evaluation.results import Figures, Perturbed, Point, Record, noted
from diffiml_plugin.evaluation.scores import PIXEL_FIGURES, average, summarise
from diffiml_plugin.evaluation.scoring import open_scoring
from diffiml_plugin.evaluation.settings import TestSettings
from diffiml_plugin.framework.imdlbenco import GaussianBlurWrapper, GaussianNoiseWrapper, JpegCompressionWrapper
from diffiml_plugin.table import Table

RESULTS, PLOT = "robust.json", "robust.png"
FILES = (RESULTS, records_file(Path(RESULTS)).name, PLOT)
PERTURBATIONS = {  # name -> the framework's wrapper, its standard strengths, what they are
    "jpeg": (JpegCompressionWrapper, (100, 90, 80, 70, 60, 50), "JPEG quality"),
    "blur": (GaussianBlurWrapper, (3, 7, 11, 15, 19, 23), "Gaussian blur, kernel in pixels"),
    "noise": (GaussianNoiseWrapper, (3, 7, 11, 15, 19, 23), "Gaussian noise, variance"),
}
CLEAN = "clean"
Curves = Mapping[str, Mapping[str, Mapping[int, float]]]  # by label, perturbation and strength: pixel-F1


def robust(settings: TestSettings, model_flags: Mapping[str, Any] | None = None) -> Perturbed:
    """Scores a checkpoint on perturbed images; writes robust.json, _per_image.jsonl and .png, and prints a table.

    Images are perturbed at their own size. What is random about it follows from (seed, the image's pixels), so that
    neither its place in a list nor the number of workers matters. An interrupted run, started again, goes on after the
    last batch that was done.

    Returns:
        what robust.json holds: what `test.test` returns, where the figures of `datasets` are those of the clean
        images, and `curves`, by perturbation a list of {strength, datasets, mean}.

    Raises:
        DiffIMLError: as `test.test`.
    """
    scoring = open_scoring(settings, model_flags, FILES)
    records: list[Record] = []

    def score(variant: str, transform: Any = None) -> Figures:
        by_set = {name: scoring.records(name, variant, transform) for name in scoring.lists}
        records.extend({"variant": variant, **record} for part in by_set.values() for record in part)
        summaries = {name: summarise(part) for name, part in by_set.items()}
        return {"datasets": summaries, "mean": average(summaries.values())}

    clean = score(CLEAN)
    curves: dict[str, list[Point]] = {
        name: [
            {
                "strength": strength,
                **score(f"{name} {strength}", partial(perturb, settings.seed, perturbed(name, strength))),
            }
            for strength in strengths
        ]
        for name, (_, strengths, _) in PERTURBATIONS.items()
    }
    results: Perturbed = {**scoring.header, **clean, "curves": curves}
    if scoring.state.is_main_process:
        plot(Path(settings.output_dir, PLOT), {name: curve_of(results, name) for name in scoring.lists})
        print(*tables(results), sep="\n")
    scoring.finish(results, records)
    return results


def perturbed(perturbation: str, strength: int) -> Any:
    """The framework's transform of one strength; from a wrapper of its own, since wrappers remember where they are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the framework uses what albumentations will rename
        return next(PERTURBATIONS[perturbation][0]([strength]))[1]


def perturb(seed: int, transform: Any, image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """What a transform makes of an image [H, W, 3] uint8 and its mask; what it draws follows from seed and pixels."""
    seed_cpu(seed, int(sha256(image.tobytes()).hexdigest(), 16))
    return transform(image=image, mask=mask)


def curve_of(results: Perturbed, dataset: str = "", figure: str = PIXEL_FIGURES["f1"]) -> dict[str, dict[int, float]]:
    """A figure by perturbation and strength, 0 being the clean image; of one dataset, else of their mean."""

    def read(summary: Figures) -> float | None:
        return (summary["datasets"].get(dataset, {}) if dataset else summary["mean"]).get(figure)

    curves = {
        perturbation: {0: read(results), **{point["strength"]: read(point) for point in points}}
        for perturbation, points in results["curves"].items()
    }
    return {
        perturbation: {strength: value for strength, value in curve.items() if value is not None}
        for perturbation, curve in curves.items()
    }


def plot(path: Path, curves: Curves, published: Curves | None = None) -> None:
    """Draws one panel for each perturbation with one line for each entry of `curves`, {label: `curve_of`}.

    Args:
        published: others' curves, drawn thin and dashed beside them.
    """
    panels = list(dict.fromkeys(perturbation for curve in curves.values() for perturbation in curve))
    with drawing(path, (4 * len(panels), 3.4), dpi=150) as figure:
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)
        for perturbation, panel in zip(panels, axes[0], strict=True):
            strengths = (0, *PERTURBATIONS[perturbation][1])
            ours, others = {"marker": "o"}, {"linestyle": "--", "linewidth": 0.8}
            lines = [(*line, ours) for line in curves.items()] + [(*line, others) for line in (published or {}).items()]
            for label, curve, style in lines:
                points = {s: value for s, value in curve.get(perturbation, {}).items() if s in strengths}
                panel.plot([strengths.index(s) for s in points], list(points.values()), label=label, **style)
            panel.set_xticks(range(len(strengths)), [CLEAN, *strengths[1:]])
            panel.set_xlabel(PERTURBATIONS[perturbation][2])
            panel.grid(alpha=0.3)
        axes[0][0].set_ylabel("pixel-F1")
        axes[0][0].set_ylim(bottom=0)
        add_legend(axes[0][-1], fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))


def tables(results: Perturbed) -> list[Table]:
    """Mean pixel-F1 over the datasets by strength, a table for each perturbation."""
    return [
        Table(
            [PERTURBATIONS[perturbation][2], *(strength or CLEAN for strength in curve)],
            [["pixel-F1", *curve.values()]],
            note=noted(results),
        )
        for perturbation, curve in curve_of(results).items()
    ]
