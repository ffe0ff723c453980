import math

import pytest
import torch

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.method.config import DiffIMLConfig
from diffiml_plugin.method.diffiml import DiffIML, Prediction
from diffiml_plugin.method.encoders import build_encoder
from diffiml_plugin.method.lightvae import LightVAE
from diffiml_plugin.method.sampler import SAMPLERS
from diffiml_plugin.method.schedule import NoiseSchedule
from diffiml_plugin.models.speed import CountedOperators


def _model(**settings):
    torch.manual_seed(0)
    config = DiffIMLConfig(encoder="segformer_b0", num_inference_steps=2, ensemble_size=3, **settings)
    return DiffIML(config, build_encoder("segformer_b0"), LightVAE()).eval()


@pytest.fixture(scope="module")
def model():
    return _model()


@pytest.fixture(scope="module")
def images():
    return torch.randn(4, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def test_prediction_does_not_depend_on_batch_or_order(model, images):
    keys = list("abcd")
    together = model.predict(images, keys, details=True)
    for i in (3, 1):
        alone = model.predict(images[i : i + 1], keys[i : i + 1], details=True)
        assert (together.probability[i] - alone.probability[0]).abs().max() < 1e-5
        assert (together.members[i] - alone.members[0]).abs().max() < 1e-5


@pytest.mark.parametrize("keys", ["abcd", list("abc"), [1, 2, 3, 4], 4, None])
def test_each_image_wants_a_key(model, images, keys):
    with pytest.raises(DiffIMLError, match="expected a list of 4 strings, one for each image"):
        model.predict(images, keys)


@pytest.mark.parametrize("noise", [[1], "a", torch.zeros(2)])
def test_noise_of_another_shape_or_none_is_refused(model, images, noise):
    with pytest.raises(DiffIMLError, match="noise .* as of draw_noise"):
        model.predict(images, None, noise=noise)


def test_prediction_leaves_the_global_random_state_alone(model, images):
    state = torch.get_rng_state()
    model.predict(images[:1], ["a"])
    assert torch.equal(state, torch.get_rng_state())


def test_noise_changes_with_key_and_seed(model, images):
    one, other = (model.predict(images[:1], [name]).probability for name in ("a", "b"))
    reseeded = _model(noise_seed=1).predict(images[:1], ["a"]).probability
    assert not torch.equal(one, other) and not torch.equal(one, reseeded)


@pytest.mark.parametrize("tta, expected", [(False, 1), (True, 2)])
def test_the_condition_is_encoded_once_per_view(images, tta, expected):
    model, calls = _model(tta=tta), []
    model.condition_encoder.register_forward_hook(lambda *_: calls.append(1))
    model.predict(images, list("abcd"))
    assert len(calls) == expected


def test_details(model, images):
    prediction = model.predict(images[:2], ["a", "b"], details=True)
    assert prediction.probability.shape == prediction.edge.shape == prediction.uncertainty.shape == (2, 1, 64, 96)
    assert prediction.members.shape == (2, 3, 1, 64, 96) and prediction.steps.shape == (2, 2, 1, 64, 96)
    plain = model.predict(images[:2], ["a", "b"])
    assert plain.members is plain.edge is plain.steps is plain.uncertainty is None
    assert not plain.probability.requires_grad


def test_uncertainty_score_and_padding_of_a_prediction():
    probability = torch.zeros(2, 1, 64, 96)
    probability[0, :, 8:16, 16:24] = 0.5  # one cell
    probability[1, :, 4:12, 16:24] = 0.5  # half of each of two
    members = torch.stack([torch.zeros_like(probability), 2 * probability], 1)
    prediction = Prediction(probability, members)
    assert prediction.score.tolist() == [0.5, 0.25]
    assert torch.equal(prediction.uncertainty, probability)  # of 0 and 1: 0.5
    inside = torch.ones(2, 1, 64, 96)
    inside[..., 12:, :] = 0
    assert prediction.within(inside).score.tolist() == [0.25, 0.25]
    assert prediction.within(None) is prediction


@pytest.mark.parametrize("fusion", ["mean", "max"])
def test_tta_fuses_both_views(model, images, fusion):
    both = _model(tta=True, tta_fusion=fusion)
    noise = both.draw_noise(["a"], images.shape[-2:])
    upright, mirrored = (
        model.sample(model.condition(view), noise[:, [number]]).probability
        for number, view in enumerate((images[:1], images[:1].flip(-1)))
    )
    mirrored = mirrored.flip(-1)
    fused = both.predict(images[:1], ["a"]).probability
    expected = (upright + mirrored) / 2 if fusion == "mean" else upright.maximum(mirrored)
    torch.testing.assert_close(fused, expected, atol=1e-6, rtol=0)


def test_a_bias_moves_the_threshold_and_nothing_else(images):
    plain = _model(tta=True).predict(images[:1], ["a"], members=True)
    own = plain.probability.median().item()
    moved = _model(tta=True, mask_bias=math.log((1 - own) / own)).predict(images[:1], ["a"], members=True)
    assert torch.equal(plain.members, moved.members)
    clear = (plain.probability - own).abs() > 1e-5
    called = (plain.probability > own)[clear]
    assert called.any() and not called.all() and torch.equal(called, (moved.probability > 0.5)[clear])


def test_members_are_averaged_as_latents_or_as_probabilities(model, images):
    noise = model.draw_noise(["a", "b"], images.shape[-2:])
    latents = model._sample(*model.condition(images[:2]), noise[:, 0], model._steps())[-1]  # [2, 3, 8, h, w]
    expected = {
        "latent": model._decode(latents.mean(1)),
        "pixel": torch.stack([model._decode(member) for member in latents.unbind(1)]).mean(0),
    }
    assert not torch.allclose(*expected.values())
    for space, mean in expected.items():
        prediction = model.with_settings(ensemble_space=space).predict(images[:2], ["a", "b"], details=True)
        torch.testing.assert_close(prediction.probability, mean, atol=1e-6, rtol=0)
        assert torch.allclose(prediction.members.mean(1), prediction.probability, atol=1e-6) == (space == "pixel")
    assert model.config.ensemble_space == "latent"
    one = [model.with_settings(ensemble_size=1, ensemble_space=space) for space in expected]
    assert torch.equal(*(other.predict(images[:1], ["a"]).probability for other in one))
    with pytest.raises(DiffIMLError, match="'pixels'.*did you mean 'pixel'"):
        DiffIMLConfig(ensemble_space="pixels")


@pytest.mark.parametrize("space, decoded", [("latent", 1 + 3), ("pixel", 3)])
def test_the_members_of_a_mean_of_probabilities_are_decoded_once(model, images, monkeypatch, space, decoded):
    own, counted = model.with_settings(ensemble_space=space), []
    plain = own.predict(images[:1], ["a"]).probability
    decode = own._decode
    monkeypatch.setattr(own, "_decode", lambda z, *others: counted.append(len(z)) or decode(z, *others))
    prediction = own.predict(images[:1], ["a"], members=True)
    assert sum(counted) == decoded and prediction.members.shape[1] == 3
    assert torch.equal(prediction.probability, plain)


def test_one_condition_serves_other_sampling_settings(images):
    model = _model(tta=True)
    conditions = model.condition(images[:1])
    for settings in ({"tta": True}, {"tta": False}, {"tta": False, "num_inference_steps": 4, "noise_seed": 3}):
        other = model.with_settings(**settings)
        noise = other.draw_noise(["a"], images.shape[-2:])
        assert torch.equal(other.sample(conditions, noise).probability, other.predict(images[:1], ["a"]).probability)
    assert model.config.tta and model.config.num_inference_steps == 2


def test_only_the_codec_is_frozen_and_all_else_is_trained(images):
    model, mask = _model().train(), (torch.rand(4, 1, 64, 96) > 0.5).float()
    model.training_loss(images, mask, mask).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) != name.startswith("codec."), name
    assert model.denoiser.training and not model.codec.training


