"""Parameters and FLOPs of a model with random weights, as Table 4 counts them: 1 multiply-add = 1, every step counted.

DiffIML is counted for an ensemble of N=1 and of N=5, whatever --ensemble_size says. Nothing is downloaded.
"""

import argparse
from typing import Any

USES_MODEL = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image_size", type=int, default=512, help="side of the square image in pixels")
    parser.add_argument("--json", default="", metavar="FILE", help="write the figures to this file too")


def run(args: argparse.Namespace) -> int:
    import json
    from pathlib import Path

    from diffiml_plugin.bench.complexity import complexity

    row = complexity(args.model, {name: args.model_flags[name] for name in args.model_flags_given}, args.image_size)
    print(_table(row))
    if args.json:
        Path(args.json).write_text(json.dumps(row, indent=2) + "\n")
    return 0


def _table(row: dict[str, Any]) -> str:
    lines = [f"{row['model']}, {row['image_size']}×{row['image_size']}", f"  {'parameters':<19}{'M':>9}"]
    lines += [f"  {part.replace('_', ' '):<19}{millions:>9.3f}" for part, millions in row["params_M"].items()]
    lines += [f"  {'multiply-adds':<19}{'G':>9}"]
    lines += [f"  {size:<19}" + ("untraceable" if count is None else f"{count:>9.2f}")
              for size, count in row["GFLOPs"].items()]
    return "\n".join(lines)
