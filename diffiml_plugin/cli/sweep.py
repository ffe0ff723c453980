"""Scores one DiffIML checkpoint under many sampling settings; each image goes through the encoder once.

One setting is varied at a time around the checkpoint's own, or the flags'. Writes sweep.json and
sweep_per_image.jsonl to the output folder, and prints a table of pixel-F1, mean ± standard deviation over the noise
seeds.
"""

import argparse

from diffiml_plugin.cli.arguments import add_fields
from diffiml_plugin.cli.parser import Parser
from diffiml_plugin.cli.test import run_scoring
from diffiml_plugin.evaluation.settings import TestSettings

USES_MODEL = RESTORES = True
IRRELEVANT = ("if_predict_label", "seed")


def add_arguments(parser: Parser) -> None:
    add_fields(parser, TestSettings)
    parser.add_argument(
        "--vary",
        nargs="+",
        action="extend",
        required=True,
        metavar="NAME=VALUE,VALUE",
        help="sampler, num_inference_steps, timestep_spacing, clip_latents, ensemble_size, ensemble_space, tta, "
        "tta_fusion, mask_bias or mask_reading, and its values",
    )
    parser.add_argument("--noise_seeds", type=int, default=1, help="runs of each value, each with noise of its own")


def run(args: argparse.Namespace) -> int:
    return run_scoring(args, "sweep", vary=args.vary, noise_seeds=args.noise_seeds)
