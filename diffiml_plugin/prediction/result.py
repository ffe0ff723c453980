"""What a model says of one photo, in the photo's own pixels."""

import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from diffiml_plugin.data.images import as_viewed
from diffiml_plugin.evaluation.calibration import UNCALIBRATED, Calibration, features
from diffiml_plugin.files import inside, write_picture
from diffiml_plugin.folders import taking_turns
from diffiml_plugin.ledger import begin, ledger_of
from diffiml_plugin.prediction.finding import without_suffix
from diffiml_plugin.prediction.pictures import bands, grey, shrunk

ENDINGS = ("_mask.png", "_binary.png", "_uncertainty.png", "_overlay.jpg")  # of the files that `Result.save` writes
_LONGEST = 65_500  # pixels, the longer side of a JPEG
_SMALLEST_REGION = 64  # pixels; a cell of the latent's grid has as many
_SAVING = Lock()  # a ledger is of one photo at a time


@dataclass(frozen=True)
class Region:
    """A connected part of a mask.

    Attributes:
        box: x, y, width, height in pixels, from the upper left, as the photo is stored.
        area: its share of the photo's pixels, in [0, 1].
        mean_probability: of its pixels, in [0, 1].
    """

    box: tuple[int, int, int, int]
    area: float
    mean_probability: float


@dataclass(frozen=True, eq=False)
class Result:
    """What a model says of one photo. All maps are [H, W] at its own size, in its pixels as they are stored.

    Attributes:
        name: of the photo's file, without folder; of an array or a PIL image, a digest of its pixels.
        image: the photo, [H, W, 3] uint8 RGB.
        probability: that a pixel was manipulated, float32 in [0, 1]. That of the photo is `image_probability`.
        uncertainty: standard deviation over the ensemble's members, float32 in [0, 0.5]; None without an ensemble.
        score: the model's own of the whole photo, in [0, 1], which is no probability; None of a model that has none.
        threshold: in [0, 1]; a pixel of higher probability counts as manipulated.
        calibration: what `benco calibrate` stored with the model; None: the photo gets no probability.
        orientation: as EXIF states it, 1 to 8; all maps and regions are of the photo as it is stored, which is 1.
        made_with: the model and its settings, as `Detector.deciding` has them, and the `maps_digest` that it gave.
        several: the photo's file holds further pictures, such as pages, which nobody looked at.
    """

    name: str
    image: npt.NDArray[np.uint8] = field(repr=False)
    probability: npt.NDArray[np.float32] = field(repr=False)
    uncertainty: npt.NDArray[np.float32] | None = field(repr=False)
    score: float | None
    threshold: float
    calibration: Calibration | None = field(default=None, repr=False)
    orientation: int = field(default=1, repr=False)
    made_with: Mapping[str, Any] = field(default_factory=dict, repr=False)
    several: bool = field(default=False, repr=False)

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """The manipulated pixels, [H, W] bool."""
        return self.probability > self.threshold

    @property
    def area(self) -> float:
        """The share of the pixels that are manipulated, in [0, 1]."""
        return float(self.mask.mean())

    @cached_property
    def regions(self) -> list[Region]:
        """The connected parts of the mask that have 64 pixels or more, the largest first."""
        mask = self.mask
        _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8))
        sums = np.zeros(len(stats))
        for rows in bands(mask):
            inside = mask[rows]
            np.add.at(sums, labels[rows][inside], self.probability[rows][inside])
        regions = [
            Region((int(x), int(y), int(width), int(height)), float(count / labels.size), float(total / count))
            for (x, y, width, height, count), total in zip(stats[1:], sums[1:], strict=True)  # 0 is no region
            if count >= _SMALLEST_REGION
        ]
        return sorted(regions, key=lambda region: -region.area)

    @cached_property
    def image_probability(self) -> float | None:
        """That the photo was tampered with, in [0, 1], where half of all photos are; None without a calibration."""
        if self.calibration is None:
            return None
        return self.calibration.probability(features(self.probability, self.uncertainty))

    @property
    def verdict(self) -> str:
        """`tampered`, `nothing found`, `cannot say`, or `uncalibrated`."""
        if self.calibration is None or self.image_probability is None:
            return UNCALIBRATED
        return self.calibration.verdict(self.image_probability)

    @property
    def sentence(self) -> str:
        """The answer for people: the photo's name, the verdict, its probability and the error rate that belongs to it.

        That nothing was found does not say that nothing was done.
        """
        name = f"{self.name} (the first of its pictures)" if self.several else self.name
        if self.calibration is None or self.image_probability is None:
            return (
                f"{name}: {UNCALIBRATED}; {self.area:.1%} of its area lies above {self.threshold:g}, and "
                "`benco calibrate` makes a probability of such"
            )
        return f"{name}: {self.calibration.explain(self.image_probability)}"

    @property
    def maps_digest(self) -> str:
        """Of probability and uncertainty, as `arrays_digest` has it."""
        return arrays_digest(self.probability, *([] if self.uncertainty is None else [self.uncertainty]))

    def overlay(self) -> npt.NDArray[np.uint8]:
        """The photo with the manipulated region tinted red and outlined, uint8 RGB, turned as a viewer shows it."""
        return as_viewed(overlay(self.image, self.mask), self.orientation)

    def save(self, folder: str | os.PathLike[str], name: str = "") -> dict[str, Path]:
        """Writes NAME_mask.png, the probability (255 = 1), NAME_binary.png, 255 where manipulated, NAME_overlay.jpg,
        turned as a viewer shows it, shrunk where no JPEG is as long, and given an uncertainty NAME_uncertainty.png
        (255 = 0.5, the largest there is).

        Args:
            folder: made if it is not there.
            name: the photo's, without its suffix, if empty.

        Returns:
            the files, by what stands behind NAME_.

        Raises:
            OSError: a file cannot be written.
            DiffIMLError: one of them is there, and no `save` wrote it, or that of another photo, another model,
                other settings, or maps that were changed since; `name` leads out of `folder`, or no file can have it.
        """
        start = inside(Path(folder), name or without_suffix(Path(Path(self.name).name)))
        files = [inside(start.parent, start.name + ending) for ending in ENDINGS]
        own = self.made_with.get("maps") == (maps := self.maps_digest)  # whose last bits differ from device to device
        run = f"save {start.name}"
        deciding = {
            **self.made_with,
            "maps": "of the model" if own else maps,
            "photo": arrays_digest(self.image),
            "threshold": self.threshold,
            "orientation": self.orientation,
        }
        with _SAVING, taking_turns(start.parent):
            known = (ledger := ledger_of(start)) and ledger.folder == Path(os.path.abspath(start.parent))
            if ledger and known and not any(map(os.path.lexists, files)):
                ledger.start(run, deciding)  # without reading it anew, of thousands of photos
            else:
                begin(start.parent, run, deciding, files)
            return write_result(self, start)


