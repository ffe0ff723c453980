"""Masks for your own photos, an answer for each, and a page to look through."""

import argparse

from diffiml_plugin.cli.arguments import add_trained_model_arguments
from diffiml_plugin.imports import quick_imports
from diffiml_plugin.settings import COMPILE_MODES, DEVICES, PRECISIONS, CommonSettings

USES_MODEL = RESTORES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="a photo, a folder with sub-folders, a pattern, or - for a list on stdin",
    )
    add_trained_model_arguments(parser)
    parser.add_argument(
        "--output_dir", default="predictions", help="folder for masks, results.jsonl, run.json and report.html"
    )
    parser.add_argument(
        "--skip_existing", action="store_true", help="go on with an earlier run: leave out the photos that are done"
    )
    parser.add_argument("--threshold", type=float, help="a pixel above it is tampered (the checkpoint's own, or 0.5)")
    parser.add_argument("--image_size", type=int, help="side in pixels that the model works at (as trained)")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="where to compute")
    parser.add_argument(
        "--max_memory",
        type=float,
        metavar="GB",
        help="what it may take: larger photos go in tiles (those of more than 4 megapixels, in tiles of 1536x1536, or "
        "of less where nine tenths of the computer's memory do not suffice)",
    )
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="auto", help="of encoder and denoiser; auto: fp16 on a GPU"
    )
    parser.add_argument(
        "--compile",
        choices=COMPILE_MODES,
        default="auto",
        help="compile DiffIML and capture CUDA graphs; auto: on a GPU",
    )


def run(args: argparse.Namespace) -> int:
    from pathlib import Path

    with quick_imports():
        from diffiml_plugin.prediction.detector import Detector
        from diffiml_plugin.prediction.files import FAILED, predict

    settings = CommonSettings(image_size=args.image_size, device=args.device)
    words = args.checkpoint_path, settings, args.model, args.model_flags, args.threshold
    detector = Detector(*words, args.precision, args.compile, args.max_memory)
    verdicts = predict(detector, args.paths, Path(args.output_dir), args.skip_existing)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
    print(f"{counts or 'nothing new'}; masks, results.jsonl and report.html are in {args.output_dir}")
    return 1 if verdicts[FAILED] else 0