def test_under_autocast_the_codec_and_the_loss_keep_full_precision(images):
    model, mask = _model(), (torch.rand(4, 1, 64, 96) > 0.5).double()
    given = []
    for name in ("encoder", "decoder"):
        getattr(model.codec, name).register_forward_pre_hook(
            lambda module, inputs: given.append((inputs[0].dtype, torch.is_autocast_enabled("cpu")))
        )
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.training_loss(images, mask, mask)
        prediction = model.predict(images, list("abcd"), details=True)
    assert given and set(given) == {(torch.float32, False)}
    assert losses.loss.dtype == prediction.probability.dtype == prediction.steps.dtype == torch.float32


@pytest.mark.parametrize("settings, views, draws", [({}, 1, 1), ({"sampler": "ancestral", "tta": True}, 2, 2)])
def test_noise_is_drawn_for_each_view_step_and_member(model, settings, views, draws):
    noise = model.with_settings(**settings).draw_noise(["a", "b"], (64, 96))
    assert noise.shape == (2, views, draws, 3, 8, 8, 12) and noise.device.type == "cpu"


def test_without_edge_supervision_the_latent_is_the_mask_alone(images):
    model = _model(edge_supervision=False)
    losses = model.training_loss(images, torch.ones(4, 1, 64, 96))
    assert losses.edge_loss is None and model.predict(images[:1], ["a"], details=True).edge is None


@pytest.mark.parametrize("image", [torch.zeros(1, 3, 50, 64), torch.zeros(1, 1, 64, 64), torch.zeros(3, 64, 64)])
def test_unusable_images_are_refused(model, image):
    for use in (lambda: model.predict(image, ["a"]), lambda: model.training_loss(image, image, image)):
        with pytest.raises(DiffIMLError, match="image"):
            use()