def arrays_digest(*arrays: npt.NDArray[Any]) -> str:
    """The SHA-256 of the arrays' values, shapes and types, in hexadecimal."""
    digest = sha256()
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype} ".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def write_result(result: Result, start: Path) -> dict[str, Path]:
    """As `Result.save`, of a command that has begun: the endings are added to `start`."""
    maps: dict[str, tuple[npt.NDArray[Any], float]] = {"mask": (result.probability, 1), "binary": (result.mask, 1)}
    if result.uncertainty is not None:
        maps["uncertainty"] = result.uncertainty, 0.5
    files = {kind: start.with_name(f"{start.name}_{kind}.png") for kind in maps}
    for kind, (values, highest) in maps.items():
        # Runs alone: half the time of a search for repeats, and a tenth fewer bytes.
        write_picture(files[kind], grey(values, highest), compress_type=zlib.Z_RLE)
    files["overlay"] = start.with_name(f"{start.name}_overlay.jpg")
    write_picture(files["overlay"], shrunk(result.overlay(), _LONGEST), quality=92)
    return files


def overlay(image: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """`image` [H, W, 3] uint8 with the region of `mask` [H, W] {0, 1} tinted red and outlined."""
    region = mask.astype(np.uint8)
    red = np.array([255, 40, 40])
    tints = (0.55 * np.arange(256)[:, None] + 0.45 * red).astype(np.uint8)  # [256, 3]: of each level of each colour
    tinted = image.copy()
    for rows in bands(image):
        cv2.copyTo(cv2.LUT(image[rows], tints[None]), region[rows], tinted[rows])  # in place
    outlines, _ = cv2.findContours(region, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    thickness = max(1, round(max(mask.shape) / 400))
    cv2.drawContours(tinted, outlines, -1, red.tolist(), thickness)  # in place
    return tinted
