import pytest
import torch

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.models.outputs import read_output


def test_predictions_that_are_not_finite_are_named():
    output = {"pred_mask": torch.zeros(2, 1, 4, 4)}
    output["pred_mask"][1, 0, 0, 0] = float("nan")
    with pytest.raises(DiffIMLError, match="the prediction for b is not finite"):
        read_output(output, (2, 1, 4, 4), "ab")
    output = {"pred_mask": torch.zeros(2, 1, 4, 4), "pred_label": torch.tensor([float("inf"), 0])}
    with pytest.raises(DiffIMLError, match="the prediction for a is not finite"):
        read_output(output, (2, 1, 4, 4), "ab")


def test_a_prediction_of_another_shape_is_refused():
    with pytest.raises(DiffIMLError, match=r"pred_mask must have the mask's shape \[2, 1, 4, 4\]; it gave none"):
        read_output({}, (2, 1, 4, 4), "ab")
