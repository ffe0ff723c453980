"""The table and the plot of `benco bench`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffiml_plugin.drawing import drawing
from diffiml_plugin.table import Table


def table(results: Mapping[str, Any]) -> Table:
    """One line for each row."""
    rows = {str(number): _cells(row) for number, row in enumerate(results["rows"], 1)}
    return Table.of("", rows, f"Cost of one prediction on {results['device']}")


def _cells(row: Mapping[str, Any]) -> dict[str, Any]:
    name = " ".join(filter(None, (row["model"], row.get("denoiser"))))
    cells = {"model": name, **{key: row[key] for key in ("image_size", "N", "S", "precision", "compiled")}}
    if "error" in row:
        return cells | {"error": row["error"][:60]}
    median, floor = row["latency_ms"]["median"], row.get("floor_ms")
    figures = {"ms": median, "p95": row["latency_ms"]["p95"], "images/s": row["images_per_second"]}
    figures |= {"MB": row["peak_mb"], "× floor": floor and median / floor}
    shown = {key: None if value is None else f"{value:.1f}" for key, value in figures.items()}
    return cells | shown | {"batch": row["batch_size"], "launches": row["launches"]}


def figures(results: Mapping[str, Any]) -> Table:
    """Ratios, the device's ceilings, and the milliseconds of the parts of one image's way."""
    shares = {f"{name}, ms an image": milliseconds for name, milliseconds in results["shares_ms"].items()}
    known = {**results["ratios"], **results["ceilings"], **shares}
    return Table(["", "figure"], [[name, None if value is None else f"{value:.3g}"] for name, value in known.items()])


def plot(path: Path, results: Mapping[str, Any]) -> None:
    """Three panels: milliseconds against N, S and the image's area."""
    with drawing(path, (12, 3.4), dpi=150) as figure:
        for axis, (name, points) in zip(figure.subplots(1, 3), results["lines"].items(), strict=True):
            values, milliseconds = zip(*points, strict=True)
            axis.plot([value**2 / 1e6 for value in values] if name == "image side" else values, milliseconds, "o-")
            axis.set_xlabel("image area, megapixels" if name == "image side" else name)
            axis.set_ylim(bottom=0)
            axis.grid(alpha=0.3)
        figure.axes[0].set_ylabel(f"ms, {results['device']}")
