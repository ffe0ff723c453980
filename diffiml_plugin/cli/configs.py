"""Lists the package's own configurations: the name that --config takes, its verb, what it is, and its measured cost.

A family of them is one file with rows, FILE#ROW. `benco VERB --config NAME --dry_run` prints what one says.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("part", nargs="?", default="", help="list only names that hold it, such as ablation/")


def run(args: argparse.Namespace) -> int:
    from diffiml_plugin.cli.config_file import package_index
    from diffiml_plugin.errors import DiffIMLError
    from diffiml_plugin.table import Table

    entries = [entry for entry in package_index() if args.part in entry.name]
    if not entries:
        raise DiffIMLError(f"no configuration's name holds {args.part!r}; `benco configs` lists all of them")
    cells = {entry.name: {"verb": entry.verb, "what it is": entry.about} for entry in entries}
    for entry in entries:
        cells[entry.name] |= {"cost": entry.cost} if entry.cost else {}
    print(Table.of("name", cells))
    return 0