def test_sampling_follows_spacing_and_bound(images):
    model = DiffIML(
        DiffIMLConfig(encoder="segformer_b0", num_inference_steps=2, ensemble_size=1, latent_codec="sd-vae"),
        build_encoder("segformer_b0"),
        LightVAE(),
    ).eval()
    told = []
    model.denoiser.register_forward_hook(lambda module, inputs, output: told.append(inputs[1]) or 9 * output)
    leading = model.with_settings(timestep_spacing="leading", clip_latents=0.5)
    noise = leading.draw_noise(["a"], images.shape[-2:])
    steps = leading._sample(*leading.condition(images[:1]), noise[:, 0], leading._steps())
    assert torch.equal(torch.cat(told), model.denoiser.embed(torch.tensor([500, 0])))
    assert [step.abs().max() for step in steps] == [0.5, 0.5]


def test_a_bound_on_our_latents_is_refused():
    with pytest.raises(DiffIMLError, match="clip_latents=1.0 does not suit latent_codec='lightvae'.*0.47 F1"):
        DiffIMLConfig(clip_latents=1.0)
    with pytest.raises(DiffIMLError, match="mask_reading='clamp' is not one of auto, sigmoid"):
        DiffIMLConfig(mask_reading="clamp")
    assert DiffIMLConfig(latent_codec="sd-vae", clip_latents=1.0).reading == "clamp"


def test_settings_out_of_range_are_refused():
    for settings in ({"denoiser": "lite"}, {"seg_weight": 1.5}, {"num_inference_steps": 0}, {"ensemble_size": 0}):
        with pytest.raises(DiffIMLError, match=next(iter(settings))):
            DiffIMLConfig(**settings)


@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
@pytest.mark.parametrize(
    "total, start, end",
    [(10_000, 1e-6, 1e-6), (10_000, 1e-4, 0.02), (1000, 1e-6, 0.18), (50, 0.5, 0.96), (1, 0.9, 1 - 1e-9)],
)
def test_no_schedule_in_range_divides_by_zero(sampler, total, start, end):
    settings = {"num_train_timesteps": total, "beta_start": start, "beta_end": end}
    config, schedule = DiffIMLConfig(**settings, num_inference_steps=min(total, 20)), NoiseSchedule(**settings)
    assert 0 < schedule.alphas_cumprod.min() and schedule.alphas_cumprod.max() < 1
    for count in (config.num_inference_steps, total):
        noise = torch.randn(count, 1, 4, 2, 2)
        estimates = SAMPLERS[sampler](lambda z, t: z.tanh(), noise, schedule.respaced(count))
        assert estimates[-1].isfinite().all()


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"beta_end": 1.0}, "leave nothing of a latent"),
        ({"beta_end": 0.5}, "num_train_timesteps=1000 of beta_start=0.0001 to beta_end=0.5 leave nothing"),
        ({"num_train_timesteps": 10_000, "beta_end": 0.03}, "leave nothing"),
        ({"beta_start": 0.0, "beta_end": 0.0}, r"beta_end=0.0 is outside \[1e-06, 1\]"),
        ({"beta_start": 1e-9}, r"beta_start=1e-09 is outside \[1e-06, 0.02\]"),
    ],
)
def test_a_schedule_that_would_divide_by_zero_is_refused(settings, told):
    with pytest.raises(DiffIMLError, match=told):
        DiffIMLConfig(**settings)


@pytest.mark.parametrize("power", [1.0, 5.0])
def test_timesteps_are_drawn_with_the_density_of_their_power(power):
    torch.manual_seed(0)
    drawn = _model(timestep_power=power)._draw_timesteps(20_000)
    assert 0 <= drawn.min() and drawn.max() == 999
    for share in (0.25, 0.5, 0.75):  # P(t < sT) = s^k
        assert (drawn < 1000 * share).float().mean().item() == pytest.approx(share**power, abs=0.015)


@pytest.mark.parametrize("settings", [{}, {"sampler": "ancestral", "tta": True}, {"edge_supervision": False}])
def test_a_prediction_is_one_graph(images, settings):
    """Nothing in it asks the device for a value, or Python for a decision that depends on one."""
    model = _model(**settings)
    noise = model.draw_noise(["a"], images.shape[-2:])
    with torch.no_grad():
        traced = torch.compile(model.forward, fullgraph=True, backend="eager")(images[:1], noise, members=True)
    torch._dynamo.reset()
    prediction = model.predict(images[:1], ["a"], details=True)
    assert torch.equal(traced[0], prediction.probability) and torch.equal(traced[1], prediction.members)


@pytest.mark.parametrize("members", [1, 5])
def test_operators_of_a_prediction(images, members):
    """What a device would launch: 412 of the condition (MiT-B3), 147 for each step's denoiser, and no time branch."""
    model = DiffIML(
        DiffIMLConfig(denoiser="light", ensemble_size=members), build_encoder("segformer_b3"), LightVAE()
    ).eval()
    model.to(memory_format=torch.channels_last)  # as the adapter does; otherwise the encoder copies
    noise = model.draw_noise(["a"], images.shape[-2:])
    with torch.no_grad(), CountedOperators() as counted:
        model(images[:1], noise)
    assert counted.launches <= 1700
