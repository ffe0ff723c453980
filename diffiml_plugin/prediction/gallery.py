"""report.html: what a folder of results holds, as a page to look through."""

import base64
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
from jinja2 import Environment
from matplotlib import colormaps

from diffiml_plugin.data.images import as_viewed
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.files import inside, write_picture, write_text
from diffiml_plugin.prediction.journal import MASK, RUN, Entry, latest
from diffiml_plugin.prediction.pictures import grey, shrunk
from diffiml_plugin.prediction.result import Result
from diffiml_plugin.stored import read_json

PAGE, PREVIEWS = "report.html", "report_files"
ENDINGS_OF_PREVIEWS = ("_photo.jpg", "_probability.jpg", "_uncertainty.jpg", "_thumb.jpg")
_LAYOUT = Path(__file__).with_name("gallery.html")
_EMBEDDED = 100  # photos whose pictures the page holds itself; of more it shows those in PREVIEWS
_LONGEST, _THUMB = 1280, 360  # pixels, the longer side of a picture
_LARGEST = 2**23  # bytes of a picture: more than noise takes
_STOPS = 9  # of a colour map
_COLOURS = {"probability": "inferno", "uncertainty": "viridis"}
_TURNED = {
    2: "mirrored",
    3: "turned by 180°",
    4: "mirrored upside down",
    5: "mirrored, turned by 90° to the left",
    6: "turned by 90° to the right",
    7: "mirrored, turned by 90° to the right",
    8: "turned by 90° to the left",
}


def write_previews(start: Path, result: Result) -> None:
    """Writes what the page shows of a photo, turned as a viewer does, beginning with `start`. Raises OSError."""
    pictures: dict[str, npt.NDArray[Any]] = {"photo": result.image, "probability": grey(result.probability)}
    if result.uncertainty is not None:
        pictures["uncertainty"] = grey(result.uncertainty, 0.5)
    for kind, picture in pictures.items():
        shown = as_viewed(shrunk(picture, _LONGEST), result.orientation)
        write_picture(start.with_name(f"{start.name}_{kind}.jpg"), shown, quality=85)
    write_picture(start.with_name(f"{start.name}_thumb.jpg"), shrunk(result.overlay(), _THUMB), quality=80)


def write_gallery(folder: Path) -> None:
    """Writes the page of all results in a folder. Raises DiffIMLError if it cannot be written."""
    entries = latest(folder)
    done = [entry for entry in entries.values() if "error" not in entry]
    run = read_json(folder / RUN)
    environment = Environment(autoescape=True, trim_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    page = environment.from_string(_LAYOUT.read_text(encoding="utf-8")).render(
        title="Where photos were tampered with",
        lead=f"{len(done)} photo{'s' * (len(done) != 1)}, by {run['model']} "
        f"({Path(run['checkpoint']).name}, SHA-256 {run['sha256'][:12]}).",
        threshold=run["settings"]["threshold"],
        maps=[{"id": name, "tables": _tables(colours)} for name, colours in _COLOURS.items()],
        legends=_legends(),
        data=[_photo(folder, entry, len(done) <= _EMBEDDED) for entry in done],
        failures=[entry["error"] for entry in entries.values() if "error" in entry],
    )
    write_text(folder / PAGE, page + "\n")


def _photo(folder: Path, entry: Entry, embedded: bool) -> dict[str, Any]:
    """What the page's script knows of a photo."""
    name = entry["mask"].removesuffix(MASK)
    width, height = entry["size"]
    shown = f"{height}x{width}" if entry["orientation"] > 4 else f"{width}x{height}"
    turned = _TURNED.get(entry["orientation"])
    facts = {
        "area": f"{entry['area']:.2%} of the photo",
        "regions": str(len(entry["regions"])),
        "stored": f"{width}x{height} pixels",
        "shown": f"{shown}, {turned} (EXIF {entry['orientation']})" if turned else "as stored (EXIF 1)",
        "file": entry["image"],
        "SHA-256": entry["sha256"],
    }
    kinds = {"mask": "png", "binary": "png", "overlay": "jpg"}
    return {
        **{key: entry[key] for key in ("probability", "score", "verdict", "sentence", "area")},
        "name": Path(entry["image"]).name,
        "facts": facts,
        "links": {kind: _address(f"{name}_{kind}.{suffix}") for kind, suffix in kinds.items()},
        "pictures": dict(_pictures(folder, name, embedded)),
    }


def _pictures(folder: Path, name: str, embedded: bool) -> Iterator[tuple[str, str]]:
    for kind in ("thumb", "photo", "probability", "uncertainty"):
        place = f"{PREVIEWS}/{name}_{kind}.jpg"
        if not _is_preview(folder, place):
            continue
        if embedded:
            yield kind, f"data:image/jpeg;base64,{base64.b64encode((folder / place).read_bytes()).decode()}"
        else:
            yield kind, _address(place)


def _is_preview(folder: Path, place: str) -> bool:
    """Whether it is a file of the folder's own: in one that comes from elsewhere it may be a link, or a pipe."""
    try:
        status = os.lstat(inside(folder, place))
    except (DiffIMLError, OSError):
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size <= _LARGEST


def _address(place: str) -> str:
    return quote(os.fsencode(place))


def _legends() -> Mapping[str, Mapping[str, Any]]:
    """By the name of a view: its button's label, its picture, and the ends of its colours."""
    return {
        "mask": {"label": "overlay", "picture": "probability", "gradient": "", "scale": []},
        "probability": {
            "label": "probability",
            "picture": "probability",
            "gradient": _gradient(_COLOURS["probability"]),
            "scale": ["0", "probability that a pixel was tampered with", "1"],
        },
        "uncertainty": {
            "label": "uncertainty",
            "picture": "uncertainty",
            "gradient": _gradient(_COLOURS["uncertainty"]),
            "scale": ["0", "standard deviation over the members", "0.5"],
        },
    }


def _stops(colours: str) -> npt.NDArray[np.float64]:
    """[_STOPS, 3] in [0, 1]."""
    return colormaps[colours](np.linspace(0, 1, _STOPS))[:, :3]


def _tables(colours: str) -> dict[str, str]:
    """Of each channel, as a filter of SVG takes them."""
    return {
        channel: " ".join(f"{value:.3f}" for value in column)
        for channel, column in zip("RGB", _stops(colours).T, strict=True)
    }


def _gradient(colours: str) -> str:
    stops = ", ".join(f"rgb({red:.0f} {green:.0f} {blue:.0f})" for red, green, blue in 255 * _stops(colours))
    return f"linear-gradient(to right, {stops})"
