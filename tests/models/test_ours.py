"""Every model that we register inherits the same tests from BaseModelTester."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.framework.adapters import diffiml_post_func
from diffiml_plugin.models import registry
from diffiml_plugin.models.checkpoints import save_checkpoint
from diffiml_plugin.models.registry import DIFFIML, SEGFORMER, RegisteredModel


class BaseModelTester:
    """Forward, backward, sizes, storage and export of the model of `card`, built small by `flags`."""

    card: RegisteredModel
    flags: dict[str, Any]

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        return self.card.build(self.card.resolve(self.flags))

    def graph(self, model: nn.Module, image: Tensor, names: list[str]) -> tuple[nn.Module, tuple[Tensor, ...]]:
        """What is exported, a function of tensors alone, and its inputs for these images."""
        return model, (image,)

    @pytest.fixture(scope="class")
    def model(self):
        return self.build().eval()

    @pytest.fixture
    def images(self):
        return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))

    @pytest.fixture
    def batch(self, images):
        """As the loader gives it in training."""
        mask = torch.zeros(2, 1, 64, 96, dtype=torch.float64)
        mask[:, :, 16:48, 16:64] = 1
        samples = [{"image": image, "mask": truth} for image, truth in zip(images, mask, strict=True)]
        for sample in samples:
            if self.card.post_function:
                self.card.post_function(sample)
        batch = torch.utils.data.default_collate(samples)
        return {**batch, "label": torch.ones(2, dtype=torch.int64), "noise_key": ["a", "b"]}

    def test_a_prediction_is_a_mask_of_probabilities_and_a_score(self, model, batch):
        output = model(**batch)
        assert output["pred_mask"].shape == (2, 1, 64, 96) and output["pred_label"].shape == (2,)
        for values in output.values():
            assert values.dtype == torch.float32 and 0 <= values.min() and values.max() <= 1
        assert output["pred_mask"].std() > 0, "the same everywhere"

    def test_a_prediction_depends_on_its_image_alone(self, model, images, batch):
        told, untold = model(**batch)["pred_mask"], model(images, noise_key=["a", "b"])["pred_mask"]
        assert torch.equal(told, untold), "the truth was read"
        alone = model(images[1:], noise_key=["b"])["pred_mask"]
        torch.testing.assert_close(alone, told[1:], atol=1e-5, rtol=0)
        exchanged = model(images.flip(0), noise_key=["a", "b"])["pred_mask"]
        assert (exchanged - told).abs().max() > 1e-3, "the image was not read"

    def test_every_weight_that_can_learn_does(self, batch):
        model = self.build().train()
        output = model(**batch, if_predcit_label=False)
        assert output["visual_loss"] and output["backward_loss"].isfinite()
        output["backward_loss"].backward()
        learning = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
        without = [name for name, gradient in learning.items() if gradient is None or not gradient.isfinite().all()]
        assert learning and not without
        assert sum(gradient.abs().sum() for gradient in learning.values()) > 0

    @pytest.mark.parametrize("size", [(32, 32), (32, 160), (96, 64)], ids=str)
    def test_it_takes_any_sides_that_are_multiples(self, model, size):
        assert model(torch.randn(1, 3, *size), noise_key=["a"])["pred_mask"].shape == (1, 1, *size)

    @pytest.mark.parametrize("size", [(33, 64), (64, 48), (1, 1)], ids=str)
    def test_it_refuses_others(self, model, size):
        with pytest.raises(DiffIMLError, match=f"are not multiples of {self.card.size_multiple}"):
            model(torch.randn(1, 3, *size), noise_key=["a"])

    def test_nothing_is_found_in_the_padding(self, model, batch):
        real = torch.zeros(2, 1, 64, 96)
        real[..., :40, :70] = 1
        whole, padded = model(**batch), model(**batch, shape_mask=real)
        assert torch.equal(padded["pred_mask"], whole["pred_mask"] * real)

    def test_a_stored_model_is_the_same_model(self, model, images, tmp_path, restore):
        flags = self.card.resolve(self.flags)
        save_checkpoint(tmp_path / "x.safetensors", model, self.card.name, flags)
        restored = restore(tmp_path / "x.safetensors")
        assert restored.card is self.card and restored.flags == self.card.without_weights(flags)
        for (name, stored), own in zip(restored.model.state_dict().items(), model.state_dict().values(), strict=True):
            assert torch.equal(stored, own), name
        expected = model(images, noise_key=["a", "b"])["pred_mask"]
        assert torch.equal(restored.model.eval()(images, noise_key=["a", "b"])["pred_mask"], expected)

    def test_it_is_exported_whole(self, model, images):
        module, inputs = self.graph(model, torch.randn(1, 3, 64, 96), ["z"])
        with torch.no_grad():
            exported = torch.export.export(module, inputs, strict=False).module()
            output = exported(*self.graph(model, images[:1], ["a"])[1])
        mask = output["pred_mask"] if isinstance(output, dict) else output[0]
        torch.testing.assert_close(mask, model(images[:1], noise_key=["a"])["pred_mask"], atol=1e-5, rtol=0)


class TestDiffIML(BaseModelTester):
    card = DIFFIML
    flags = {"encoder": "resnet10t", "ensemble_size": 2, "num_inference_steps": 1}

    def graph(self, model: nn.Module, image: Tensor, names: list[str]) -> tuple[nn.Module, tuple[Tensor, ...]]:
        return model.diffiml, (image, model.diffiml.draw_noise(names, image.shape[-2:]))

    def test_its_post_function_is_ours(self):
        assert self.card.post_function is diffiml_post_func


class TestSegFormerIML(BaseModelTester):
    card = SEGFORMER
    flags = {"encoder": "resnet10t"}


def test_each_of_ours_is_tested():
    assert {tester.card.name for tester in BaseModelTester.__subclasses__()} == registry._OURS.keys()
