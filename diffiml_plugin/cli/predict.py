"""Masks for your own images: probability, binary mask, overlay and uncertainty of each, and their scores."""

import argparse

from diffiml_plugin.settings import COMPILE_MODES, DEVICES, PRECISIONS, CommonSettings

USES_MODEL = RESTORES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="an image, or a folder with sub-folders")
    parser.add_argument(
        "--checkpoint_path",
        default="small",
        help="weights: a file, a training's folder, or small, the model that travels with the package",
    )
    parser.add_argument("--output_dir", default="predictions", help="folder for masks and scores.json")
    parser.add_argument("--model", default="", help="name in the framework's registry (the checkpoint's)")
    parser.add_argument("--threshold", type=float, help="a pixel above it is tampered (the checkpoint's own, or 0.5)")
    parser.add_argument("--image_size", type=int, help="side in pixels that the model works at (as trained)")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="where to compute")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="auto", help="of encoder and denoiser; auto: bf16 on a GPU"
    )
    parser.add_argument(
        "--compile",
        choices=COMPILE_MODES,
        default="auto",
        help="compile DiffIML and capture CUDA graphs; auto: on a GPU",
    )


def run(args: argparse.Namespace) -> int:
    from pathlib import Path

    from diffiml_plugin.prediction.detector import Detector
    from diffiml_plugin.prediction.files import predict

    settings = CommonSettings(image_size=args.image_size, device=args.device)
    detector = Detector(
        args.checkpoint_path, settings, args.model, args.model_flags, args.threshold, args.precision, args.compile
    )
    failures = predict(detector, args.paths, Path(args.output_dir))
    print(f"masks and scores.json are in {args.output_dir}")
    return 1 if failures else 0
