"""How photographs are tampered with: by one of two sets of ranges, or in the styles of a file."""

from collections.abc import Mapping
from dataclasses import dataclass

from diffiml_plugin.errors import DiffIMLError, nearest
from diffiml_plugin.tampering.styles import WORLD, Style, read_styles

STRENGTHS = ("realistic", "visible", WORLD)
KINDS = ("splice", "copy_move", "removal")
LARGEST_WINDOW = 4096  # pixels; larger ones would be of no photograph's own


@dataclass(frozen=True)
class TamperSettings:
    """Ranges, drawn from uniformly (the area log-uniformly) for each image."""

    area: tuple[float, float] = (0.01, 0.35)  # share of the image
    scale: tuple[float, float] = (0.7, 1.4)  # of the pasted object
    rotation: float = 25.0  # degrees, either way
    colour: float = 0.15  # contrast and channel gains of the pasted object change by up to this share
    feather: tuple[float, float] = (0.3, 1.5)  # pixels, sigma of the blurred border
    jpeg_before: tuple[int, int] = (70, 98)  # quality of host and donor before tampering,
    recompressed: float = 0.5  # of so many of them; the others keep the history that they came with
    jpeg_after: tuple[int, int] = (75, 95)  # quality of the tampered image
    least_change: float = 4.0  # grey levels, mean over the region; less is tried again elsewhere


REALISTIC = TamperSettings()
# Easier than the wild, for minutes of training: regions of some size, pasted objects enlarged and recoloured, and
# little compression afterwards.
VISIBLE = TamperSettings(
    area=(0.08, 0.35),
    scale=(1.2, 1.8),
    colour=0.3,
    jpeg_before=(85, 98),
    recompressed=1.0,
    jpeg_after=(88, 98),
    least_change=12,
)


def read_strength(name: str) -> TamperSettings | Mapping[str, Style]:
    """The settings of that name: of STRENGTHS, or the styles of a YAML file.

    Raises:
        DiffIMLError: an unknown name, or as `read_styles` does.
    """
    if name == WORLD or name.endswith((".yaml", ".yml")):
        return read_styles(name)
    ranges = dict(zip(STRENGTHS, (REALISTIC, VISIBLE), strict=False))
    if name not in ranges:
        raise DiffIMLError(
            f"strength {name!r} is not one of {', '.join(STRENGTHS)}, or a .yaml file of styles"
            f"{nearest(name, STRENGTHS)}"
        )
    return ranges[name]
