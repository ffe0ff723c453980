"""Makes a checkpoint's answers mean something: a threshold for masks, and the probability that an image was tampered
with, from a logistic regression on a few numbers of its mask. Stored in the checkpoint.

The lists hold images whose answer is known, authentic and tampered ones, that the model was not trained on: ten or
more, hundreds for figures that hold. The more they are like the images to come, the better; what is said of images of
other kinds is measured by leaving each list's set out. The sampling flags are stored too: the answers hold for them.
"""

import argparse

from diffiml_plugin.settings import COMPILE_MODES, DEVICES, PRECISIONS, CommonSettings

USES_MODEL = RESTORES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint_path", required=True, help="weights: a file, a training's folder, or small")
    parser.add_argument(
        "--test_data_path",
        required=True,
        nargs="+",
        metavar="LIST",
        help='lists [[image, mask | "Negative"], ...], or a JSON of {name: list}',
    )
    parser.add_argument("--output", default="", help="file of calibrated weights (the checkpoint itself)")
    parser.add_argument(
        "--output_dir", default="calibration", help="folder for figures, reliability diagram and records"
    )
    parser.add_argument(
        "--false_alarm_rate",
        type=float,
        help="of the mask: the lowest threshold that bounds the expected share of an authentic image's area that is "
        "called tampered: (sum of n shares + 1) / (n + 1) <= RATE (the threshold of the best F1, in the "
        "mean over the lists)",
    )
    parser.add_argument(
        "--max_false_alarms", type=float, default=0.05, help="share of authentic images that may be called tampered"
    )
    parser.add_argument(
        "--max_misses", type=float, default=0.1, help="share of tampered images of which `nothing found` may be said"
    )
    parser.add_argument("--model", default="", help="name in the framework's registry (the checkpoint's)")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="where to compute")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="auto", help="of encoder and denoiser; auto: fp16 on a GPU"
    )
    parser.add_argument("--compile", choices=COMPILE_MODES, default="auto", help="compile DiffIML; auto: on a GPU")


def run(args: argparse.Namespace) -> int:
    from pathlib import Path

    from diffiml_plugin.evaluation.calibrating import Bounds
    from diffiml_plugin.prediction.calibrate import calibrate, require_own_target
    from diffiml_plugin.prediction.detector import Detector

    bounds = Bounds(args.max_false_alarms, args.max_misses, args.false_alarm_rate)
    target = require_own_target(args.checkpoint_path, args.output)
    settings = CommonSettings(device=args.device)
    detector = Detector(
        args.checkpoint_path, settings, args.model, args.model_flags, None, args.precision, args.compile
    )
    folder = Path(args.output_dir)
    fitted = calibrate(detector, args.test_data_path, folder, target, bounds)
    print(fitted.table())
    print(f"calibrated weights are in {target}, figures and reliability diagram in {folder}")
    return 0
