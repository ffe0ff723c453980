"""How published Mix Transformer (MiT) weights name their tensors, and the way to our names."""

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from diffiml_plugin.errors import DiffIMLError

# Modules of one stage: ours -> theirs. {s}: stage from 0, {n}: stage from 1, {b}: block from 0.
# Where they have two linear layers for our one, its outputs are theirs in that order.
_NVIDIA = {
    "embed.proj": ["patch_embed{n}.proj"],
    "embed.norm": ["patch_embed{n}.norm"],
    "blocks.{b}.attention_norm": ["block{n}.{b}.norm1"],
    "blocks.{b}.attention.query": ["block{n}.{b}.attn.q"],
    "blocks.{b}.attention.reduce.proj": ["block{n}.{b}.attn.sr"],
    "blocks.{b}.attention.reduce.norm": ["block{n}.{b}.attn.norm"],
    "blocks.{b}.attention.key_value": ["block{n}.{b}.attn.kv"],
    "blocks.{b}.attention.out": ["block{n}.{b}.attn.proj"],
    "blocks.{b}.ffn_norm": ["block{n}.{b}.norm2"],
    "blocks.{b}.ffn.expand": ["block{n}.{b}.mlp.fc1"],
    "blocks.{b}.ffn.depthwise": ["block{n}.{b}.mlp.dwconv.dwconv"],
    "blocks.{b}.ffn.contract": ["block{n}.{b}.mlp.fc2"],
    "norm": ["norm{n}"],
}
_HUGGING_FACE = {  # transformers 4.x, and every file that `save_pretrained` writes
    "embed.proj": ["encoder.patch_embeddings.{s}.proj"],
    "embed.norm": ["encoder.patch_embeddings.{s}.layer_norm"],
    "blocks.{b}.attention_norm": ["encoder.block.{s}.{b}.layer_norm_1"],
    "blocks.{b}.attention.query": ["encoder.block.{s}.{b}.attention.self.query"],
    "blocks.{b}.attention.reduce.proj": ["encoder.block.{s}.{b}.attention.self.sr"],
    "blocks.{b}.attention.reduce.norm": ["encoder.block.{s}.{b}.attention.self.layer_norm"],
    "blocks.{b}.attention.key_value": [
        "encoder.block.{s}.{b}.attention.self.key",
        "encoder.block.{s}.{b}.attention.self.value",
    ],
    "blocks.{b}.attention.out": ["encoder.block.{s}.{b}.attention.output.dense"],
    "blocks.{b}.ffn_norm": ["encoder.block.{s}.{b}.layer_norm_2"],
    "blocks.{b}.ffn.expand": ["encoder.block.{s}.{b}.mlp.dense1"],
    "blocks.{b}.ffn.depthwise": ["encoder.block.{s}.{b}.mlp.dwconv.dwconv"],
    "blocks.{b}.ffn.contract": ["encoder.block.{s}.{b}.mlp.dense2"],
    "norm": ["encoder.layer_norm.{s}"],
}
_HUGGING_FACE_5 = {  # the modules of transformers 5.x
    "embed.proj": ["stages.{s}.patch_embeddings.proj"],
    "embed.norm": ["stages.{s}.patch_embeddings.layer_norm"],
    "blocks.{b}.attention_norm": ["stages.{s}.blocks.{b}.layernorm_before"],
    "blocks.{b}.attention.query": ["stages.{s}.blocks.{b}.attention.q_proj"],
    "blocks.{b}.attention.reduce.proj": [
        "stages.{s}.blocks.{b}.attention.sequence_reduction.sequence_reduction",
    ],
    "blocks.{b}.attention.reduce.norm": ["stages.{s}.blocks.{b}.attention.sequence_reduction.layer_norm"],
    "blocks.{b}.attention.key_value": [
        "stages.{s}.blocks.{b}.attention.k_proj",
        "stages.{s}.blocks.{b}.attention.v_proj",
    ],
    "blocks.{b}.attention.out": ["stages.{s}.blocks.{b}.attention.o_proj"],
    "blocks.{b}.ffn_norm": ["stages.{s}.blocks.{b}.layernorm_after"],
    "blocks.{b}.ffn.expand": ["stages.{s}.blocks.{b}.mlp.fc1"],
    "blocks.{b}.ffn.depthwise": ["stages.{s}.blocks.{b}.mlp.dwconv.dwconv"],
    "blocks.{b}.ffn.contract": ["stages.{s}.blocks.{b}.mlp.fc2"],
    "norm": ["stages.{s}.layer_norm"],
}
_LAYOUTS = {  # the name of a tensor that only this layout has -> the layout
    "patch_embed1.proj.weight": _NVIDIA,
    "encoder.patch_embeddings.0.proj.weight": _HUGGING_FACE,
    "stages.0.patch_embeddings.proj.weight": _HUGGING_FACE_5,
}
_HEADS = ("head.", "classifier.", "decode_head.")  # behind the encoder: dropped
_OUR_KEY = re.compile(r"stages\.(\d)\.(?:blocks\.(\d+)\.)?(.+)\.(weight|bias)")


def is_mit(tensors: dict[str, Tensor]) -> bool:
    """Whether these are the tensors of a published Mix Transformer, in a layout that is known."""
    return any(key.removeprefix("segformer.") in _LAYOUTS for key in tensors)


def to_our_layout(tensors: dict[str, Tensor], encoder: nn.Module, path: str | Path) -> dict[str, Tensor]:
    """Renames published tensors, read from `path`, to the names in `encoder`.

    What the encoder lacks keeps its name, and what the file lacks stays missing, so that a strict load tells.

    Raises:
        DiffIMLError: the tensors are in none of the known layouts; names the first of them.
    """
    remaining = {key.removeprefix("segformer."): tensor for key, tensor in tensors.items()}
    remaining = {key: tensor for key, tensor in remaining.items() if not key.startswith(_HEADS)}
    layout = next((layout for key, layout in _LAYOUTS.items() if key in remaining), None)
    if layout is None:
        raise DiffIMLError(
            f"{path} is neither in NVIDIA's nor in the Hugging Face layout of MiT weights; "
            f"its first tensors are {', '.join(list(tensors)[:3])}. "
            "Pass the weights of a SegFormer encoder"
        )
    renamed = {}
    for ours in encoder.state_dict():
        theirs = _their_keys(ours, layout)
        if all(key in remaining for key in theirs):
            renamed[ours] = torch.cat([remaining.pop(key) for key in theirs])
    return renamed | remaining


def _their_keys(ours: str, layout: dict[str, list[str]]) -> list[str]:
    ((stage, block, module, kind),) = _OUR_KEY.findall(ours)
    names = layout[f"blocks.{{b}}.{module}" if block else module]
    return [f"{name.format(s=stage, n=int(stage) + 1, b=block)}.{kind}" for name in names]
