"""Weights to give away."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.files import require_free, require_unchanged
from diffiml_plugin.method.config import ARCHITECTURE_FIELDS
from diffiml_plugin.models.checkpoints import find_checkpoint
from diffiml_plugin.models.registry import look_up
from diffiml_plugin.weights.files import load_weights, save_weights

_LONGEST = 200  # characters of a tensor's name, in an error
_REBUILD = ("model", "input")
STATED = ("data", "licence", "limits")  # in words
CALIBRATED = ("threshold", "calibration", "calibrated_on")  # of one model, and of no mean


def release(sources: Sequence[str | Path], target: Path, statement: Mapping[str, Any], digest: str = "") -> None:
    """Writes the mean of the weights of checkpoints of ours, in half precision, to give away.

    Of checkpoints that one run led to, the mean often does better than each.

    Args:
        sources: one or more of one architecture; the last one's settings are kept, and of one alone its calibration.
        statement: what its users should know (data, figures, limits), added to the metadata; what it leaves open of
            STATED is kept of sources that were released before.
        digest: the SHA-256 of the one source, where the statement is of that file alone.

    Raises:
        DiffIMLError: no such checkpoint, a foreign one, one of another architecture or latent codec, one with the
            weights of another, or not of `digest`, or that states other words where nothing new is said; `target` is
            something else (it may be meant as a source), is no .safetensors, or cannot be written; values that half
            precision has not.
    """
    require_free(target, ".safetensors", perhaps_done=True)  # the card would take the place of a .md
    loaded = [load_weights(find_checkpoint(source)) for source in sources]
    if digest:
        require_unchanged(find_checkpoint(sources[0]), digest)
    state_dict, metadata = loaded[-1]
    for source, content in zip(sources, loaded, strict=True):
        if different := _difference(content, loaded[-1]):
            raise DiffIMLError(f"{source} and {sources[-1]} have no mean: they differ in {different}")
    for (source, (weights, _)), (other, (its_weights, _)) in combinations(zip(sources, loaded, strict=True), 2):
        if _equal(weights, its_weights, weights):
            raise DiffIMLError(
                f"{source} and {other} hold the same weights, which would count twice in the mean; name one of them"
            )
    mean = {
        name: torch.stack([weights[name] for weights, _ in loaded]).double().mean(0).half()
        if tensor.is_floating_point()
        else tensor
        for name, tensor in state_dict.items()
    }
    if odd := [name for name, tensor in mean.items() if tensor.is_floating_point() and not tensor.isfinite().all()]:
        raise DiffIMLError(
            f"{sources[-1]} cannot be given away in half precision, in which {len(odd)} of its tensors "
            f"({odd[0][:_LONGEST]}) are not finite: they hold NaN, or values above 65504; choose another checkpoint"
        )
    config, card = metadata.get("config", {}), look_up(metadata.get("model", ""))
    if card:
        config = card.without_weights(config)  # the files that training started from stay at home
    statement = {**_stated([facts for _, facts in loaded], statement), **statement}
    names = _REBUILD if len(sources) > 1 else _REBUILD + CALIBRATED
    kept: dict[str, Any] = {name: metadata[name] for name in names if name in metadata}  # not figures of a run's end
    save_weights(target, mean, {**kept, "config": config, **statement})


def _stated(sources: Sequence[Mapping[str, Any]], statement: Mapping[str, Any]) -> dict[str, str]:
    """What the metadata of the sources state in words, and nothing new is said about."""
    stated = {}
    for name in (name for name in STATED if name not in statement):
        said = {str(facts[name]) for facts in sources if name in facts}
        if len(said) > 1:
            raise DiffIMLError(f"these checkpoints state different {name}; say what holds for their mean, by --{name}")
        if said:
            stated[name] = said.pop()
    return stated


def _difference(mine: tuple[Mapping, Mapping], other: tuple[Mapping, Mapping]) -> str:
    """What forbids the mean of two checkpoints (weights, metadata), whatever their precision; empty if nothing does."""
    (weights, facts), (its_weights, its_facts) = mine, other
    if facts.get("model") != its_facts.get("model"):
        return "their model"
    config, its_config = facts.get("config", {}), its_facts.get("config", {})
    for flag in ARCHITECTURE_FIELDS:
        if flag in config and flag in its_config and config[flag] != its_config[flag]:
            return f"--{flag}: {config[flag]} and {its_config[flag]}"
    if {name: tensor.shape for name, tensor in weights.items()} != {
        name: tensor.shape for name, tensor in its_weights.items()
    }:
        return "the shapes of their weights"
    codec = [name for name in weights if "codec." in name]
    return "" if _equal(weights, its_weights, codec) else "the weights of their latent codec"


def _equal(weights: Mapping[str, torch.Tensor], others: Mapping[str, torch.Tensor], names: Iterable[str]) -> bool:
    """Whether tensors are the same in half precision, in which they are released."""
    return all(weights[name].half().equal(others[name].half()) for name in names)
