"""Parameters and FLOPs of a model with random weights, 1 multiply-add = 1.

DiffIML is counted for an ensemble of N=1 and of N=5, whatever --ensemble_size says, and in three ways: whole, every
sampling step; as published in Table 4, one step and without the denoiser's self-attention; and as it runs here, where
what all calls of the denoiser share is worked out once. With --zoo, Table 4 in one run: DiffIML, ours beside the
release's, with its LightVAE and with Stable Diffusion's VAE, and the framework's models, each at its own size and timed
on this device. Nothing is downloaded; a model that cannot do without is listed with the reason.
"""

import argparse
from collections.abc import Mapping
from typing import Any

from diffiml_plugin.method.config import TRAINING_FIELDS
from diffiml_plugin.settings import DEVICES

USES_MODEL = True
IRRELEVANT = (
    *(*TRAINING_FIELDS, "encoder_weights", "codec_weights", "num_train_timesteps", "beta_start", "beta_end"),
    *("ensemble_size", "noise_seed", "timestep_spacing", "clip_latents", "tta_fusion", "mask_bias", "mask_reading"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--image_size", type=int, metavar="PIXELS", help="side of the square image (512; with --zoo each model's own)"
    )
    parser.add_argument(
        "--zoo",
        nargs="*",
        metavar="MODEL",
        help="compare DiffIML with these models of the registry, or with all if none is named",
    )
    parser.add_argument("--device", default="auto", choices=DEVICES, help="with --zoo: where to compute")
    parser.add_argument(
        "--count",
        choices=("whole", "published", "run"),
        help="of DiffIML: whole | published (Table 4's way) | run (as it runs); GFLOPs of --json (whole), the only one "
        "shown",
    )
    parser.add_argument("--json", default="", metavar="FILE", help="write the figures to this file too")


def run(args: argparse.Namespace) -> int:
    from diffiml_plugin.files import require_free
    from diffiml_plugin.models.cost import complexity
    from diffiml_plugin.models.registry import find_model

    flags = args.model_flags
    if args.json:
        require_free(args.json)
    if args.zoo is not None:
        return _run_zoo(args, flags)
    image_size = 512 if args.image_size is None else args.image_size
    find_model(args.model).require_size(image_size)
    row = complexity(args.model, flags, image_size, args.count or "whole")
    print(_table(row, args.count))
    _write(args.json, row)
    return 0


def _run_zoo(args: argparse.Namespace, flags: dict[str, Any]) -> int:
    from diffiml_plugin.errors import DiffIMLError
    from diffiml_plugin.launch import start_inference
    from diffiml_plugin.models.zoo import zoo
    from diffiml_plugin.reports.tables import cost_table

    if args.model != "DiffIML":
        raise DiffIMLError(
            f"--zoo compares DiffIML with others; in place of --model {args.model} say --zoo {args.model}"
        )
    rows: list[dict[str, Any]] = []
    try:
        for row in zoo(args.zoo, flags, args.image_size, start_inference(args.device).device, args.count or "whole"):
            rows.append(row)
            _write(args.json, rows)
    finally:  # an interruption leaves what is known
        print(cost_table(rows))
    return 0


def _write(file: str, content: Any) -> None:
    import json
    from pathlib import Path

    from diffiml_plugin.files import write_text

    if file:
        write_text(Path(file), json.dumps(content, indent=2) + "\n")


def _table(row: Mapping[str, Any], count: str | None) -> str:
    from diffiml_plugin.table import Table

    parameters = [[part.replace("_", " "), f"{millions:.3f}"] for part, millions in row["params_M"].items()]
    by_count = {} if count else row.get("GFLOPs_by_count", {})
    heads = [f"G multiply-adds, {name}" for name in by_count] or [f"G multiply-adds{count and f', {count}' or ''}"]
    columns = list(by_count.values()) or [row["GFLOPs"]]
    counts = [[size, *(_gflops(column[size]) for column in columns)] for size in row["GFLOPs"]]
    title = f"{row['model']}, {row['image_size']}×{row['image_size']}"
    return f"{title}\n{Table(['', 'M parameters'], parameters)}\n{Table(['', *heads], counts)}"


def _gflops(count: float | None) -> str:
    return "untraceable" if count is None else f"{count:.2f}"
