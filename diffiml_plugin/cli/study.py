"""Mean and spread over seeds of the runs of shell/80_study.sh: study.md and its curves, study.png."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `cli.main`."""
    parser.add_argument("folder", metavar="DIR", help="holds ROW/SEED/, each a training with its test inside")
    parser.add_argument("--output_dir", default="study", metavar="DIR", help="folder for study.md and study.png")


def run(args: argparse.Namespace) -> int:
    """See `cli.main`."""
    from pathlib import Path

    from diffiml_plugin.reports.study import TABLES, study

    study(Path(args.folder), Path(args.output_dir))
    print((Path(args.output_dir) / TABLES).read_text())
    return 0
