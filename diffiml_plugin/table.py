"""One table, as text for a terminal, Markdown, LaTeX or HTML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tabulate import LATEX_ESCAPE_RULES, tabulate

_TYPESET = str.maketrans({"±": r"$\pm$", "×": r"$\times$", "²": r"$^2$", "–": "--"})
_NO_WIDER_THAN_THE_TEXT = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}"


@dataclass(frozen=True)
class Table:
    """Cells are shown as `str` shows them, None as nothing; the title is shown in LaTeX alone."""

    head: Sequence[object]
    rows: Sequence[Sequence[object]]
    title: str = ""

    @classmethod
    def of(cls, corner: str, cells: Mapping[str, Mapping[str, object]]) -> "Table":
        """One row for each entry of `cells`, {row: {column: cell}}; a cell that a row lacks is empty."""
        columns = list(dict.fromkeys(column for row in cells.values() for column in row))
        return cls([corner, *columns], [[name, *map(row.get, columns)] for name, row in cells.items()])

    def __str__(self) -> str:
        """Text for a terminal: the first column flush left, the others flush right."""
        return self._rendered("plain", colalign=["left", *["right"] * (len(self.head) - 1)])

    def markdown(self) -> str:
        """As GitHub reads it."""
        return self._rendered("github", "|", r"\|")

    def latex(self) -> str:
        """A floating table under its title, shrunk where it is wider than the text."""
        title = "".join(LATEX_ESCAPE_RULES.get(character, character) for character in self.title)
        lines = (
            r"\begin{table}[htbp]",
            r"\centering",
            rf"\textbf{{{title}}}\par\smallskip",
            _NO_WIDER_THAN_THE_TEXT + "{" + self._rendered("latex") + "}",
            r"\end{table}",
        )
        return "\n".join(lines).translate(_TYPESET)

    def html(self) -> str:
        """A `<table>`, its text escaped, in which "[1, 2]" stays on one line."""
        return self._rendered("html", ", ", ",\N{NO-BREAK SPACE}")

    def _rendered(self, style: str, old: str = "", new: str = "", colalign: Sequence[str] | None = None) -> str:
        head, *rows = (
            ["" if cell is None else str(cell).replace(old, new) for cell in row] for row in (self.head, *self.rows)
        )
        return tabulate(rows, head, style, disable_numparse=True, stralign=None, colalign=colalign)
