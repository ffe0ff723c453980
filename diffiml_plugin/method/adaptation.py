"""How much of a pretrained condition encoder is trained: all, low-rank changes of its attention (LoRA), or nothing."""

from typing import Any

from torch import nn

from diffiml_plugin.errors import DiffIMLError

# What attention reads its input through, by the names that timm and `mit` give it.
_PROJECTIONS = ("qkv", "q", "k", "v", "kv", "q_proj", "k_proj", "v_proj", "query", "key_value")


def adapt(backbone: nn.Module, freeze: bool, rank: int) -> None:
    """Freezes a backbone, and adds low-rank matrices to its attention, which are trained in its place.

    W x becomes W x + B A x with A [rank, inputs], at first random, and B [outputs, rank], at first 0 (Hu et al.,
    "LoRA", 2021). To be called when the pretrained weights are loaded, for it renames those of attention.

    Args:
        freeze: train none of the backbone's own weights; so it is with a rank, too.
        rank: 0 for no low-rank matrices.

    Raises:
        DiffIMLError: a rank without the package `peft`, or for a backbone without attention.
    """
    if freeze or rank:
        backbone.requires_grad_(False)
    if not rank:
        return
    projections = [
        name
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in _PROJECTIONS
    ]
    if not projections:
        raise DiffIMLError(
            f"lora={rank} changes attention, of which {type(backbone).__name__} has none; leave it out "
            "(freeze_encoder trains the rest alone), or choose a transformer"
        )
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise DiffIMLError(f"lora={rank} needs the package peft; pip install 'diffiml-plugin[lora]'") from error
    attention: Any
    for attention in backbone.modules():
        if hasattr(attention, "qkv_bias_separate"):  # of timm's Eva, which else adds its biases past the projection
            attention.qkv_bias_separate = True
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=projections), backbone)


def rest_frozen(model: nn.Module) -> None:
    """Puts the modules of a model in which nothing is trained into test mode, so that their statistics stay, too."""
    for module in list(model.modules())[1:]:
        trained = [parameter.requires_grad for parameter in module.parameters()]
        if trained and not any(trained):
            module.eval()
