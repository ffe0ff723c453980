"""Convert a checkpoint of the authors' release, or its codec's weights, to a file that every verb takes.

A whole model (checkpoint-N.pth) is then a --checkpoint_path; a codec (light_vae_weights.pth) is --codec_weights for
--latent_codec lightvae-release. NVIDIA's mit_b*.pth need no conversion: they are --encoder_weights as they are.
Nothing in the file is run.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="file of the authors' scripts, .pth or .safetensors")
    parser.add_argument("--output", required=True, metavar="FILE", help="file to write, NAME.safetensors")
    parser.add_argument(
        "--activation",
        default="relu",
        choices=("relu", "silu"),
        help="of the LightVAE in it, which the file does not tell; if it is wrong the codec is found out",
    )
    parser.add_argument("--force", action="store_true", help="convert a codec that does not give back a mask too")


def run(args: argparse.Namespace) -> int:
    from pathlib import Path

    from diffiml_plugin.models.converted import convert

    print(f"{args.output}: {convert(Path(args.source), Path(args.output), args.activation, args.force)}")
    return 0
