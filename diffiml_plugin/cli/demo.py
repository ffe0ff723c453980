"""Trains a small model on real photographs tampered on the fly, and tests it on photographs it never saw.

The photographs travel with scikit-image, scikit-learn and matplotlib. Writes report.html, the tampered images,
the weights and the predictions to the output folder. The defaults stand in benco_configs/demo.yaml.
"""

import argparse
from dataclasses import fields

from diffiml_plugin.cli.arguments import add_fields
from diffiml_plugin.cli.parser import Parser
from diffiml_plugin.training.settings import TrainSettings

USES_MODEL = True
CONFIG = "benco_configs/demo.yaml"
_NOT_HERE = (
    "augmentation",
    "checkpoint_path",
    "crop_size",
    "data_path",
    "gpus",
    "samples_per_set",
    "synth_authentic",
    "synth_kinds",
    "synth_samples",
    "synth_strength",
    "synth_window",
    "synth_windows",
    "test_data_path",
    "test_period",
)


def add_arguments(parser: Parser) -> None:
    add_fields(parser, TrainSettings, skip=_NOT_HERE)
    parser.add_argument("--train_images", type=int, default=512, help="tampered images per epoch")
    parser.add_argument("--test_images", type=int, default=60, help="tampered images of the unseen photographs")


def run(args: argparse.Namespace) -> int:
    from diffiml_plugin.demo.demo import demo
    from diffiml_plugin.folders import claimed

    names = [field.name for field in fields(TrainSettings) if field.name not in _NOT_HERE]
    settings = TrainSettings(**{name: getattr(args, name) for name in names})
    with claimed(settings.output_dir):
        result = demo(settings, args.model_flags, args.train_images, args.test_images)
    print(f"F1 before training: {result.before:.4f}")
    print(f"F1 of the best constant answer: {result.constant:.4f}")
    print(f"F1 after training, on unseen photographs: {result.after:.4f}")
    print(f"report: {result.report}")
    return 0
