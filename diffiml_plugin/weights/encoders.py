"""ImageNet weights for condition encoders, from a local file or, when asked for by name, from the hub."""

from functools import partial
from pathlib import Path

import timm
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from torch import Tensor, nn

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.method.encoders import RESIDUALS, TimmEncoder
from diffiml_plugin.weights import hub
from diffiml_plugin.weights.efficientnet_layouts import to_timm_layout
from diffiml_plugin.weights.files import load_into, refusing
from diffiml_plugin.weights.foreign import read_foreign
from diffiml_plugin.weights.mit_layouts import to_our_layout

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # in order of preference


def load_encoder_weights(encoder: nn.Module, name: str, source: str | Path) -> None:
    """Loads published weights into an encoder of `build_encoder(name)`, all of them or none.

    Args:
        source: "none" keeps the weights; "xavier" draws them anew, uniformly after Glorot, biases 0; "imagenet" takes
            the published ones from the hub or its cache; anything else is the path of a file: .safetensors, or
            PyTorch's .pth or .bin. A Mix Transformer reads NVIDIA's and the Hugging Face layouts, an EfficientNet also
            that of `efficientnet_pytorch`, other encoders the layout of their timm model; filters over noise
            residuals, which no file holds, keep their random weights.

    Raises:
        DiffIMLError: the file cannot be had (says what to fetch by hand) or holds another model's weights.
    """
    if source == "none":
        return
    if source == "xavier":
        encoder.apply(_draw_xavier)
        return
    path = _fetch(name) if source == "imagenet" else Path(source)
    tensors = read_foreign(path).tensors
    if isinstance(encoder, TimmEncoder):
        load_into(encoder.net, _timm_features(encoder, tensors, path), path)
    else:
        with refusing(path):  # of odd shapes
            load_into(encoder, to_our_layout(tensors, encoder, path), path)


def _draw_xavier(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _fetch(name: str) -> Path:
    repository = _hub_repository(name)
    try:
        return Path(_download_if_there(repository, _HUB_FILES[0]) or hub.download(repository, _HUB_FILES[1]))
    except (OSError, EntryNotFoundError) as error:
        url = f"https://huggingface.co/{repository}/resolve/main"
        raise DiffIMLError(
            f"cannot fetch the ImageNet weights of {name!r} ({type(error).__name__}); "
            f"download {url}/{_HUB_FILES[0]} or, if there is none, {url}/{_HUB_FILES[1]} "
            "where there is a network, put it on this machine, and pass its path: "
            "--encoder_weights PATH"
        ) from error


def _download_if_there(repository: str, file: str) -> str | None:
    try:
        return hub.download(repository, file)
    except LocalEntryNotFoundError:  # there is no network; a kind of EntryNotFoundError
        raise
    except EntryNotFoundError:
        return None


def _hub_repository(name: str) -> str:
    if name.startswith("segformer_"):
        return f"nvidia/mit-{name.removeprefix('segformer_')}"
    published = timm.get_pretrained_cfg(name.removeprefix(RESIDUALS))
    if not (published and published.hf_hub_id):
        raise DiffIMLError(f"timm publishes no weights of {name!r}; pass a file or none by --encoder_weights")
    return published.hf_hub_id


def _timm_features(encoder: TimmEncoder, tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """timm converts its published files itself, but checks them only when it builds the whole classifier."""
    try:
        tensors = to_timm_layout(tensors, timm.create_model(encoder.name).state_dict())
        for create in (partial(timm.create_model, encoder.name), partial(encoder.create, in_chans=3)):
            net = create(pretrained=True, pretrained_cfg_overlay={"state_dict": dict(tensors)})
    except Exception as error:  # conversion of another model's tensors fails in any way
        raise DiffIMLError(
            f"{path} does not hold the weights of timm model {encoder.name!r}; pass a file of this model"
        ) from error
    loaded = net.state_dict()
    for key, own in encoder.net.state_dict().items():
        if own.shape != loaded[key].shape:  # filters over noise residuals beside the published ones over colours
            loaded[key] = torch.cat([loaded[key], own[:, 3:]], 1)
    return loaded
