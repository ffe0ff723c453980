"""The prediction in one step, trained end to end on the maps that it decodes to."""

import pytest
import torch
import torch.nn.functional as F

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.method.config import DiffIMLConfig
from diffiml_plugin.method.diffiml import DiffIML
from diffiml_plugin.method.encoders import build_encoder
from diffiml_plugin.method.lightvae import LightVAE
from diffiml_plugin.method.lightvae_release import ReleaseLightVAE

ONE_STEP = {"encoder": "resnet10t", "finetune": "decoded", "num_inference_steps": 1, "ensemble_size": 1}


def make(codec=LightVAE, **settings):
    torch.manual_seed(0)
    config = DiffIMLConfig(**{**ONE_STEP, **settings})
    return DiffIML(config, build_encoder(config.encoder), codec())


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(2, 3, 64, 96, generator=generator)
    mask, edge = (torch.rand(2, 2, 1, 64, 96, generator=generator) < 0.3).float()
    return image, mask, edge


def loss_and_probability(method, image, mask, edge=None):
    """The loss, and the probability that sampling gives from the same noise, both in test mode."""
    method.eval()
    torch.manual_seed(2)
    noise = torch.randn(2, 1, 1, method.config.joint_channels, 8, 12)
    torch.manual_seed(2)
    with torch.no_grad():
        loss = method.decoded_loss(image, mask, edge)
    return loss, method.sample(method.condition(image), noise[:, None]).probability


def test_the_loss_is_that_of_what_sampling_predicts_from_the_same_noise(batch):
    image, mask, edge = batch
    loss, probability = loss_and_probability(make(), image, mask, edge)
    assert loss.mask_loss.item() == pytest.approx(F.binary_cross_entropy(probability, mask).item(), rel=1e-4)
    assert loss.loss.item() == pytest.approx(0.2 * loss.mask_loss.item() + 0.8 * loss.edge_loss.item(), rel=1e-5)
    assert loss.edge_loss > 0 and loss.timesteps.tolist() == [999, 999]


def test_a_codec_that_aims_at_plus_and_minus_one_has_its_squared_error(batch):
    image, mask, _ = batch
    settings = {"latent_codec": "lightvae-release", "mask_reading": "clamp", "edge_supervision": False}
    method = make(ReleaseLightVAE, **settings)
    loss, probability = loss_and_probability(method, image, mask)
    assert (probability > 0).all() and (probability < 1).all()  # nothing is cut, so the two can be compared
    assert loss.loss.item() == pytest.approx(F.mse_loss(probability, mask).item(), rel=1e-4)
    assert loss.edge_loss is None and loss.loss is loss.mask_loss


def test_the_gradient_reaches_all_but_the_codec(batch):
    method = make().train()
    method.decoded_loss(*batch).loss.backward()
    without = {name.partition(".")[0] for name, parameter in method.named_parameters() if parameter.grad is None}
    assert without == {"codec"}


def test_a_pixel_that_is_surely_wrong_still_has_a_gradient():
    """As a probability it would be 1 in half the numbers that float32 has, and teach nothing."""
    method = make(edge_supervision=False)
    with torch.no_grad():
        method.codec.decoder[-1].bias.fill_(200.0)
    z = torch.zeros(1, 4, 2, 2, requires_grad=True)
    method._pixel_error(z, torch.zeros(1, 1, 16, 16), "mask").backward()
    assert z.grad.abs().max() > 0


def test_more_than_one_step_is_refused(batch):
    with pytest.raises(DiffIMLError, match="num_inference_steps=8: finetune='decoded' .* --preset fast"):
        make(num_inference_steps=8).decoded_loss(*batch)
    with pytest.raises(DiffIMLError, match="finetune='latent' is not one of"):
        DiffIMLConfig(finetune="latent")
    with pytest.raises(DiffIMLError, match="edge supervision needs the mask's edge map"):
        make().decoded_loss(*batch[:2])
