"""What a prediction costs on this device: latency, throughput, memory, launches, beside the zoo's models.

DiffIML is measured with both denoisers, N=1 and 5 members, S=1 and 8 steps, on a GPU in fp32 and bf16, plain and
compiled; the models named by --zoo at their own size. All weights are random, and nothing is downloaded. On a CPU set
OMP_NUM_THREADS=1: times are then those of this process alone. What is known stands in --json at any moment.
"""

import argparse

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.settings import DEVICES

_LONGEST = 3600  # seconds of one timing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--zoo",
        nargs="*",
        default=["MVSSNet", "Cat_Net", "Trufor", "Mesorch", "SparseViT", "MSCDI_Net"],
        metavar="MODEL",
        help="models of the registry to compare with (those for 512x512 pixels)",
    )
    parser.add_argument("--encoder", default="segformer_b3", help="DiffIML's condition encoder")
    parser.add_argument("--image_size", type=int, default=512, help="side in pixels of DiffIML's images")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each timing, after its warm-up")
    parser.add_argument("--device", default="auto", choices=DEVICES, help="where to compute")
    parser.add_argument("--json", default="", metavar="FILE", help="write the figures to this file")
    parser.add_argument(
        "--plot", default="", metavar="FILE", help="draw cost against N, S and image area into this file"
    )


def run(args: argparse.Namespace) -> int:
    import json
    from pathlib import Path
    from typing import Any

    from diffiml_plugin.files import require_free, write_text
    from diffiml_plugin.launch import start_inference
    from diffiml_plugin.models.speed import Bench
    from diffiml_plugin.prediction.bench import bench
    from diffiml_plugin.reports.bench import figures, plot, table

    def keep(known: dict[str, Any]) -> None:
        if args.json:
            write_text(Path(args.json), json.dumps(known, indent=1) + "\n")

    if not 0 < args.seconds <= _LONGEST:
        raise DiffIMLError(f"--seconds {args.seconds} is outside (0, {_LONGEST}]")
    for file, suffix in ((args.json, ".json"), (args.plot, ".png")):
        if file:
            require_free(file, suffix)
    settings = Bench(start_inference(args.device).device, args.image_size, args.seconds, tuple(args.zoo), args.encoder)
    results = bench(settings, keep)
    print(table(results))
    print(figures(results))
    if args.plot:
        plot(Path(args.plot), results)
    return 0
