"""Scores a checkpoint under JPEG compression, blur and noise, at the framework's strengths, beside the clean images.

Writes robust.json, robust.png (pixel-F1 against strength) and robust_per_image.jsonl to the output folder, and prints a
table. Run again after an interruption, it goes on where it stopped.
"""

import argparse

from diffiml_plugin.cli.arguments import add_fields
from diffiml_plugin.cli.parser import Parser
from diffiml_plugin.cli.test import run_scoring
from diffiml_plugin.evaluation.settings import TestSettings

USES_MODEL = RESTORES = True
IRRELEVANT = ("if_predict_label",)


def add_arguments(parser: Parser) -> None:
    add_fields(parser, TestSettings)


def run(args: argparse.Namespace) -> int:
    return run_scoring(args, "robust")
