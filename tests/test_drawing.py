import matplotlib
import pytest
from PIL import Image

from diffiml_plugin.drawing import add_legend, drawing
from diffiml_plugin.errors import visible


@pytest.mark.parametrize("name", ["$\\frac{$", "a$\\nothing$b", "\udcff", "a\nb", "_a", "__a: b"])
def test_a_name_in_a_plots_legend_is_shown_as_it_is(tmp_path, name):
    with drawing(tmp_path / "a.png", (6, 4), dpi=50) as figure:
        panel = figure.subplots()
        panel.plot([1, 10], [1, 10], label=name)
        panel.plot([1, 10], [2, 20], label="b")
        panel.set_yscale("log")
        add_legend(panel)
    assert Image.open(tmp_path / "a.png").size[0] > 100
    assert [text.get_text() for text in panel.get_legend().get_texts()] == [visible(name), "b"]


def test_no_matplotlibrc_decides_how_a_plot_looks(tmp_path):
    for settings in ({}, {"text.usetex": True, "lines.linewidth": 0, "figure.facecolor": "red"}):
        with matplotlib.rc_context(settings), drawing(tmp_path / f"{len(settings)}.png", (3, 2), dpi=50) as figure:
            figure.subplots().plot([1, 10], [1, 10])
    assert (tmp_path / "0.png").read_bytes() == (tmp_path / "3.png").read_bytes()
