"""Writes a checkpoint in half precision with a statement of its data, figures and limits, to give away."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `cli.main`."""
    parser.add_argument("checkpoint_path", help="weights: a file, or a training's folder")
    parser.add_argument("target", help="file to write, NAME.safetensors")
    parser.add_argument("--statement", required=True, metavar="FILE", help="JSON object that is added to the metadata")
    parser.add_argument("--results", required=True, metavar="FILE", help="results.json of its test: the figures")


def run(args: argparse.Namespace) -> int:
    """See `cli.main`."""
    import json
    from pathlib import Path

    from diffiml_plugin.bench.checkpoints import release

    statement, results = (json.loads(Path(file).read_text(encoding="utf-8")) for file in (args.statement, args.results))
    release(args.checkpoint_path, Path(args.target), {**statement, "figures": results["mean"]})
    print(f"{args.target}: {Path(args.target).stat().st_size / 1e6:.1f} MB")
    return 0
