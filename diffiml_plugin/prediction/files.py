"""`benco predict`: masks for image files, through the data path of `benco test`."""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from diffiml_plugin.data.images import find_images
from diffiml_plugin.files import make_folder, write_text
from diffiml_plugin.prediction.detector import Detector, Failure

_logger = logging.getLogger(__name__)


def predict(detector: Detector, paths: Sequence[str], output_dir: Path) -> list[Failure]:
    """Predicts the images at and below `paths`, and writes into `output_dir`, in their sub-folders, what `Result.save`
    writes of each, and scores.json: image, mask, score of the image and `area`, its share of manipulated pixels.

    Returns:
        the files that could not be predicted; they are in scores.json and logged as errors too.

    Raises:
        DiffIMLError: a path that does not exist, or holds no image.
    """
    found = find_images(paths, output_dir)
    make_folder(output_dir)
    stems = Counter(relative.with_suffix("") for _, relative in found)
    failures: list[Failure] = []
    entries: list[dict[str, Any]] = []
    results = detector.predict(file for file, _ in found)
    bar = tqdm(results, "predict", len(found), unit="img", disable=None)
    for (file, relative), result in zip(found, bar, strict=True):
        if isinstance(result, Failure):
            _logger.error(result.reason)
            failures.append(result)
            entries.append({"image": str(file), "error": result.reason})
            continue
        unique = stems[relative.with_suffix("")] == 1
        target = output_dir / (relative.with_suffix("") if unique else relative)
        mask = result.save(target.parent, target.name)["mask"].relative_to(output_dir)
        entries.append({"image": str(file), "mask": str(mask), "score": result.score, "area": result.area})
    write_text(output_dir / "scores.json", json.dumps(entries, indent=1) + "\n")
    return failures
