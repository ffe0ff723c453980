"""Scores a checkpoint on one or more datasets: pixel-F1 at a fixed 0.5 on tampered images, false alarms on authentic.

The checkpoint says which model it holds; flags of the model change how it runs (--ensemble_size, --tta ...), not what
it is. Writes results.json, per_image.jsonl and table.md to the output folder, and prints the table.
"""

import argparse
import sys
from contextlib import nullcontext
from dataclasses import fields
from importlib import import_module
from typing import Any

from diffiml_plugin.cli.arguments import add_fields
from diffiml_plugin.cli.parser import Parser
from diffiml_plugin.evaluation.settings import TestSettings
from diffiml_plugin.folders import claimed
from diffiml_plugin.imports import quick_imports

USES_MODEL = RESTORES = True
IRRELEVANT = ("if_predict_label", "seed")


def add_arguments(parser: Parser) -> None:
    add_fields(parser, TestSettings)


def run(args: argparse.Namespace) -> int:
    return run_scoring(args, "test")


def run_scoring(args: argparse.Namespace, verb: str, **options: Any) -> int:
    """Calls the function `verb` of evaluation/VERB.py with settings, the model's flags and `options`, on each GPU."""
    settings = TestSettings(**{field.name: getattr(args, field.name) for field in fields(TestSettings)})
    with quick_imports():
        from diffiml_plugin import launch

    status = launch.spawn(settings.gpus, settings.device, sys.argv[1:])
    if status is not None:
        return status
    with quick_imports():
        function = getattr(import_module(f"diffiml_plugin.evaluation.{verb}"), verb)
    with claimed(settings.output_dir) if launch.is_main_process() else nullcontext():
        function(settings, args.model_flags, **options)
    launch.leave()
    return 0
