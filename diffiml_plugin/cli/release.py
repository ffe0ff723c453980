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
    from diffiml_plugin.errors import DiffIMLError

    try:
        statement, results = (json.loads(Path(f).read_text(encoding="utf-8")) for f in (args.statement, args.results))
        statement = {**statement, "figures": results["mean"]}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DiffIMLError(f"{args.statement} must hold a JSON object, {args.results} what `benco test` writes "
                           f"({error!r})") from error
    release(args.checkpoint_path, Path(args.target), statement)
    print(f"{args.target}: {Path(args.target).stat().st_size / 1e6:.1f} MB")
    return 0
