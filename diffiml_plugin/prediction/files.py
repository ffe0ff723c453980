"""`benco predict`: masks for image files, through the data path of `benco test`."""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from diffiml_plugin.data.images import find_images
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.evaluation.scores import THRESHOLD
from diffiml_plugin.files import make_folder
from diffiml_plugin.prediction.predictor import Failure, ImagePrediction, Predictor

_logger = logging.getLogger(__name__)


def predict(
    predictor: Predictor, paths: Sequence[str], output_dir: Path, threshold: float = THRESHOLD
) -> list[Failure]:
    """Predicts the images at and below `paths`, and writes into `output_dir`, in their sub-folders:

    - NAME_mask.png, the probability (255 = 1), NAME_binary.png, 255 above the threshold, NAME_overlay.jpg;
    - NAME_uncertainty.png (255 = 0.5, the largest standard deviation there is), given an ensemble;
    - scores.json: image, mask, score of the image and `area`, its share of pixels above the threshold.

    Returns:
        the files that could not be predicted; they are in scores.json and logged as errors too.

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
            _logger.error(result.reason)
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
    Image.fromarray(overlay(result.image, binary)).save(f"{target}_overlay.jpg", quality=92)
    return float(binary.mean())


def overlay(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`image` [H, W, 3] uint8 with the region of `mask` [H, W] {0, 1} tinted red and outlined."""
    tinted = image.copy()
    red = np.array([255, 40, 40])
    tinted[mask > 0] = (0.55 * image[mask > 0] + 0.45 * red).astype(np.uint8)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    thickness = max(1, round(max(mask.shape) / 400))
    return cv2.drawContours(tinted, outlines, -1, red.tolist(), thickness)
