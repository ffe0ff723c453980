"""Mean and spread over seeds of runs that differ in one thing each: study.md and their curves, study.png.

`benco reproduce study` makes such runs. Figures for each kind of manipulation need a list of test images that names the
kinds: [image, mask, "splice"].
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="holds ROW/SEED/, each a training with its test inside")
    parser.add_argument("--output_dir", default="study", metavar="DIR", help="folder for study.md and study.png")
    parser.add_argument(
        "--compare",
        nargs="+",
        default=[],
        metavar="ROW=OTHER",
        help="rows whose differences are listed, image by image; those that were not run are left out",
    )


def run(args: argparse.Namespace) -> int:
    from pathlib import Path

    from diffiml_plugin.errors import DiffIMLError
    from diffiml_plugin.folders import claimed
    from diffiml_plugin.reports.study import TABLES, study

    comparisons = []
    for word in args.compare:
        row, _, other = word.partition("=")
        if not (row and other):
            raise DiffIMLError(f"--compare {word}: expected ROW=OTHER")
        comparisons.append((row, other))
    with claimed(args.output_dir) as folder:
        study(Path(args.folder), folder, comparisons)
    print((folder / TABLES).read_text(encoding="utf-8"))
    return 0
