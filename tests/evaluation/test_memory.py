"""What a test does with images and batches that the memory does not hold."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.evaluation import test as testing
from diffiml_plugin.evaluation.evaluate import _most_pixels, _scored
from diffiml_plugin.evaluation.scores import score_batch
from diffiml_plugin.models.passes import Passes
from diffiml_plugin.weights.files import load_weights, save_weights


def test_an_image_that_does_not_fit_into_the_memory_is_refused_before_it_is_read(settings, stored, monkeypatch):
    path = stored("SegFormerIML", encoder="segformer_b0")
    weights, metadata = load_weights(path)
    monkeypatch.setattr("diffiml_plugin.launch.host_memory", lambda: 0)
    monkeypatch.setattr("diffiml_plugin.data.pairs.read_image", lambda *_: pytest.fail("it was decoded"))
    save_weights(path, weights, {**metadata, "input": {"image_size": 64, "if_padding": True}})
    with pytest.raises(DiffIMLError, match="png takes 0.0 megapixels with its padding, and the memory here suffices"):
        testing.test(replace(settings, checkpoint_path=str(path)))


def test_what_the_memory_has_left_bounds_the_pixels_of_an_image(monkeypatch):
    def most(total, device):
        monkeypatch.setattr("diffiml_plugin.launch.host_memory", lambda: total)
        return _most_pixels(SimpleNamespace(output_size=(64, 64)), torch.device(device))

    in_use = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=750_000_000))
    monkeypatch.setattr("psutil.Process", lambda: in_use)
    assert most(2e9, "cpu") == pytest.approx((0.9 * 2e9 - 0.75e9) / 105)  # bytes a pixel
    assert most(2e9, "cuda") == pytest.approx((0.9 * 2e9 - 0.75e9) / 34)
    assert most(0, "cpu") == 64 * 64  # the model's own size is always tried


class Full(nn.Module):
    """Of a GPU whose memory holds `most` images."""

    def __init__(self, most):
        super().__init__()
        self.most = most

    def forward(self, mask, **_):
        if len(mask) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return {"pred_mask": mask.float()}


def test_a_batch_too_large_for_the_memory_is_halved(caplog, batch_of):
    """Of five images no more than two fit."""

    batch = {**batch_of([np.eye(4)] * 5, "abcde"), "image": torch.zeros(5, 3, 4, 4)}
    found = _scored(Passes(Full(2)), batch, score_batch)
    assert [record["name"] for record in found] == list("abcde") and all(record["f1"] > 0.99 for record in found)
    assert "full with 5 images; the batch is halved" in caplog.text


def test_one_image_too_large_for_the_memory_is_said(batch_of):
    with pytest.raises(DiffIMLError, match="full with one image of 4x8 pixels: 2.00 GiB more were wanted"):
        _scored(Passes(Full(0)), {**batch_of([np.eye(4)], "a"), "image": torch.zeros(1, 3, 4, 8)}, score_batch)
