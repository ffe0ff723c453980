"""Makes example.jpg, the README's picture, in some minutes on a CPU: `python docs/example.py`.

`benco tamper` makes forgeries of the colour photographs that the dependencies carry. Shown is what `small` finds in the
first four. Nothing is chosen by hand.
"""

import tempfile
from pathlib import Path

import cv2
import numpy as np

from diffiml_plugin import load
from diffiml_plugin.cli.main import main
from diffiml_plugin.data.images import read_image
from diffiml_plugin.data.lists import read_list
from diffiml_plugin.data.masks import read_mask
from diffiml_plugin.demo.photographs import photographs
from diffiml_plugin.files import write_picture
from diffiml_plugin.prediction.pictures import as_picture, headed, heat

SHOWN, WIDTH, GAP = 4, 260, 6  # rows; pixels of each picture and between them


def example(path: Path) -> None:
    """Writes the picture: a row for each forgery, with headings over the first."""
    with tempfile.TemporaryDirectory() as folder:
        photos, forged = Path(folder, "photos"), Path(folder, "forged")
        photos.mkdir()
        for photo in photographs():
            if read_image(photo.path).std(axis=2).any():  # in colour
                (photos / photo.path.name).symlink_to(photo.path)
        assert main(f"tamper {photos} --strength world --images {SHOWN} --output_dir {forged}".split()) == 0
        pairs = read_list(forged / "list.json")
        results = load("small")(list(pairs.images))
        rows = []
        for result, mask in zip(results, pairs.masks, strict=True):
            pictures = {
                "tampered photograph": result.image,
                "truth": (read_mask(Path(mask)) > 0).astype(float),
                "found: probability": result.probability,
                "uncertainty": heat(result.uncertainty, 0.5),
            }
            height, width = result.probability.shape
            size = WIDTH, round(height * WIDTH / width)
            row = [cv2.resize(as_picture(p), size, interpolation=cv2.INTER_AREA) for p in pictures.values()]
            row = row if rows else [headed(picture, name) for picture, name in zip(row, pictures, strict=True)]
            rows.append(np.hstack([np.pad(p, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for p in row]))
    write_picture(path, np.vstack(rows), quality=90)


if __name__ == "__main__":
    example(Path(__file__).parents[1] / "example.jpg")
