"""What runs found, side by side, then the paper's tables: report.md, report.html, and report.tex, which needs graphicx.

Tests made with --experiment fill rows of the paper's tables ("table6d/on" that row, "table2" the row of their model),
sweeps those of Tables 6e and 7, files of `benco complexity --json` those of Table 4. The best of several runs is bold;
brackets are bootstrap 95 % intervals over images.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folder of benco test, robust or sweep, or one above; a file of benco complexity --json "
        "(complexity.json is found in a folder too)",
    )
    parser.add_argument("--output_dir", default="report", metavar="DIR", help="folder for the report")


def run(args: argparse.Namespace) -> int:
    from diffiml_plugin.folders import claimed
    from diffiml_plugin.reports.report import report

    with claimed(args.output_dir) as folder:
        report(args.runs, folder)
    print(f"report: {folder / 'report.html'}")
    return 0
