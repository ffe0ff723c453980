"""The benchmark's datasets and four more: `list` them, `describe NAME`, `prepare NAME` from a download, `check LIST`.

`prepare` finds image-mask pairs in the original download, in IMDL-BenCo's folder or list and in ForensicHub's list, and
writes a JSON list; no image is changed, corrected masks are copies beside the list. `prepare all` takes every dataset
whose folder is in DIR, and exits with 1 if any of them failed. `check` takes what --data_path and --test_data_path
take, and exits with 1 if anything would falsify a score: faulty masks, images listed twice or trained on, authentic and
tampered images that their file headers tell apart.
"""

import argparse
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffiml_plugin.datasets.catalogue import DatasetEntry

_logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("list", "describe", "prepare", "check"), help="what to do")
    parser.add_argument(
        "target",
        nargs="?",
        metavar="NAME|LIST",
        help="a name; for prepare, also `all`; for check, a folder with Tp/ and Gt/, a JSON list, or a "
        "JSON of {name: path}",
    )
    parser.add_argument("--root", metavar="DIR", help="prepare: the dataset's folder, or one that holds it by its name")
    parser.add_argument("--output", metavar="FILE", help="prepare NAME: the list to write (DIR/NAME.json)")
    parser.add_argument(
        "--tampered_only",
        action="store_true",
        help="prepare: leave authentic images out (the list is DIR/NAME_tampered.json)",
    )
    parser.add_argument(
        "--trained_on", metavar="DATA", default="", help="check: training data, as --data_path takes it, to be apart"
    )
    parser.add_argument("--json", metavar="FILE", help="check: write every fault to this file too")


def run(args: argparse.Namespace) -> int:
    from diffiml_plugin.datasets.catalogue import CATALOGUE, VARIANTS, find_entry, known_variant
    from diffiml_plugin.errors import DiffIMLError

    if args.action == "list":
        print(_list(CATALOGUE))
        print("\nvariants, for `prepare` and `describe`: " + ", ".join(variant.name for variant in VARIANTS))
        return 0
    if not args.target:
        raise DiffIMLError(
            f"datasets {args.action} needs {'a list' if args.action == 'check' else 'a name'}, for "
            f"example: datasets {args.action} COVERAGE{'.json' if args.action == 'check' else ''}"
        )
    if args.action == "describe":
        variant = known_variant(args.target)
        if variant:
            print(f"{variant.name}, of {variant.of}: {variant.rule}")
        print(_description(find_entry(variant.of if variant else args.target)))
        return 0
    if args.action == "check":
        return _check(args)
    if not args.root:
        raise DiffIMLError(f"datasets prepare {args.target} needs --root, the folder that it was unpacked to")
    if args.target == "all":
        return _prepare_all(args)
    _prepare(args.target, args.root, args.output, args.tampered_only)
    return 0


def _list(entries: "tuple[DatasetEntry, ...]") -> str:
    from diffiml_plugin.table import Table

    head = ["dataset", "authentic", "tampered", "generative", "MVSS", "CAT-Net"]
    return str(Table(head, [[e.name, e.authentic, e.tampered, _yes(e.generative), e.mvss, e.catnet] for e in entries]))


def _description(entry: "DatasetEntry") -> str:
    from diffiml_plugin.datasets.catalogue import FRAMEWORK_LAYOUTS

    facts = {
        "images": f"{entry.authentic} authentic, {entry.tampered} tampered",
        "generative": _yes(entry.generative),
        "role": f"MVSS protocol: {entry.mvss}; CAT-Net protocol: {entry.catnet}",
        "licence": entry.licence,
        "ask at": entry.source,
        "names": ", ".join(entry.names),
        "layouts": "\n".join((f"the original: {entry.layout}", *FRAMEWORK_LAYOUTS)),
    }
    return "\n".join(
        (
            f"{entry.name}: {entry.what}",
            *(f"  {label:<12}" + text.replace("\n", "\n" + " " * 14) for label, text in facts.items()),
        )
    )


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"


def _prepare(name: str, root: str, output: str | None, tampered_only: bool) -> None:
    from pathlib import Path

    from diffiml_plugin.datasets.catalogue import known_entry
    from diffiml_plugin.datasets.prepare import prepare

    done = prepare(name, Path(root), Path(output) if output else None, tampered_only)
    entry = known_entry(name)
    expected = f" (published: {entry.authentic}, {entry.tampered})" if entry else ""
    empty = f", {done.empty} empty ones kept" if done.empty else ""
    print(f"{name}: {done.authentic} authentic, {done.tampered} tampered images{expected}")
    print(f"{done.corrected} masks corrected{empty}, {done.left_out} files left out: {done.log}")
    print(f"list: {done.output}")


def _prepare_all(args: argparse.Namespace) -> int:
    """Every dataset whose folder is there; CASIAv2's tampered images also alone, as Figure 4 trains on them."""
    from pathlib import Path

    from diffiml_plugin.datasets.catalogue import CATALOGUE
    from diffiml_plugin.datasets.prepare import folders_of
    from diffiml_plugin.errors import DiffIMLError

    if args.output:
        raise DiffIMLError(f"--output {args.output} is one list, but `all` writes one for each dataset; leave it out")
    there = [entry for entry in CATALOGUE if folders_of(entry.name, Path(args.root))]
    if not there:
        raise DiffIMLError(
            f"--root {args.root} holds no folder of a dataset; expected any of "
            f"{', '.join(name for entry in CATALOGUE for name in entry.names)}"
        )
    if missing := [entry.name for entry in CATALOGUE if entry not in there]:
        _logger.warning(f"left out, since not there: {', '.join(missing)}")

    lists = [] if args.tampered_only else [(entry.name, False) for entry in there]
    lists += [(entry.name, True) for entry in there if entry.tampered and args.tampered_only or entry.name == "CASIAv2"]
    failed = []
    for name, tampered_only in lists:
        try:
            _prepare(name, args.root, None, tampered_only)
        except (DiffIMLError, OSError) as error:
            _logger.error(error)
            failed.append(f"{name} (tampered only)" if tampered_only else name)
    if failed:
        _logger.error(f"not prepared, for the reasons above: {', '.join(failed)}")
    return 1 if failed else 0


def _check(args: argparse.Namespace) -> int:
    import json
    from pathlib import Path

    from diffiml_plugin.datasets.check import check_datasets, table
    from diffiml_plugin.files import require_free, write_text

    if args.json:
        require_free(args.json)
    reports = check_datasets(args.target, args.trained_on)
    print(table(reports))
    if args.json:
        content = {report.name: report.as_json() for report in reports}
        write_text(Path(args.json), json.dumps(content, indent=2) + "\n")
    return 1 if any(report.harmful for report in reports) else 0
