"""A self-contained HTML page: style and pictures are inside the file, nothing is fetched."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

import cv2
import numpy as np

from diffiml_plugin.reports.pictures import as_picture

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #667085; --line: #dde1e8; --paper: #fbfbfd;
  --card: #fff; --accent: #b4352a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7e9ee; --soft: #9aa3b2; --line: #323a47;
  --paper: #14171c; --card: #1c2129; --accent: #ff8a75; } }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 70rem;
  margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { margin: 2.6rem 0 .8rem; font-size: 1.2rem; }
p { max-width: 46rem; } .lead, figcaption, th { color: var(--soft); }
.figures { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.6rem 0; }
.figures div { background: var(--card); border: 1px solid var(--line);
  border-radius: .6rem; padding: .8rem 1.2rem; }
.figures b { display: block; font-size: 1.7rem; font-variant-numeric: tabular-nums; }
.figures div:last-child b { color: var(--accent); }
table { display: block; overflow-x: auto; font-size: .88rem; border-collapse: collapse;
  font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .7rem .35rem 0; border-bottom: 1px solid var(--line); }
.strip { display: flex; gap: .5rem; margin: 0 0 .3rem; } .strip figure { flex: 1; margin: 0; min-width: 0; }
.strip img { width: 100%; display: block; border-radius: .35rem; } figcaption { font-size: .82rem; }
.caption { margin: 0 0 1.4rem; font-size: .88rem; }
"""


def figures(values: Mapping[str, str]) -> str:
    """A row of large numbers, label -> value; the last one stands out."""
    return (
        "<div class='figures'>"
        + "".join(f"<div><b>{escape(value)}</b>{escape(label)}</div>" for label, value in values.items())
        + "</div>"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A plain table of text cells, in which "[1, 2]" stays on one line."""

    def line(cells, tag):
        return "<tr>" + "".join(f"<{tag}>{escape(cell).replace(', ', ',&nbsp;')}</{tag}>" for cell in cells) + "</tr>"

    return "<table>" + line(head, "th") + "".join(line(row, "td") for row in rows) + "</table>"


def strip(pictures: Mapping[str, np.ndarray], caption: str) -> str:
    """Pictures and maps (see `pictures.as_picture`) in one row, each labelled, and a line below them."""
    cells = "".join(
        f"<figure><img alt='{escape(label)}' src='{_embedded(picture)}'>"
        f"<figcaption>{escape(label)}</figcaption></figure>"
        for label, picture in pictures.items()
    )
    return f"<div class='strip'>{cells}</div><p class='caption'>{escape(caption)}</p>"


def write_page(path: Path, title: str, lead: str, *body: str) -> None:
    """Writes the page: a title, one paragraph of plain text, then parts made by the functions above."""
    path.write_text(
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{_STYLE}</style>"
        f"<h1>{escape(title)}</h1><p class='lead'>{escape(lead)}</p>{''.join(body)}</html>\n",
        encoding="utf-8",
    )


def _embedded(picture: np.ndarray) -> str:
    kind, setting = (".png", []) if picture.ndim == 2 else (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 92])
    _, stored = cv2.imencode(kind, as_picture(picture)[..., ::-1], setting)
    mime = {".png": "image/png", ".jpg": "image/jpeg"}[kind]
    return f"data:{mime};base64,{base64.b64encode(stored).decode()}"
