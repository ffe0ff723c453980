"""Trains DiffIML, or any model of the framework's registry, on the CPU, one GPU or many.

The defaults are the paper's protocol, but for --encoder_weights imagenet, which needs the hub or a file. The output
folder gets last.safetensors, best.safetensors (with --test_data_path), the state for --resume auto, log.jsonl,
TensorBoard files, config.yaml and run.json.
"""

import argparse
import shlex
import sys
from dataclasses import fields

from diffiml_plugin.cli.arguments import add_fields
from diffiml_plugin.cli.parser import Parser
from diffiml_plugin.imports import quick_imports
from diffiml_plugin.training.settings import TrainSettings

USES_MODEL = True


def add_arguments(parser: Parser) -> None:
    add_fields(parser, TrainSettings)


def run(args: argparse.Namespace) -> int:
    settings = TrainSettings(**{field.name: getattr(args, field.name) for field in fields(TrainSettings)})
    with quick_imports():
        from diffiml_plugin import launch

    status = launch.spawn(settings.gpus, settings.device, sys.argv[1:])
    if status is not None:
        return status
    with quick_imports():
        from diffiml_plugin.models.checkpoints import BEST, LAST
        from diffiml_plugin.training.engine import train

    done = train(settings, args.model_flags)
    if launch.is_main_process():
        best = done.f1 is not None and (done.folder / BEST).exists()
        path = done.folder / (BEST if best else LAST)
        kept = f"best weights, of F1 {done.f1:.4f}: {path}" if best else f"weights: {path}"
        shown = shlex.quote(str(path))
        print(kept, f"figures: benco test --checkpoint_path {shown} --test_data_path LIST", sep="\n")
        print(f"masks: benco predict PHOTO --checkpoint_path {shown}")
    launch.leave()
    return 0
