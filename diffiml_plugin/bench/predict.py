"""`benco predict`: masks for image files, through the data path of `benco test`."""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import default_collate
from tqdm import tqdm

from diffiml_plugin.bench import checkpoints, launch, pictures
from diffiml_plugin.bench.data import InputSettings, make_test_set, to_device
from diffiml_plugin.bench.imagelists import NEGATIVE, ImageList
from diffiml_plugin.bench.images import find_images, read_image
from diffiml_plugin.bench.models import input_mode, require_inputs, require_size, size_multiple
from diffiml_plugin.bench.outputs import make_folder
from diffiml_plugin.bench.scores import THRESHOLD
from diffiml_plugin.bench.scoring import testing_mode
from diffiml_plugin.errors import DiffIMLError


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
        model, model_flags: as for `checkpoints.restore`.
    """

    def __init__(
        self,
        checkpoint_path: str | Path,
        image_size: int | None = None,
        device: str = "auto",
        model: str = "",
        model_flags: Mapping[str, Any] | None = None,
    ):
        self.device = launch.start_inference(device).device
        shared = {"image_size": image_size, "device": str(self.device)}
        restored = checkpoints.restore(checkpoint_path, model, model_flags, shared)
        self.model, self.name = restored.model.to(self.device), restored.name
        trained = InputSettings(**(restored.input or input_mode(restored.name)))
        if image_size and trained.if_padding and trained.padding_mode == "reflect":
            print("note: --image_size is not used: this model takes images at their own size", file=sys.stderr)
            image_size = None
        self.inputs = replace(trained, image_size=image_size or trained.image_size)
        require_size(restored.name, self.inputs.image_size)

    def predict(self, files: Sequence[Path]) -> Iterator[ImagePrediction | Failure]:
        """One result per file, in order. The noise is keyed by the file's name, as in `benco test`."""
        for file in files:
            try:
                yield self._predict(file)
            except DiffIMLError as error:
                yield Failure(file, str(error))

    def _predict(self, file: Path) -> ImagePrediction:
        image = read_image(file)
        height, width = image.shape[:2]
        if self.inputs.if_padding and not size_multiple(self.name) and max(height, width) > self.inputs.image_size:
            raise DiffIMLError(f"{file} has {width}x{height} pixels, the model takes {self.inputs.image_size} at most; "
                               "shrink it, or raise --image_size if the model can")
        listed = ImageList("the image", (str(file),), (NEGATIVE,))
        sample = make_test_set(listed, self.inputs, self.name)[0]
        require_inputs(self.model, sample)
        with testing_mode(self.model), torch.inference_mode(), launch.autocast(self.device, "fp32"):
            output = self.model(**to_device(default_collate([sample]), self.device), details=True)
        if not output["pred_mask"].isfinite().all():
            raise DiffIMLError(f"the prediction for {file} is not finite; the weights have probably diverged")

        def at_own_size(values: torch.Tensor) -> np.ndarray:  # [1, 1, S, S] → [H, W]
            values = values[0, 0].float().cpu().numpy()
            if self.inputs.if_padding:
                return values[:height, :width]
            return cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR)

        uncertainty = output.get("uncertainty")
        score = output.get("pred_label")
        return ImagePrediction(
            image,
            at_own_size(output["pred_mask"]),
            None if uncertainty is None else at_own_size(uncertainty),
            None if score is None else float(score),
        )


def predict(
    predictor: Predictor, paths: Sequence[str], output_dir: Path, threshold: float = THRESHOLD
) -> list[Failure]:
    """Predicts the images at and below `paths`, and writes into `output_dir`, in their sub-folders:

    - NAME_mask.png, the probability (255 = 1), NAME_binary.png, 255 above the threshold, NAME_overlay.jpg;
    - NAME_uncertainty.png (255 = 0.5, the largest standard deviation there is), given an ensemble;
    - scores.json: image, mask, score of the image and `area`, its share of pixels above the threshold.

    Returns:
        the files that could not be predicted; they are in scores.json and on stderr too.

    Raises:
        DiffIMLError: a path that does not exist, or holds no image; a threshold outside [0, 1].
    """
    if not 0 <= threshold <= 1:
        raise DiffIMLError(f"--threshold {threshold} is outside [0, 1]; probabilities are compared with it")
    found = find_images(paths, output_dir)
    make_folder(output_dir)
    stems = Counter(relative.with_suffix("") for _, relative in found)
    failures, entries = [], []
    results = predictor.predict([file for file, _ in found])
    bar = tqdm(results, "predict", len(found), unit="img", disable=None)
    for (file, relative), result in zip(found, bar, strict=True):
        if isinstance(result, Failure):
            tqdm.write(f"error: {result.reason}", file=sys.stderr)
            failures.append(result)
            entries.append({"image": str(file), "error": result.reason})
            continue
        unique = stems[relative.with_suffix("")] == 1
        target = output_dir / (relative.with_suffix("") if unique else relative)
        area = _write(result, target, threshold)
        mask = f"{target.relative_to(output_dir)}_mask.png"
        entries.append({"image": str(file), "mask": mask, "score": result.score, "area": area})
    (output_dir / "scores.json").write_text(json.dumps(entries, indent=1) + "\n")
    return failures


def _write(result: ImagePrediction, target: Path, threshold: float) -> float:
    """Writes the pictures of one image, TARGET_*; returns the share of its pixels above the threshold."""
    target.parent.mkdir(parents=True, exist_ok=True)
    binary = result.probability > threshold
    maps = {"mask": result.probability, "binary": binary}
    if result.uncertainty is not None:
        maps["uncertainty"] = 2 * result.uncertainty
    for name, values in maps.items():
        Image.fromarray(np.round(255.0 * values).astype(np.uint8)).save(f"{target}_{name}.png")
    Image.fromarray(pictures.overlay(result.image, binary)).save(f"{target}_overlay.jpg", quality=92)
    return float(binary.mean())
