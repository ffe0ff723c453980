"""Writes a checkpoint, or the mean of several of one architecture, in half precision to give away, with what its users
should know, and its model card beside it.

The card is written from the file's metadata: what these flags say, the figures of its test, and the calibration that
`benco calibrate` gave a checkpoint before. A mean has none. `Detector.push_to_hub` uploads such a file with its card.
The same command finishes what was killed between the two.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_STATED = {
    "data": "what it was trained on",
    "licence": "under which terms it may be used",
    "limits": "what it cannot do",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint_path", nargs="+", help="weights: a file, or a training's folder")
    parser.add_argument("target", help="file to write, NAME.safetensors; the card is NAME.md")
    for name, meaning in _STATED.items():
        parser.add_argument(f"--{name}", default="", metavar="TEXT", help=f"{meaning}, in a sentence")
    parser.add_argument("--results", metavar="FILE", help="results.json of its test: the figures, with intervals")


def run(args: argparse.Namespace) -> int:
    from diffiml_plugin.files import require_free
    from diffiml_plugin.models.release import release
    from diffiml_plugin.prediction.model_card import write_card

    target = Path(args.target)
    require_free(card := target.with_suffix(".md"), perhaps_done=target.exists())
    statement: dict[str, Any] = {name: text for name in _STATED if (text := getattr(args, name))}
    digest = ""
    if args.results:
        digest, figures = _figures(Path(args.results), args.checkpoint_path)
        statement |= figures
    release(args.checkpoint_path, target, statement, digest)
    write_card(target, card, target.stem, target.name)
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB; its card: {card}")
    return 0


def _figures(results: Path, sources: list[str]) -> tuple[str, dict[str, Any]]:
    """Of a results file of `benco test`, which is of these weights and their own settings: the digest of those, and the
    figures of the records behind it, with how many pairs it left out."""
    from diffiml_plugin.errors import DiffIMLError
    from diffiml_plugin.evaluation.intervals import figures
    from diffiml_plugin.evaluation.records import read_records, records_file
    from diffiml_plugin.evaluation.results import Record, Tested, read_results
    from diffiml_plugin.files import file_digest
    from diffiml_plugin.models.checkpoints import find_checkpoint

    if len(sources) > 1:
        raise DiffIMLError(
            f"{results} cannot be of the mean of {len(sources)} checkpoints; release that without --results, test it, "
            "and release it once more with the results"
        )
    tested = read_results(results, Tested)
    weights = tested.get("weights", "unknown ones")
    if weights != file_digest(checkpoint := find_checkpoint(sources[0])):
        raise DiffIMLError(f"{results} is of other weights ({weights[:16]}) than {checkpoint}; test this first")
    if other := _settings_not_its_own(checkpoint, tested["settings"]):
        raise DiffIMLError(
            f"{results} is of {checkpoint} with other {', '.join(other)} than its own, which it is released with; test "
            "it without those flags"
        )
    by_set: dict[str, list[Record]] = {}
    try:
        for record in read_records(records_file(results)):  # in any order: somebody may have sorted them
            by_set.setdefault(record["dataset"], []).append(record)
        measured = figures(by_set)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DiffIMLError(f"{results} has no records of `benco test` beside it: {error}") from error
    if not measured:
        raise DiffIMLError(f"{records_file(results)} holds no figures; expected what `benco test` writes")
    return weights, {"figures": measured, **({"left_out": tested["left_out"]} if tested.get("left_out") else {})}


def _settings_not_its_own(checkpoint: Path, tested: Mapping[str, Any]) -> list[str]:
    """In which of the model's and its inputs' settings a test was of another model than the checkpoint says."""
    from dataclasses import asdict

    import torch

    from diffiml_plugin.models.opened import open_model
    from diffiml_plugin.settings import CommonSettings

    opened = open_model(checkpoint, CommonSettings(), torch.device("cpu"))
    own = {"no_model_eval": None, "tta": None, **opened.flags, **asdict(opened.inputs)}
    if tested.get("precision") == "bf16":  # fp16 and fp32 find alike (docs/results/real.md)
        own["precision"] = "fp32"
    return [name for name, value in tested.items() if (own.get(name, value) or None) != (value or None)]
