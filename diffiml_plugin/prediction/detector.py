"""From photos to results."""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias, overload

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch.utils.data import default_collate

from diffiml_plugin import launch
from diffiml_plugin.data.images import read_image, stored_pixels
from diffiml_plugin.errors import DiffIMLError, of_arguments
from diffiml_plugin.evaluation.calibration import Calibration
from diffiml_plugin.evaluation.evaluate import testing_mode
from diffiml_plugin.evaluation.scores import THRESHOLD
from diffiml_plugin.files import file_digest, make_folder
from diffiml_plugin.launch import to_device
from diffiml_plugin.models.compiled import speed_up
from diffiml_plugin.models.inputs import Inputs, require_image
from diffiml_plugin.models.opened import OpenedModel, open_model
from diffiml_plugin.models.registry import require_inputs
from diffiml_plugin.prediction.model_card import write_card
from diffiml_plugin.prediction.result import Result
from diffiml_plugin.settings import COMPILE_MODES, PRECISIONS, CommonSettings, require_choice
from diffiml_plugin.weights import hub

_logger = logging.getLogger(__name__)
Photo: TypeAlias = str | os.PathLike[str] | Image.Image | npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Failure:
    """A file without a result, and why."""

    path: Path
    reason: str


class Detector:
    """A model that says of photos which of their pixels were manipulated; `diffiml_plugin.load` makes one.

    Args:
        checkpoint_path: as `open_model` takes it.
        settings: the device, and how images reach the model, where not as it was trained. A model that was trained on
            padded images takes larger ones as they are.
        model, model_flags: as for `open_model`.
        threshold: a pixel of higher probability counts as manipulated; None: the checkpoint's own, else 0.5.
        precision, compile_mode: as `speed_up` takes them.

    Raises:
        DiffIMLError: as `open_model`; a device that is not there, or a value that is none of a setting's.
    """

    def __init__(
        self,
        checkpoint_path: str | os.PathLike[str],
        settings: CommonSettings,
        model: str = "",
        model_flags: Mapping[str, Any] | None = None,
        threshold: float | None = None,
        precision: str = "auto",
        compile_mode: str = "auto",
    ):
        require_choice("precision", precision, PRECISIONS)
        require_choice("compile", compile_mode, COMPILE_MODES)
        if threshold is not None and not 0 <= threshold <= 1:
            raise DiffIMLError(f"--threshold {threshold} is outside [0, 1]; probabilities are compared with it")
        self.device = launch.start_inference(settings.device).device
        self.opened = opened = open_model(checkpoint_path, settings, self.device, model, model_flags)
        if settings.image_size and opened.inputs.if_padding and opened.inputs.padding_mode == "reflect":
            _logger.info("the image size is not used: this model takes images at their own size")
        self.card, self.inputs = opened.card, Inputs(opened.inputs, opened.card.size_multiple)
        chosen = opened.threshold if threshold is None else threshold
        self.threshold = THRESHOLD if chosen is None else chosen
        self.calibration = _calibration(opened)
        self.model, self.precision = opened.build().to(self.device), precision
        speed_up(self.model, self.device, precision, compile_mode)

    @overload
    def __call__(self, photo: Photo) -> Result: ...  # type: ignore[overload-overlap]  # str is a Sequence[str]

    @overload
    def __call__(self, photo: Sequence[Photo]) -> list[Result]: ...

    def __call__(self, photo: Photo | Sequence[Photo]) -> Result | list[Result]:
        """What the model says of a photo, or of each of a list.

        Args:
            photo: the path of a file, a PIL image or an array [H, W, 3] of uint8, RGB; or a list of such. Pixels are
                taken as they are stored, without EXIF rotation. The SHA-256 of the file's bytes, or of the
                pixels where there is none, decides the noise of a model that samples, as in `benco test`: no name does.

        Raises:
            DiffIMLError: something else; a file that cannot be read; a photo too large for a model of one size.
        """
        with of_arguments():
            if isinstance(photo, (list, tuple)):
                return [self._detect(one) for one in photo]
            return self._detect(photo)

    def predict(self, files: Iterable[Path]) -> Iterator[Result | Failure]:
        """A result for each file, in order, or why there is none."""
        for file in files:
            try:
                yield self._detect(file)
            except DiffIMLError as error:
                yield Failure(file, str(error))

    def save_pretrained(self, folder: str | os.PathLike[str], name: str = "") -> Path:
        """Writes model.safetensors, with the settings that this detector runs with, and README.md, its model card.

        Args:
            folder: made if it is not there; `load` takes it.
            name: of the model in the card; the folder's, if empty.

        Returns:
            the folder.

        Raises:
            DiffIMLError: a file cannot be written.
        """
        made = make_folder(folder)
        self.opened.save(made / hub.WEIGHTS)
        write_card(made / hub.WEIGHTS, made / hub.CARD, name or made.resolve().name)
        return made

    def push_to_hub(self, name: str, *, private: bool = False) -> str:
        """Uploads what `save_pretrained` writes.

        Args:
            name: ORGANISATION/NAME of a repository on the hub, which is made if it is not there.
            private: make it so that few can see it.

        Returns:
            the commit's hash: `load(name, revision=...)` gives this very model for ever.

        Raises:
            DiffIMLError: no network, or no right to write there.
        """
        with TemporaryDirectory() as folder:
            return hub.push(self.save_pretrained(folder, name), name, private)

    def _detect(self, photo: object) -> Result:
        name, key, image = _read(photo)
        sample, geometry = self.inputs.sample(image, name)
        sample["noise_key"] = key
        if self.card.post_function:
            self.card.post_function(sample)
        require_inputs(self.model, sample)
        with testing_mode(self.model), launch.autocast(self.device, self.precision):
            output = self.model(**to_device(default_collate([sample]), self.device), uncertainty=True)
        if not output["pred_mask"].isfinite().all():
            raise DiffIMLError(f"the prediction for {name} is not finite; the weights have probably diverged")
        uncertainty, score = output.get("uncertainty"), output.get("pred_label")
        return Result(
            sample["name"],
            image,
            geometry.undo(output["pred_mask"][0, 0]),
            None if uncertainty is None else geometry.undo(uncertainty[0, 0]),
            None if score is None else float(score),
            self.threshold,
            self.calibration,
        )


def _calibration(opened: OpenedModel) -> Calibration | None:
    """The checkpoint's; None where it has none or a damaged one, or where the model does not run as calibrated."""
    if opened.checkpoint is None or opened.checkpoint.calibration is None:
        return None
    if changed := opened.changed:
        _logger.warning(f"uncalibrated: the model was calibrated with another {', '.join(changed)}")
        return None
    try:
        return Calibration.read(opened.checkpoint.calibration)
    except DiffIMLError as error:
        _logger.warning(f"uncalibrated: {error}")
        return None


def _read(photo: object) -> tuple[str, str, npt.NDArray[np.uint8]]:
    """A photo's path, or the start of its digest where it has none; its digest; its pixels, [H, W, 3] uint8."""
    if isinstance(photo, (str, os.PathLike)):
        image = read_image(Path(photo))
        return os.fspath(photo), file_digest(photo), image
    if isinstance(photo, Image.Image):
        photo = stored_pixels(photo, "the image")
    if not isinstance(photo, np.ndarray):
        raise DiffIMLError(
            f"a photo is a path, a PIL image or an array [H, W, 3] of uint8, not a {type(photo).__name__}"
        )
    require_image(photo, "the photo")
    digest = sha256(f"{photo.shape} {photo.dtype} ".encode())
    digest.update(np.ascontiguousarray(photo).data)
    key = digest.hexdigest()
    return key[:16], key, photo
