"""Measure LightVAE on masks: reconstruction, means of latents, noise, cost; codec.json and a page."""

import argparse
from pathlib import Path

from diffiml_plugin.errors import DiffIMLError

_LARGEST = 4096  # pixels, as of images


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from diffiml_plugin.settings import DEVICES

    parser.add_argument("--masks", required=True, metavar="DIR|JSON", help="masks never seen in training")
    parser.add_argument("--output", default="./output_dir", metavar="DIR", help="folder for codec.json and codec.html")
    parser.add_argument(
        "--codec_weights", default="default", metavar="FILE", help="LightVAE to measure (default: the shipped one)"
    )
    parser.add_argument(
        "--image_size",
        type=int,
        default=512,
        help="side that masks are brought to, nearest neighbour as the framework does it; "
        "0 keeps their sizes (time and FLOPs are then of 512)",
    )
    parser.add_argument("--binarise", action="store_true", help="cut masks that are not binary, with a warning")
    parser.add_argument("--device", default="auto", choices=DEVICES, help="where to compute")


def run(args: argparse.Namespace) -> int:
    if not 0 <= args.image_size <= _LARGEST:
        raise DiffIMLError(f"--image_size {args.image_size} is outside [0, {_LARGEST}] pixels")
    from diffiml_plugin.codec.report import report_codec
    from diffiml_plugin.data.masks import find_masks, read_masks, resized
    from diffiml_plugin.launch import autocast, start_inference
    from diffiml_plugin.weights.codecs import load_codec

    device = start_inference(args.device).device
    files = find_masks(args.masks)
    codec = load_codec("lightvae", args.codec_weights).to(device)
    masks = dict(zip(map(str, files), read_masks(files, args.binarise), strict=True))
    if args.image_size:
        masks = {name: resized(mask, args.image_size) for name, mask in masks.items()}
    with autocast(device, "fp32"):  # as the page says
        result = report_codec(codec, masks, args.image_size or 512, Path(args.output))
    reconstruction = result["reconstruction"]
    print(
        f"{reconstruction['images']} masks: pixel-F1 {reconstruction['f1_mean']:.4f}, 5th percentile "
        f"{reconstruction['f1_p5']:.4f}, under latent noise 0.3 {result['noise']['0.3']:.4f}; "
        f"{result['time_ratio_sd_over_light']:.0f} times faster than the SD VAE"
    )
    for members, mean in result["means"].items():
        print(
            f"means of {members} latents: off by {mean['error']:.4f} where the masks disagree, "
            f"spectrum at 8 pixels {mean['lattice']:.1f} times its surroundings"
        )
    print(f"page: {Path(args.output) / 'codec.html'}")
    return 0
