"""Parameters and FLOPs of a model with random weights, as Table 4 counts them: 1 multiply-add = 1, every step counted.

DiffIML is counted for an ensemble of N=1 and of N=5, whatever --ensemble_size says. With --zoo, Table 4 in one run:
DiffIML, with LightVAE and with Stable Diffusion's VAE, and the framework's models, each at its own size and timed on
this device. Nothing is downloaded; a model that cannot do without is listed with the reason.
"""

import argparse
import sys
from typing import Any

from diffiml_plugin.method.config import TRAINING_FIELDS
from diffiml_plugin.settings import DEVICES

USES_MODEL = True
IRRELEVANT = (
    *(*TRAINING_FIELDS, "encoder_weights", "codec_weights", "num_train_timesteps", "beta_start", "beta_end"),
    *("ensemble_size", "noise_seed", "timestep_spacing", "clip_latents", "tta_fusion", "mask_reading"),
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
    parser.add_argument("--json", default="", metavar="FILE", help="write the figures to this file too")


def run(args: argparse.Namespace) -> int:
    from diffiml_plugin.files import require_writable
    from diffiml_plugin.models.cost import complexity

    flags = args.model_flags
    if args.json:
        require_writable(args.json)
    if args.zoo is not None:
        return _run_zoo(args, flags)
    row = complexity(args.model, flags, 512 if args.image_size is None else args.image_size)
    print(_table(row))
    _write(args.json, row)
    return 0


def _run_zoo(args: argparse.Namespace, flags: dict[str, Any]) -> int:
    from tqdm import tqdm

    from diffiml_plugin.errors import DiffIMLError
    from diffiml_plugin.launch import start_inference
    from diffiml_plugin.models.zoo import zoo

    if args.model != "DiffIML":
        raise DiffIMLError(
            f"--zoo compares DiffIML with others; in place of --model {args.model} say --zoo {args.model}"
        )
    rows = []
    for row in zoo(args.zoo, flags, args.image_size, start_inference(args.device).device):
        if not rows:
            tqdm.write(f"{'':<30}{'params M':>12}{'GFLOPs':>12}{'FPS':>10}{'× DiffIML':>12}")
        tqdm.write(_zoo_line(row))
        sys.stdout.flush()  # into a file or a pipe too, line by line
        rows.append(row)
        _write(args.json, rows)  # each time: an interruption leaves what is known
    return 0


def _zoo_line(row: dict[str, Any]) -> str:
    from diffiml_plugin.evaluation.published import table4_name
    from diffiml_plugin.models.zoo import RATIO

    ((members, gflops),) = row["GFLOPs"].items()
    head = f"{table4_name(row, members):<30}"
    if "error" in row:
        return f"{head}  {row['error']}"
    counted = "untraceable" if gflops is None else f"{gflops:.2f}"
    return f"{head}{row['params_M']['total']:>12.2f}{counted:>12}{row['fps']:>10.3g}{row[RATIO]:>12.2f}"


def _write(file: str, content: Any) -> None:
    import json
    from pathlib import Path

    from diffiml_plugin.files import write_text

    if file:
        write_text(Path(file), json.dumps(content, indent=2) + "\n")


def _table(row: dict[str, Any]) -> str:
    from diffiml_plugin.table import Table

    parameters = [[part.replace("_", " "), f"{millions:.3f}"] for part, millions in row["params_M"].items()]
    counts = [[size, "untraceable" if count is None else f"{count:.2f}"] for size, count in row["GFLOPs"].items()]
    title = f"{row['model']}, {row['image_size']}×{row['image_size']}"
    return f"{title}\n{Table(['', 'M parameters'], parameters)}\n{Table(['', 'G multiply-adds'], counts)}"
