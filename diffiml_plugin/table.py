"""One table, as text for a terminal, Markdown, LaTeX or HTML."""

import html
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tabulate import LATEX_ESCAPE_RULES, tabulate

from diffiml_plugin.errors import visible

BLANK = "-"  # of a cell that holds nothing
_NUMBER = re.compile(r"[+-]?[\d.,]+%?( ± [\d.]+)?( \[[^]]*\])?")  # with its spread and its interval
_TYPESET = str.maketrans({"±": r"$\pm$", "×": r"$\times$", "²": r"$^2$"})
_NO_WIDER_THAN_THE_TEXT = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}"


class _Form(NamedTuple):
    style: str  # of tabulate
    escape: Callable[[str], str]
    bold: str


def _for_latex(text: str) -> str:
    return "".join(LATEX_ESCAPE_RULES.get(character, character) for character in text)


def for_markdown(text: str) -> str:
    """Any text as Markdown that shows it: no tags, no links, no pictures and no places that they could lead to, no
    headings, no beginnings of code, no bars that end a cell."""
    return re.sub(r"\||(?<=\])[(:]|^[#`~]", r"\\\g<0>", html.escape(visible(text).strip(), quote=False))


def as_code(text: str) -> str:
    """Any text as Markdown's code."""
    return "`" + visible(text).replace("`", "'") + "`"


def _for_html(text: str) -> str:
    return html.escape(text).replace(", ", ",\N{NO-BREAK SPACE}")


_TEXT = _Form("plain", str, "{}")
_MARKDOWN = _Form("pipe", for_markdown, "**{}**")
_LATEX = _Form("latex_raw", _for_latex, r"\textbf{{{}}}")
_HTML = _Form("unsafehtml", _for_html, "<b>{}</b>")


@dataclass(frozen=True)
class Table:
    """Cells are shown as `str` shows them, floats with four digits and None as `BLANK`. Numbers stand flush right.

    Args:
        title: shown in LaTeX alone.
        bold: (row, column), from 0, of the cells that stand out.
        note: a line below, for what the figures do not tell by themselves.
    """

    head: Sequence[object]
    rows: Sequence[Sequence[object]]
    title: str = ""
    bold: Collection[tuple[int, int]] = ()
    note: str = ""

    @classmethod
    def of(cls, corner: str, cells: Mapping[str, Mapping[str, object]], title: str = "") -> "Table":
        """One row for each entry of `cells`, {row: {column: cell}}; a cell that a row lacks is None."""
        columns = list(dict.fromkeys(column for row in cells.values() for column in row))
        return cls([corner, *columns], [[name, *map(row.get, columns)] for name, row in cells.items()], title)

    @classmethod
    def listed(cls, rows: Sequence[Mapping[str, object]], title: str = "") -> "Table":
        """Of rows {column: cell}, of which two may begin alike; a column that none of them fills is left out."""
        filled = dict.fromkeys(column for row in rows for column in row)
        columns = [column for column in filled if any(row.get(column) is not None for row in rows)]
        return cls(columns, [[*map(row.get, columns)] for row in rows], title)

    def __str__(self) -> str:
        """Text for a terminal."""
        return self._rendered(_TEXT) + (f"\n{visible(self.note)}" if self.note else "")

    def markdown(self) -> str:
        """As GitHub reads it."""
        return self._rendered(_MARKDOWN) + (f"\n\n{for_markdown(self.note)}" if self.note else "")

    def latex(self) -> str:
        """A floating table under its title, shrunk where it is wider than the text."""
        lines = (
            r"\begin{table}[htbp]",
            r"\centering",
            rf"\textbf{{{_for_latex(visible(self.title))}}}\par\smallskip",
            _NO_WIDER_THAN_THE_TEXT + "{" + self._rendered(_LATEX) + "}",
            *([rf"\par\smallskip {_for_latex(visible(self.note))}"] if self.note else []),
            r"\end{table}",
        )
        return "\n".join(lines).translate(_TYPESET)

    def html(self) -> str:
        """A `<table>`, its text escaped, in which "[1, 2]" stays on one line."""
        below = f'\n<p class="caption">{html.escape(visible(self.note))}</p>' if self.note else ""
        return self._rendered(_HTML) + below

    def _rendered(self, form: _Form) -> str:
        rows = [[form.escape(visible(_shown(cell))) for cell in row] for row in self.rows]
        sides = ["left", *("right" if _numeric(column) else "left" for column in [*zip(*self.rows, strict=True)][1:])]
        for row, column in self.bold:
            rows[row][column] = form.bold.format(rows[row][column])
        head = [form.escape(visible(str(name))) for name in self.head]
        return tabulate(rows, head, form.style, disable_numparse=True, stralign=None, colalign=sides if rows else None)


def _shown(cell: object) -> str:
    return BLANK if cell is None else f"{cell:.4f}" if isinstance(cell, float) else str(cell)


def _numeric(column: Sequence[object]) -> bool:
    return all(cell in ("", BLANK) or _NUMBER.fullmatch(cell) for cell in map(_shown, column))
