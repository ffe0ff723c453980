import json
from dataclasses import asdict

import pytest
from huggingface_hub import ModelCard

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.evaluation.calibration import Calibration, Rates
from diffiml_plugin.prediction.model_card import model_card

CALIBRATION = Calibration(Rates(0.05, 0.1, 0.04, 0.5), (0.0,) * 6, 0.5, 0.9, 0.2, 40, 60, Rates(0.07, 0.2, 0.1, 0.8))
METADATA = {
    "model": "DiffIML",
    "config": {"encoder": "resnet10t", "denoiser": "light"},
    "data": "photographs",
    "licence": "research: only",
    "limits": "misses copies",
    "figures": {"CASIAv1": {"pixel-level F1": [0.4, 0.35, 0.45]}, "MISD": {"image-level AUC": [0.9, 0.8, 1.0]}},
    "threshold": 0.4,
    "calibration": json.loads(json.dumps(asdict(CALIBRATION))),
    "calibrated_on": ["CASIAv1", "MISD"],
}


def test_a_card_says_what_the_metadata_say():
    text = model_card(METADATA, "name", "org/name", 7_400_000)
    for said in (
        "DiffIML (resnet10t, light), 7.4 M parameters",
        "load('org/name')('photo.jpg')",
        "## Data\n\nphotographs",
        "0.400 [0.350, 0.450]",
        "On 40 authentic and 60 tampered pictures of CASIAv1, MISD.",
        "manipulated above 0.4.",
        "a probability of 0.90; nothing is found below 0.20",
        "5.0%",
        "with each set left out",
        "- misses copies",
        "## Licence\n\nresearch: only",
    ):
        assert said in text
    assert "authentic picture is" not in text


def test_its_header_is_the_hubs():
    data = ModelCard(model_card(METADATA, "name", "org/name", 1)).data
    assert (data.license, data.license_name, data.pipeline_tag) == ("other", "research: only", "image-segmentation")
    found = {(result.dataset_name, result.metric_type): result.metric_value for result in data.eval_results}
    assert found == {("CASIAv1", "pixel-level F1"): 0.4, ("MISD", "image-level AUC"): 0.9}


def test_what_is_not_known_is_said():
    text = model_card({"model": "TinyIML"}, "tiny", "tiny.safetensors", 100)
    assert text.count("Not stated.") == 3 and "its answers are called uncalibrated" in text
    assert ModelCard(text).data.eval_results is None


def test_figures_without_their_intervals_make_no_card():
    with pytest.raises(DiffIMLError, match=r"figures: \[0.4\] is no value with the ends of its interval"):
        model_card({**METADATA, "figures": {"CASIAv1": {"pixel-level F1": [0.4]}}}, "name", "org/name", 1)


def test_a_damaged_calibration_makes_no_card():
    with pytest.raises(DiffIMLError, match="benco calibrate"):
        model_card({**METADATA, "calibration": {"x": 1}}, "name", "org/name", 1)
