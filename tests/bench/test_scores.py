import numpy as np
import torch
from PIL import Image

from diffiml_plugin.bench.data import InputSettings, PairsDataset
from diffiml_plugin.bench.data import test_transform as no_transform
from diffiml_plugin.bench.imagelists import NEGATIVE, ImageList
from diffiml_plugin.bench.scores import average, score_batch, summarise


def test_regions_that_vanish_in_resizing_are_counted(tmp_path):
    small, large = np.zeros((2, 640, 640), np.uint8)
    small[13:17, 13:17], large[:320] = 255, 255
    for name, array in (("small.png", small), ("large.png", large), ("image.png", np.zeros((640, 640, 3), np.uint8))):
        Image.fromarray(array).save(tmp_path / name)
    masks = (str(tmp_path / "small.png"), str(tmp_path / "large.png"), NEGATIVE)
    files = ImageList("x", (str(tmp_path / "image.png"),) * 3, masks)
    dataset = PairsDataset(files, **InputSettings(64).framework(no_transform(), None))
    batch = torch.utils.data.default_collate([dict(dataset[i], index=i) for i in range(3)])
    found = score_batch({"pred_mask": batch["mask"]}, batch)
    assert [(record["label"], record["mask_area"]) for record in found] == [(1, 0), (1, 0.5), (0, 0)]
    summary = summarise(found)
    assert summary["vanished"] == 1 and summary["pixel-level F1"] < 0.6  # of a prediction that is the mask
    assert "vanished" not in average([summary]) and "vanished" not in summarise(found[1:])
