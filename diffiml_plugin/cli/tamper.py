"""Writes tampered images and their masks, made from clean photographs: Tp/, Gt/ and list.json.

The list is the data path to test or train on, not the folder: authentic images lie in Tp/ too, and have no mask.

Each photograph is the host of several images; the objects of splices come from the others. Objects are cut along a
`regions` folder of label maps beside the photographs, if there is one.
"""

import argparse
from pathlib import Path
from typing import Any

from diffiml_plugin.tampering.settings import STRENGTHS

_SHEET, _SHOWN = "contact_sheet.jpg", 48
_DECIDING = ("photographs", "images", "authentic", "kinds", "strength", "window", "seed")  # what the pictures are


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photographs", metavar="DIR", help="a folder of two or more")
    parser.add_argument("--output_dir", required=True, help="folder for Tp/, Gt/ and list.json")
    parser.add_argument("--images", type=int, default=100, help="so many images")
    parser.add_argument(
        "--authentic",
        type=float,
        default=0.2,
        help="share of them that is not tampered, but compressed as the others are",
    )
    parser.add_argument(
        "--kinds", default="", help="manipulations to draw from: splice,copy_move,removal and, in styles, text (all)"
    )
    parser.add_argument(
        "--strength",
        default=STRENGTHS[0],
        help="realistic; visible: large, recoloured, little compressed; world: in many styles, with what happens to "
        "pictures before and after; or a YAML file of styles",
    )
    parser.add_argument("--window", type=int, help="tamper squares of so many pixels, cut from the photographs")
    parser.add_argument(
        "--contact_sheet", action="store_true", help=f"show the first {_SHOWN} images and their regions in {_SHEET}"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all that is random")


def deciding(args: argparse.Namespace) -> dict[str, Any]:
    """What decides what the pictures are: settings, and the files that they name."""
    from diffiml_plugin.tampering.photographs import contents_digest, listed

    photographs, maps = listed(args.photographs)
    files = [*photographs, *filter(None, maps), *([args.strength] if args.strength.endswith((".yaml", ".yml")) else ())]
    return {**{name: getattr(args, name) for name in _DECIDING}, "content of photographs": contents_digest(files)}


def run(args: argparse.Namespace) -> int:
    from diffiml_plugin.errors import DiffIMLError
    from diffiml_plugin.folders import claimed
    from diffiml_plugin.ledger import begin
    from diffiml_plugin.models.inputs import Inputs, InputSettings
    from diffiml_plugin.tampering.settings import read_strength
    from diffiml_plugin.tampering.stream import LIST, SyntheticTampering, write_tampered

    for name, holds, expected in (
        ("images", args.images >= 1, "a positive number"),
        ("authentic", 0 <= args.authentic <= 1, "0 to 1"),
        ("window", args.window is None or args.window >= 1, "a positive number"),
        ("seed", args.seed >= 0, "0 or more"),
    ):
        if not holds:
            raise DiffIMLError(f"--{name} {getattr(args, name)} must be {expected}")
    made_of = deciding(args)
    stream = SyntheticTampering(
        args.photographs,
        Inputs(InputSettings()),
        samples=args.images,
        kinds=args.kinds.split(",") if args.kinds else None,
        authentic=args.authentic,
        window=args.window,
        settings=read_strength(args.strength),
    )
    with claimed(args.output_dir) as folder:
        files = [folder / LIST, folder / _SHEET, *folder.glob("Tp/*"), *folder.glob("Gt/*")]
        begin(folder, "tamper", made_of, files)
        if files[0].exists():
            raise DiffIMLError(f"{files[0]} exists already; choose another --output_dir")
        listing = write_tampered(stream, folder, args.seed)
        print(f"list: {listing}")
        if args.contact_sheet:
            print(f"contact sheet: {_write_sheet(listing)}")
    return 0


def _write_sheet(listing: Path) -> Path:
    """The first images of the list, each beside itself with its region outlined, in a file next to the list."""
    import numpy as np

    from diffiml_plugin.data.images import read_image
    from diffiml_plugin.data.lists import NEGATIVE, read_list
    from diffiml_plugin.data.masks import read_mask
    from diffiml_plugin.files import write_picture
    from diffiml_plugin.prediction.pictures import sheet, strip
    from diffiml_plugin.prediction.result import overlay

    pairs, cells = read_list(listing), []
    for file, mask_file in list(zip(pairs.images, pairs.masks, strict=True))[:_SHOWN]:
        image = read_image(Path(file))
        mask = np.zeros(image.shape[:2], bool) if mask_file == NEGATIVE else read_mask(Path(mask_file)) > 0
        cells.append(strip(image, overlay(image, mask)))
    target = listing.parent / _SHEET
    write_picture(target, sheet(cells), quality=92)
    return target
