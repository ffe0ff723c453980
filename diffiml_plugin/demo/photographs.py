"""The real photographs that the dependencies carry on disk, so that the demo needs no download."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from diffiml_plugin.errors import DiffIMLError

# (package, path inside it, part). A whole photograph belongs to one part, never a crop of it to each; the two
# views of the stereo pair show one scene and stay together. "test" is a portrait, an object and a building.
_CARRIED = (
    ("skimage", "data/astronaut.png", "train"),
    ("skimage", "data/camera.png", "train"),
    ("skimage", "data/chelsea.png", "train"),
    ("skimage", "data/coins.png", "train"),
    ("skimage", "data/hubble_deep_field.jpg", "train"),
    ("skimage", "data/motorcycle_left.png", "train"),
    ("skimage", "data/motorcycle_right.png", "train"),
    ("skimage", "data/rocket.jpg", "train"),
    ("sklearn", "datasets/images/flower.jpg", "train"),
    ("skimage", "data/coffee.png", "test"),
    ("sklearn", "datasets/images/china.jpg", "test"),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg", "test"),
)


@dataclass(frozen=True)
class Photograph:
    """One untouched photograph on this machine; `part` is "train" or "test"."""

    name: str
    path: Path
    part: str


def photographs(part: str | None = None) -> list[Photograph]:
    """The carried photographs in a fixed order: all, or those of one `part` ("train", "test").

    Raises:
        DiffIMLError: a dependency is missing or no longer ships one of the files.
    """
    photos = [Photograph(Path(inside).stem, _folder(package) / inside, of) for package, inside, of in _CARRIED]
    missing = [str(photo.path) for photo in photos if not photo.path.is_file()]
    if missing:
        raise DiffIMLError(
            f"{len(missing)} of {len(photos)} photographs are missing: {', '.join(missing)}; "
            "reinstall scikit-image, scikit-learn and matplotlib from the package index"
        )
    return [photo for photo in photos if part in (None, photo.part)]


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)  # finds the folder without the seconds an import takes
    return Path(spec.origin).parent if spec and spec.origin else Path(package)
