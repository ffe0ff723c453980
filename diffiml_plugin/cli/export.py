"""A trained DiffIML as graphs for other programs (ONNX or torch.export), with a sampler in numpy that runs them.

The folder holds its own README.md. The graphs are tried before the verb ends: their masks agree with the model's.
"""

import argparse

from diffiml_plugin.cli.arguments import add_trained_model_arguments
from diffiml_plugin.settings import CommonSettings

USES_MODEL = RESTORES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_trained_model_arguments(parser)
    parser.add_argument(
        "--format",
        choices=("onnx", "torch_export"),
        default="onnx",
        help="onnx: for onnxruntime, without torch (needs the extra [export]) | torch_export: for torch alone",
    )
    parser.add_argument("--output_dir", default="exported", help="folder for the graphs and their sampler")
    parser.add_argument("--image_size", type=int, help="side in pixels that photos are brought to (as trained)")


def run(args: argparse.Namespace) -> int:
    from diffiml_plugin.prediction.export import export

    settings = CommonSettings(image_size=args.image_size)
    exported = export(args.checkpoint_path, args.format, args.output_dir, settings, args.model, args.model_flags)
    for file in exported.files:
        print(f"{file}: {file.stat().st_size / 1e6:.3f} MB")
    print(f"probabilities differ from the model's by {exported.difference:.1g} at most")
    return 0
