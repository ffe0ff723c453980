"""From images to predictions."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import default_collate

from diffiml_plugin import launch
from diffiml_plugin.data.images import read_image
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.evaluation.evaluate import testing_mode
from diffiml_plugin.launch import to_device
from diffiml_plugin.models.compiled import speed_up
from diffiml_plugin.models.inputs import Inputs
from diffiml_plugin.models.opened import open_model
from diffiml_plugin.models.registry import require_inputs
from diffiml_plugin.settings import CommonSettings

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImagePrediction:
    """All maps are [H, W] float32 at the image's own size."""

    image: np.ndarray  # [H, W, 3] uint8 RGB
    probability: np.ndarray  # in [0, 1]
    uncertainty: np.ndarray | None  # std over the ensemble, in [0, 0.5]; None if the model has none
    score: float | None  # of the whole image, in [0, 1]; None if the model has none


@dataclass(frozen=True)
class Failure:
    """A file without a prediction, and why."""

    path: Path
    reason: str


class Predictor:
    """A checkpoint that predicts image files.

    Args:
        checkpoint_path: as `checkpoints.restore` takes it.
        image_size: pixels, the side that the model works at; None means as trained. A model that was trained on
            padded images takes larger ones as they are.
        device: one of `settings.DEVICES`.
        precision, compile_mode: as `speed_up` takes them.
        model, model_flags: as for `checkpoints.restore`.
    """

    def __init__(
        self,
        checkpoint_path: str | Path,
        image_size: int | None = None,
        device: str = "auto",
        model: str = "",
        model_flags: Mapping[str, Any] | None = None,
        precision: str = "auto",
        compile_mode: str = "auto",
    ):
        self.device = launch.start_inference(device).device
        settings = CommonSettings(image_size=image_size)
        opened = open_model(checkpoint_path, settings, self.device, model, model_flags)
        self.model, self.card, self.inputs = opened.build().to(self.device), opened.card, opened.inputs
        self.precision = precision
        speed_up(self.model, self.device, precision, compile_mode)
        if image_size and self.inputs.if_padding and self.inputs.padding_mode == "reflect":
            _logger.info("--image_size is not used: this model takes images at their own size")

    def predict(self, files: Sequence[Path]) -> Iterator[ImagePrediction | Failure]:
        """One result per file, in order. The noise is keyed by the file's name, as in `benco test`."""
        for file in files:
            try:
                yield self._predict(file)
            except DiffIMLError as error:
                yield Failure(file, str(error))

    def _predict(self, file: Path) -> ImagePrediction:
        image = read_image(file)
        sample, geometry = Inputs(self.inputs, self.card.size_multiple).sample(image, str(file))
        if self.card.post_function:
            self.card.post_function(sample)
        require_inputs(self.model, sample)
        with testing_mode(self.model), launch.autocast(self.device, self.precision):
            output = self.model(**to_device(default_collate([sample]), self.device), uncertainty=True)
        if not output["pred_mask"].isfinite().all():
            raise DiffIMLError(f"the prediction for {file} is not finite; the weights have probably diverged")
        uncertainty = output.get("uncertainty")
        score = output.get("pred_label")
        return ImagePrediction(
            image,
            geometry.undo(output["pred_mask"][0, 0]),
            None if uncertainty is None else geometry.undo(uncertainty[0, 0]),
            None if score is None else float(score),
        )
