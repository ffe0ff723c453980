"""A self-contained HTML page, laid out by page.html: style and pictures are inside the file, nothing is fetched."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jinja2 import Environment

from diffiml_plugin.files import write_text
from diffiml_plugin.prediction.pictures import as_picture
from diffiml_plugin.table import Table

_LAYOUT = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class Strip:
    """Pictures and maps (see `pictures.as_picture`) by their label, in one row, and a line below them."""

    pictures: Mapping[str, np.ndarray]
    caption: str


@dataclass(frozen=True)
class Section:
    """What stands below one heading, in this order."""

    title: str
    text: str = ""
    strips: Sequence[Strip] = ()
    tables: Sequence[Table] = ()
    folded: bool = False  # shown when its heading is clicked


def write_page(
    path: Path, title: str, lead: str, sections: Sequence[Section], figures: Mapping[str, str] | None = None
) -> None:
    """Writes the page: a title, one paragraph of plain text, a row of large numbers, and the sections.

    Args:
        figures: label -> value of the large numbers; the last one stands out.
    """
    environment = Environment(autoescape=True, trim_blocks=True)
    environment.filters["embedded"] = _embedded
    page = environment.from_string(_LAYOUT.read_text(encoding="utf-8"))
    write_text(path, page.render(title=title, lead=lead, figures=figures, sections=sections) + "\n")


def _embedded(picture: np.ndarray) -> str:
    """The picture as the address of an image: PNG of a map, JPEG of colours."""
    kind, setting = ("png", []) if picture.ndim == 2 else ("jpeg", [cv2.IMWRITE_JPEG_QUALITY, 92])
    _, encoded = cv2.imencode(f".{kind}", as_picture(picture)[..., ::-1], setting)
    return f"data:image/{kind};base64,{base64.b64encode(encoded.tobytes()).decode()}"
