import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.framework.adapters import DiffIMLModel, diffiml_post_func, register
from diffiml_plugin.framework.imdlbenco import MODELS, POSTFUNCS
from diffiml_plugin.prediction.pictures import HEADING
from diffiml_plugin.training.tracking import picture_strips


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return DiffIMLModel(encoder="segformer_b0", num_inference_steps=2, ensemble_size=2).eval()


@pytest.fixture
def batch():
    mask = torch.zeros(2, 1, 64, 64, dtype=torch.float64)
    mask[:, :, 16:48, 16:48] = 1
    samples = [{"mask": one} for one in mask]
    for sample in samples:
        diffiml_post_func(sample)
    edge_map = torch.stack([sample["edge_map"] for sample in samples])
    return {"image": torch.randn(2, 3, 64, 64), "mask": mask, "edge_map": edge_map, "name": ["a", "b"]}


def test_registering_twice_is_registering_once():
    register()
    register()
    assert MODELS.has("DiffIML") and MODELS.has("SegFormerIML") and POSTFUNCS.has("diffiml_post_func")


def test_the_edge_map_follows_the_contour(batch):
    edge = batch["edge_map"]
    assert edge.shape == (2, 1, 64, 64) and edge.dtype == torch.float32
    assert edge[0, 0, 16, 32] == 1 and edge[0, 0, 32, 32] == 0 and edge[0, 0, 0, 0] == 0


def test_training_gives_what_the_frameworks_loop_reads(model, batch):
    output = model.train()(**batch, label=torch.ones(2), if_predcit_label=False)
    model.eval()
    assert output["backward_loss"].requires_grad and output["timesteps"].shape == (2,)
    assert all(value.item() > 0 for value in output["visual_loss"].values())


def test_the_frameworks_band_may_be_the_edge_target(batch):
    model, targets, band = (
        DiffIMLModel(encoder="segformer_b0", edge_target="band").train(),
        [],
        torch.ones(2, 1, 64, 64),
    )
    with pytest.raises(DiffIMLError, match="pass --edge_mask_width"):
        model(**batch)
    encode = model.diffiml._encode_targets
    model.diffiml._encode_targets = lambda mask, edge: targets.append(edge) or encode(mask, edge)
    assert model(**batch, edge_mask=band)["backward_loss"] > 0 and targets == [band]


def test_the_truth_is_not_read_when_predicting(model, batch):
    told = model(**batch)
    untold = model(batch["image"], name=batch["name"])
    assert torch.equal(told["pred_mask"], untold["pred_mask"])
    assert told["pred_mask"].shape == (2, 1, 64, 64) and told["pred_label"].shape == (2,)


def test_nothing_is_found_in_the_padding(model, batch):
    real = torch.zeros(2, 1, 64, 64)
    real[:, :, :32] = 1
    whole, output = model(**batch), model(**batch, shape_mask=real)
    assert torch.equal(output["pred_mask"], whole["pred_mask"] * real)
    assert torch.equal(output["pred_label"], torch.nn.functional.avg_pool2d(output["pred_mask"], 8).amax((1, 2, 3)))


def test_without_names_the_content_is_the_key(model, batch):
    both, second = model(batch["image"])["pred_mask"], model(batch["image"][1:])["pred_mask"]
    assert (both[1] - second[0]).abs().max() < 1e-5


def test_strips_show_input_mask_edges_prediction_and_each_step(model, batch):
    output = model(**batch, details=True, uncertainty=True)
    strips = picture_strips(batch, output)
    assert strips.shape == (2, 3, HEADING + 64, 64 * (1 + 1 + 1 + 1 + 1 + 2 + 1))  # the predicted edge, and two steps
    headings, *pictures = strips[:, :, :HEADING], *strips[:, :, HEADING:].split(64, dim=3)
    assert headings.min() < 0.2 < 0.8 < headings.max()
    assert (pictures[-1] - 2 * output["uncertainty"].clamp(0, 0.5)).abs().max() < 1 / 255 + 1e-6


class _Largest(TorchDispatchMode):
    """The number of values of the largest tensor that is made inside."""

    values = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (list, tuple)) else [made]:
            self.values = max(self.values, tensor.numel())
        return made


@torch.no_grad()
def test_memory_grows_with_the_positions_not_with_their_pairs():
    """In the default memory layout no fused kernel takes the attention of `release`: 2 GB a member at 512×512."""
    denoiser = DiffIMLModel(encoder="segformer_b0").diffiml.denoiser.eval()
    time, largest = denoiser.embed(torch.tensor([7])), []
    for cells in (16, 32):
        features = [
            torch.randn(1, c, int(s * cells), int(s * cells))
            for c, s in zip((32, 64, 160, 256), (2, 1, 0.5, 0.25), strict=True)
        ]
        with _Largest() as made:
            denoiser(torch.randn(1, 8, cells, cells), time, denoiser.fuse(features))
        largest.append(made.values)
    assert largest[1] == 4 * largest[0]
