"""The layout of `efficientnet_pytorch` and of the packages that carry its weights, in timm's names."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}


def to_timm_layout(tensors: Mapping[str, Tensor], timm_names: Iterable[str]) -> dict[str, Tensor]:
    """`tensors` under timm's names, if `efficientnet_pytorch` named them; else as they are.

    Its blocks are numbered through, timm's by stage and place; `timm_names` tell how many each stage holds.
    """
    if "_conv_stem.weight" not in tensors:
        return dict(tensors)
    places = sorted({(int(m[1]), int(m[2])) for m in map(re.compile(r"blocks\.(\d+)\.(\d+)\.").match, timm_names) if m})

    def renamed(name: str) -> str:
        part, _, rest = name.partition(".")
        if part != "_blocks":
            return f"{_OUTSIDE.get(part, part)}.{rest}"
        number, layer, leaf = rest.split(".", 2)
        stage, place = places[int(number)] if int(number) < len(places) else (number, "-")
        return f"blocks.{stage}.{place}.{_in_block(layer, f'_blocks.{number}._expand_conv.weight' in tensors)}.{leaf}"

    return {renamed(name): tensor for name, tensor in tensors.items()}


def _in_block(layer: str, expands: bool) -> str:
    """A block's layer by timm's name; one that does not expand has a layer less in front."""
    if norm := re.fullmatch(r"_bn(\d)", layer):
        return f"bn{int(norm[1]) + expands}"
    own = {
        "_expand_conv": "conv_pw",
        "_depthwise_conv": "conv_dw",
        "_project_conv": "conv_pwl" if expands else "conv_pw",
    }
    return own.get(layer, layer)
