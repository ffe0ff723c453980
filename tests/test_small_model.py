"""The model that travels with the package."""

import numpy as np
import pytest
from PIL import Image

from diffiml_plugin.api import load
from diffiml_plugin.evaluation import test as testing
from diffiml_plugin.evaluation.calibration import Calibration
from diffiml_plugin.evaluation.settings import TestSettings
from diffiml_plugin.models.checkpoints import RELEASED
from diffiml_plugin.prediction.files import FAILED, predict
from diffiml_plugin.weights.files import read_metadata


def test_the_small_model_travels_with_the_package_and_says_what_it_is(tmp_path):
    path = RELEASED["small"]
    metadata = read_metadata(path)
    assert path.stat().st_size <= 16e6 and metadata["model"] == "DiffIML"
    calibration = Calibration.read(metadata["calibration"])
    assert calibration.crossed.false_alarms <= 0.05 and calibration.left_out.ece > 0
    assert metadata["data"] and metadata["limits"] and 0 < metadata["figures"]["val"]["pixel-level F1"][0] < 1
    noise = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.jpg")
    flags = {"num_inference_steps": 1, "ensemble_size": 2}
    detector = load("small", image_size=96, device="cpu", **flags)
    assert not predict(detector, [str(tmp_path / "photo.jpg")], tmp_path / "out")[FAILED]
    assert np.array(Image.open(tmp_path / "out" / "photo_uncertainty.png")).shape == (70, 90)


@pytest.mark.slow
def test_the_small_model_reaches_the_figures_of_its_card(bsds, tmp_path):
    figures = read_metadata(RELEASED["small"])["figures"]["val"]
    found = testing.test(
        TestSettings(
            checkpoint_path="small",
            test_data_path=str(bsds / "val" / "list.json"),
            output_dir=str(tmp_path),
            device="cpu",
            num_workers=0,
        )
    )["datasets"]["val"]
    for figure, name in (("pixel-level F1",) * 2, ("pixel-level AUC",) * 2, ("false_alarm_area", "false alarm area")):
        assert found[figure] == pytest.approx(figures[name][0], abs=0.01)
