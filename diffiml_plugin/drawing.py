"""Plots: how one is drawn, written and labelled."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffiml_plugin.errors import visible
from diffiml_plugin.files import make_place, replacing

if TYPE_CHECKING:  # `--help` says nothing with these
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def add_legend(panel: "Axes", **style: Any) -> None:
    """A legend of each line of a panel, whose labels may be names of others' sets and folders: all are shown as they
    are, none as a formula, and none is left out, as matplotlib leaves out what begins with `_`.

    Args:
        style: as `Axes.legend` takes it.
    """
    lines = panel.get_lines()
    texts = panel.legend(lines, list(map(str, range(len(lines)))), **style).get_texts()
    for text, line in zip(texts, lines, strict=True):
        text.set(text=visible(str(line.get_label())), parse_math=False)


@contextmanager
def drawing(path: Path, size: tuple[float, float], dpi: int) -> Iterator["Figure"]:
    """A plot of so many inches, to be drawn inside, and then written as PNG, as `replacing` does; makes its folder.

    It looks as matplotlib draws by itself: a `matplotlibrc`, which may lie in the current folder and be anyone's, could
    have LaTeX run, or hide a curve.

    Raises:
        OSError: it cannot be written.
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context("default"):
        figure = Figure(size)
        yield figure
        make_place(path)
        with replacing(path, lasting=False) as file:
            figure.savefig(file, format="png", dpi=dpi, bbox_inches="tight")
