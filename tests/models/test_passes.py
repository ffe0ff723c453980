import pytest
import torch
from torch import nn

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.models.passes import Passes, forward_explained, read_output


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


class _OneSize(nn.Module):
    def forward(self, image):
        assert image.shape[-1] == 64, "Input image size doesn't match model (64*64)."
        return nn.BatchNorm2d(3).train()(image.mean((2, 3), keepdim=True))


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ((2, 3, 32, 48), r"_OneSize cannot take 2 images of 48x32 pixels \(AssertionError: Input image size doesn't"),
        ((1, 3, 64, 64), r"_OneSize cannot take 1 images of 64x64 pixels \(ValueError: Expected more than 1 value"),
    ],
)
def test_a_size_that_a_model_of_the_zoo_cannot_take_is_named(shape, told):
    image, model = torch.zeros(shape), _OneSize()
    with pytest.raises(DiffIMLError, match=f"{told}.*--image_size.*--batch_size"):
        with forward_explained(model, image):
            model(image)


def test_a_mistake_of_ours_is_not_hidden():
    ours = type("Ours", (nn.Module,), {"__module__": "diffiml_plugin.method.ours"})()
    with pytest.raises(RuntimeError, match="ours"), forward_explained(ours, torch.zeros(1, 3, 8, 8)):
        raise RuntimeError("ours")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: unspecified launch failure"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"),
        torch.OutOfMemoryError("CUDA out of memory."),
    ],
)
def test_a_lost_device_or_a_full_memory_is_no_size_that_a_model_cannot_take(error):
    with pytest.raises(RuntimeError, match=f"^{error}"), forward_explained(_OneSize(), torch.zeros(1, 3, 8, 8)):
        raise error


class _Drawing(nn.Module):
    def forward(self, image):
        return nn.Conv2d(3, 1, 1)(image)


def test_a_model_that_draws_when_it_predicts_is_told_once(caplog):
    image, wrapped = torch.zeros(1, 3, 8, 8), nn.Module()
    wrapped.model = _Drawing()
    for model in (nn.Conv2d(3, 1, 1), wrapped.model, wrapped):
        with Passes(model).one(image):
            getattr(model, "model", model)(image)
    assert caplog.messages == ["_Drawing draws random numbers when it predicts: its figures may differ from run to run"]


class _Writing(nn.Module):
    """As MantraNet and MVSSNet write into their filters, one of them behind torch's back."""

    def __init__(self):
        super().__init__()
        self.filter = nn.Parameter(torch.full((3,), 3.0))
        self.register_buffer("passes", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, image):
        self.filter.data /= self.filter.sum()
        self.passes += 1
        self.mean = self.mean + 1
        if len(image) == 2:
            raise RuntimeError("two are too many")
        return image * self.filter[:, None, None]


def test_no_pass_depends_on_those_before():
    model, image, two = _Writing(), torch.ones(1, 3, 8, 8), torch.ones(2, 3, 8, 8)
    passes = Passes(model)
    with torch.no_grad():
        for _ in range(3):
            with passes.one(image):
                assert model(image).unique().tolist() == pytest.approx([1 / 3])
            assert model.filter.tolist() == [3, 3, 3] and model.passes == model.mean == 0
            with pytest.raises(DiffIMLError, match="_Writing cannot take 2 images"), passes.one(two):
                model(two)
            assert model.filter.tolist() == [3, 3, 3] and model.passes == model.mean == 0


@pytest.mark.parametrize(
    "odd",
    [
        torch.eye(3).to_sparse(),
        torch.ones(3, device="meta"),
        torch.tensor([float("nan")]).expand(3),
        torch.arange(3),
        torch.ones(3, dtype=torch.bool),
    ],
    ids=["sparse", "meta", "nan", "whole", "bool"],
)
def test_a_model_may_hold_tensors_of_any_kind(odd):
    model = nn.Conv2d(3, 1, 1)
    model.register_buffer("odd", odd, persistent=False)
    with Passes(model).one(torch.zeros(1, 3, 8, 8)):
        model(torch.zeros(1, 3, 8, 8))
    assert model.odd is odd


def test_what_was_made_in_inference_mode_is_put_back():
    with torch.inference_mode():
        model = _Writing()
        with Passes(model).one(torch.ones(1, 3, 8, 8)):
            model(torch.ones(1, 3, 8, 8))
    passes = Passes(model)
    with torch.inference_mode(), passes.one(torch.ones(1, 3, 8, 8)):
        model(torch.ones(1, 3, 8, 8))
    assert model.passes == model.mean == 0 and model.filter.tolist() == [3, 3, 3]
