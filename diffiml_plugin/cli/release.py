"""Writes a checkpoint, or the mean of several of one architecture, in half precision with a statement of its data,
figures and limits, to give away.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `cli.main`."""
    parser.add_argument("checkpoint_path", nargs="+", help="weights: a file, or a training's folder")
    parser.add_argument("target", help="file to write, NAME.safetensors")
    parser.add_argument("--statement", required=True, metavar="FILE", help="JSON object that is added to the metadata")
    parser.add_argument("--results", metavar="FILE", help="results.json of its test: the figures")


def run(args: argparse.Namespace) -> int:
    """See `cli.main`."""
    from pathlib import Path

    from diffiml_plugin.errors import DiffIMLError
    from diffiml_plugin.models.release import release

    statement = _read(args.statement)
    if args.results:
        statement["figures"] = _read(args.results).get("mean")
        if not statement["figures"]:
            raise DiffIMLError(f"{args.results} holds no mean figures; expected what `benco test` writes")
    release(args.checkpoint_path, Path(args.target), statement)
    print(f"{args.target}: {Path(args.target).stat().st_size / 1e6:.1f} MB")
    return 0


def _read(file: str) -> dict:
    from diffiml_plugin.errors import DiffIMLError
    from diffiml_plugin.stored import read_json, shown

    content = read_json(file)
    if not isinstance(content, dict):
        raise DiffIMLError(f"{file} is {shown(content)}; expected a JSON object")
    return content
