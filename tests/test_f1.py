import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from diffiml_plugin.f1 import pixel_f1


def test_it_is_scikit_learns():
    called, truth = np.random.default_rng(0).integers(0, 2, (2, 500))
    assert pixel_f1((called & truth).sum(), called.sum(), truth.sum()) == pytest.approx(f1_score(truth, called))


def test_masks_of_one_batch_are_counted_apart():
    f1 = pixel_f1(torch.tensor([3, 0, 0]), torch.tensor([3, 2, 0]), torch.tensor([3, 4, 0]))
    assert f1.tolist() == [1, 0, 0]
