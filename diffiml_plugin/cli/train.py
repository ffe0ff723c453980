"""Trains DiffIML, or any model of the framework's registry, on the CPU, one GPU or many.

The defaults are the paper's protocol, but for --encoder_weights imagenet, which needs the hub or a file. The output
folder gets last.safetensors, best.safetensors (with --test_data_path), the state for --resume auto, log.jsonl,
TensorBoard files, config.yaml and run.json.
"""

import argparse
import sys
from dataclasses import fields

from diffiml_plugin.cli.arguments import add_fields
from diffiml_plugin.cli.parser import Parser
from diffiml_plugin.training.settings import TrainSettings

USES_MODEL = True


def add_arguments(parser: Parser) -> None:
    add_fields(parser, TrainSettings)


def run(args: argparse.Namespace) -> int:
    settings = TrainSettings(**{field.name: getattr(args, field.name) for field in fields(TrainSettings)})
    from diffiml_plugin import launch

    status = launch.spawn(settings.gpus, settings.device, sys.argv[1:])
    if status is not None:
        return status
    from diffiml_plugin.training.engine import train

    train(settings, args.model_flags)
    launch.leave()
    return 0
