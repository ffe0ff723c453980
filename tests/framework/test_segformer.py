"""SegFormerIML goes through the engine that DiffIML goes through."""

import torch

from diffiml_plugin.evaluation import test as testing
from diffiml_plugin.evaluation.settings import TestSettings
from diffiml_plugin.models.registry import DIFFIML, SEGFORMER
from diffiml_plugin.training.engine import train
from diffiml_plugin.training.settings import TrainSettings


def test_it_trains_and_tests(tiny_dataset, tmp_path, restore):
    listed = str(tiny_dataset / "list.json")
    shared = {"image_size": 64, "num_workers": 0, "device": "cpu"}
    done = train(
        TrainSettings(
            model="SegFormerIML",
            data_path=listed,
            batch_size=2,
            total_batch_size=4,
            epochs=1,
            output_dir=str(tmp_path / "run"),
            **shared,
        ),
        {"encoder": "segformer_b0"},
    )
    results = testing.test(
        TestSettings(
            checkpoint_path=str(done.folder / "last.safetensors"),
            test_data_path=listed,
            output_dir=str(tmp_path / "out"),
            **shared,
        )
    )
    assert results["model"] == "SegFormerIML" and results["settings"]["encoder"] == "segformer_b0"
    assert {"pixel-level F1", "image-level AUC"} <= results["datasets"]["tiny"].keys()
    restored = restore(done.folder / "last.safetensors")
    output = restored.model.eval()(torch.zeros(2, 3, 64, 64))
    assert output["pred_mask"].shape == (2, 1, 64, 64) and output["pred_label"].shape == (2,)


def test_it_has_the_flags_of_diffimls_encoder_and_no_other():
    assert SEGFORMER.flags.keys() == {"encoder", "encoder_weights", "freeze_encoder", "lora"}
    assert SEGFORMER.post_function is None
    one, other = (card.constructor(encoder="segformer_b0") for card in (SEGFORMER, DIFFIML))
    theirs = other.diffiml.condition_encoder.state_dict()
    assert one.segmenter.condition_encoder.state_dict().keys() == theirs.keys()
