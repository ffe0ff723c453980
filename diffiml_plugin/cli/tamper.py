"""Writes tampered images and their masks, made from clean photographs: Tp/, Gt/ and list.json.

The list is the data path to test or train on, not the folder: authentic images lie in Tp/ too, and have no mask.

Each photograph is the host of several images; the objects of splices come from the others. Objects are cut along a
`regions` folder of label maps beside the photographs, if there is one.
"""

import argparse

from diffiml_plugin.tampering.settings import STRENGTHS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `cli.main`."""
    parser.add_argument("photographs", metavar="DIR", help="a folder of two or more")
    parser.add_argument("--output_dir", required=True, help="folder for Tp/, Gt/ and list.json")
    parser.add_argument("--images", type=int, default=100, help="so many images")
    parser.add_argument(
        "--authentic",
        type=float,
        default=0.2,
        help="share of them that is not tampered, but compressed as the others are",
    )
    parser.add_argument("--kinds", default="splice,copy_move,removal", help="manipulations to draw from")
    parser.add_argument(
        "--strength", default=STRENGTHS[0], choices=STRENGTHS, help="visible: large, recoloured, little compressed"
    )
    parser.add_argument("--window", type=int, help="tamper squares of so many pixels, cut from the photographs")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random")


def run(args: argparse.Namespace) -> int:
    """See `cli.main`."""
    from pathlib import Path

    from diffiml_plugin.data.pairs import framework_arguments, test_transform
    from diffiml_plugin.errors import DiffIMLError
    from diffiml_plugin.models.inputs import InputSettings
    from diffiml_plugin.tampering.settings import BY_STRENGTH
    from diffiml_plugin.tampering.stream import LIST, SyntheticTampering, write_tampered

    for name, holds, expected in (
        ("images", args.images >= 1, "a positive number"),
        ("authentic", 0 <= args.authentic <= 1, "0 to 1"),
        ("window", args.window is None or args.window >= 1, "a positive number"),
        ("seed", args.seed >= 0, "0 or more"),
    ):
        if not holds:
            raise DiffIMLError(f"--{name} {getattr(args, name)} must be {expected}")
    folder = Path(args.output_dir)
    if (folder / LIST).exists():
        raise DiffIMLError(f"{folder / LIST} exists already; choose another --output_dir")
    stream = SyntheticTampering(
        args.photographs,
        samples=args.images,
        kinds=args.kinds.split(","),
        authentic=args.authentic,
        window=args.window,
        settings=BY_STRENGTH[args.strength],
        **framework_arguments(InputSettings(), test_transform(), None),
    )
    print(f"list: {write_tampered(stream, folder, args.seed)}")
    return 0
