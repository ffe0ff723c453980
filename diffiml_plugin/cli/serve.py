"""A page on this computer: give it a photo, see what was manipulated, how certain that is, and keep the record.

No photo stays, and neither the page nor the program asks another computer for anything.
"""

import argparse

from diffiml_plugin.cli.arguments import add_trained_model_arguments
from diffiml_plugin.settings import DEVICES, PRECISIONS, CommonSettings

USES_MODEL = RESTORES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_trained_model_arguments(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address of the page; 127.0.0.1: for this computer alone")
    parser.add_argument("--port", type=int, default=7860, help="of the page; 0: a free one")
    parser.add_argument("--max_upload_mb", type=float, default=50, help="of a photo's file, in MB")
    parser.add_argument("--time_limit_s", type=float, default=120, help="for a photo, in seconds")
    parser.add_argument("--threshold", type=float, help="a pixel above it is tampered (the checkpoint's own, or 0.5)")
    parser.add_argument("--image_size", type=int, help="side in pixels that the model works at (as trained)")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="where to compute")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="auto", help="of encoder and denoiser; auto: fp16 on a GPU"
    )


def run(args: argparse.Namespace) -> int:
    from functools import partial

    from diffiml_plugin.prediction.detector import Detector
    from diffiml_plugin.prediction.serve import ServeSettings, serve

    settings = CommonSettings(image_size=args.image_size, device=args.device)
    make_detector = partial(
        Detector, args.checkpoint_path, settings, args.model, args.model_flags, args.threshold, args.precision, "off"
    )
    serve(make_detector, ServeSettings(args.host, args.port, args.max_upload_mb, args.time_limit_s))
    return 0
