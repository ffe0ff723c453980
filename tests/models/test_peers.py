"""The framework's own models, in full size with random weights, through our engine."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffiml_plugin.models.registry import RegisteredModel
from diffiml_plugin.training import engine as training
from diffiml_plugin.training.settings import TrainSettings


@pytest.fixture
def without_gpu_and_jpegio(monkeypatch):
    """Both of which Cat_Net insists on."""
    for moved in (torch.nn.Module, torch.Tensor):
        monkeypatch.setattr(moved, "cuda", lambda self, *args: self)
    component = SimpleNamespace(v_samp_factor=1, h_samp_factor=1, quant_tbl_no=0)
    monkeypatch.setattr(
        "IMDLBenCo.model_zoo.cat_net.cat_net_post_function.read_jpeg_from_memory",
        lambda image: SimpleNamespace(
            comp_info=[component], coef_arrays=[np.zeros(image.shape[1:])], quant_tables=[np.ones((8, 8))]
        ),
    )


@pytest.mark.slow
@pytest.mark.usefixtures("without_gpu_and_jpegio")
@pytest.mark.parametrize(
    ("name", "size", "images", "flags"),
    [
        ("Cat_Net", 64, 2, {}),
        ("IML_ViT", 64, 2, {}),
        ("Mesorch", 512, 1, {}),  # it takes no other size
        ("PSCC_Net", 64, 2, {"pretrain_path": ""}),
        ("SparseViT", 512, 1, {}),
        ("Trufor", 64, 2, {}),
    ],
)
def test_a_peer_trains_and_is_restored(name, size, images, flags, tiny_dataset, tmp_path, monkeypatch, restore):
    build = RegisteredModel.build
    monkeypatch.setattr(RegisteredModel, "build", lambda card, flags, pretrained: build(card, flags, pretrained=False))
    listing = tiny_dataset / "list.json"
    listing.write_text(json.dumps(json.loads(listing.read_text())[:images]))
    done = training.train(
        TrainSettings(
            model=name,
            data_path=str(listing),
            image_size=size,
            if_resizing=True,
            batch_size=2,
            total_batch_size=2,
            epochs=1,
            lr=1e-4,
            num_workers=0,
            device="cpu",
            precision="fp32",
            output_dir=str(tmp_path / "run"),
        ),
        flags,
    )
    record = json.loads((done.folder / "log.jsonl").read_text())
    assert record["update"] == 1 and all(value > 0 for value in record["loss"].values())
    assert restore(done.folder / "last.safetensors").card.name == name
    shutil.rmtree(done.folder)  # gigabytes
