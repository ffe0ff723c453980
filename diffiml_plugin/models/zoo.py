"""`benco complexity --zoo`: the cost of DiffIML and of each model of the framework's zoo, on one device (Table 4)."""

import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.models.cost import CostRow, cost_row, count_all, seconds_per_call
from diffiml_plugin.models.registry import DIFFIML, RegisteredModel, find_model, registered_models
from diffiml_plugin.models.untrained import blank_batch, build_untrained, untrained

RESULTS = "complexity.json"  # by this name `benco report` finds the rows in a folder
RATIO = "fps_ratio_to_DiffIML_N=1"


@dataclass(frozen=True)
class _Entry:
    card: RegisteredModel
    flags: Mapping[str, Any]
    image_size: int


def zoo(
    models: Sequence[str],
    flags: Mapping[str, Any],
    image_size: int | None,
    device: torch.device,
    count: str = "whole",
) -> Iterator[dict[str, Any]]:
    """Yields the rows of Table 4, each when it is known: DiffIML's, ours and the release's, then the models'.

    Args:
        models: registered names; none for all there are.
        flags: of DiffIML's constructor, for its rows.
        image_size: in pixels, for all; None for each model's own.
        count: as `complexity` takes it.

    Yields:
        a row as `complexity` gives it, of one ensemble size, with "fps", one image at a time in PyTorch's default
        precision, and RATIO to that of the first row. A model that cannot be built or run has None for figures and
        "error", which says why.

    Raises:
        DiffIMLError: no such model; or the first row, to which the others relate, fails.
    """
    asked = [find_model(name) for name in models] or registered_models().values()
    others = [card for card in asked if card is not DIFFIML]
    entries = [
        _Entry(card, {**(flags if card is DIFFIML else {}), **row}, image_size or _own_size(card))
        for card in (DIFFIML, *others)
        for row in card.table4_rows
    ]
    reference = None
    bar = tqdm(entries, unit="model", disable=None)
    for entry in bar:
        bar.set_description(f"{entry.card.name}, {entry.image_size}×{entry.image_size}")
        try:
            row = _measured(entry, device, count)
        except Exception as error:  # the zoo's models fail in ways of their own, and none may end the run
            if reference is None:
                raise
            row = _failed(entry, error)
        gc.collect()
        torch.cuda.empty_cache()
        fps = row["fps"]
        reference = reference or fps
        yield {**row, RATIO: fps and reference and fps / reference}


def _own_size(card: RegisteredModel) -> int:
    return card.table4_size or card.input.get("image_size", 512)


def _measured(entry: _Entry, device: torch.device, count: str) -> CostRow:
    with untrained(device.type):
        model, settings = build_untrained(entry.card, entry.flags, entry.image_size)
        batch = blank_batch(model.to(device), entry.image_size)
        counted = count_all(entry.card, model, batch, [entry.flags.get("ensemble_size", 1)])
        row = cost_row(entry.card, model, settings, entry.image_size, counted, count)
        tf32 = " (convolutions in TF32)" if device.type == "cuda" else ""
        row["settings"]["timed"] = f"{device_name(device)}, fp32{tf32}"
        return {**row, "fps": 1 / seconds_per_call(lambda: model(**batch)["pred_mask"])}


def _failed(entry: _Entry, error: Exception) -> CostRow:
    return {
        "model": entry.card.name,
        "image_size": entry.image_size,
        "params_M": {"total": None},
        "GFLOPs": {f"N={entry.flags.get('ensemble_size', 1)}": None},
        "settings": dict(entry.flags),
        "fps": None,
        "error": " ".join(_reason(error).split()),
    }


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, DiffIMLError) else f"{type(error).__name__}: {error}"


def device_name(device: torch.device) -> str:
    """The GPU's, or how many threads of the CPU are used."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, threads: {torch.get_num_threads()}"
