import pytest
import torch

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.method.encoders import build_encoder
from diffiml_plugin.method.segmenter import Segmenter


@pytest.fixture
def segmenter():
    torch.manual_seed(0)
    return Segmenter(build_encoder("segformer_b0"))


@pytest.fixture
def image():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def test_probabilities_at_the_images_size(segmenter, image):
    prediction = segmenter.eval().predict(image)
    assert prediction.probability.shape == (2, 1, 64, 96) and prediction.score.shape == (2,)
    assert 0 < prediction.probability.min() and prediction.probability.max() < 1
    torch.testing.assert_close(segmenter.predict(image[1:]).probability, prediction.probability[1:])


def test_the_loss_is_the_cross_entropy_and_trains_every_parameter(segmenter, image):
    mask = (torch.rand(2, 1, 64, 96) > 0.5).double()
    loss = segmenter.eval().training_loss(image, mask)
    p = segmenter.predict(image).probability
    torch.testing.assert_close(loss, -(mask * p.log() + (1 - mask) * (1 - p).log()).mean().float())
    loss.backward()
    assert all(parameter.grad is not None for parameter in segmenter.parameters())


def test_a_few_steps_fit_a_mask(segmenter, image):
    mask = torch.zeros(2, 1, 64, 96)
    mask[:, :, 16:48, 32:64] = 1
    optimizer, losses = torch.optim.AdamW(segmenter.parameters(), 1e-3), []
    for _ in range(15):
        losses.append(segmenter.training_loss(image, mask))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 2


def test_sides_that_do_not_divide_are_refused(segmenter):
    with pytest.raises(DiffIMLError, match="not multiples of 32"):
        segmenter.predict(torch.zeros(1, 3, 50, 64))
