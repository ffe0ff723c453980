"""Weights of the authors' release: which of its states a file holds, and the way to our names.

A checkpoint of theirs holds the whole model, under `extractor.` (backbone and fusion), `unet.` and `vae.`; the file of
their codec holds `encoder.` and `decoder.` alone. The names and shapes decide everything, for settings are not stored.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.f1 import pixel_f1
from diffiml_plugin.method.config import LATENT_CHANNELS, DiffIMLConfig
from diffiml_plugin.method.encoders import build_encoder
from diffiml_plugin.method.lightvae_release import ReleaseLightVAE
from diffiml_plugin.method.mit import MIT_VARIANTS
from diffiml_plugin.method.protocols import LatentCodec
from diffiml_plugin.weights.files import load_into
from diffiml_plugin.weights.mit_layouts import to_our_layout

ACTIVATIONS = ("relu", "silu")  # of the codec; the first is the release's default
SAMPLING: dict[str, Any] = {  # of the release's test script; its test-time augmentation cannot be switched off
    "timestep_spacing": "leading",
    "clip_latents": 1.0,
    "num_inference_steps": 8,
    "ensemble_size": 5,
    "tta": True,
    "tta_fusion": "max",
    "mask_reading": "sigmoid",
}
_FUSION = "extractor.linear_fuse.0.weight"  # only the release's state has it
_OTHER_STATES = {  # a key that decides -> the state, which is not built here
    "extractor.noise_branch.net.0.weight": "an older state, with a branch on noise residuals beside the last stage",
    "extractor.conv.weight": "a state whose condition is the last encoder stage alone",
}
_BACKBONE = "extractor.backbone."
_SD_VAE = "vae.vae.encoder.conv_in.weight"
_CONCAT = "unet.concat.weight"  # over [latent features, condition]
_WIDTH = 128  # of the U-Net
_ATTENTION = "unet.unet.mid_block.attentions.0."
_RENAMED = (  # how their names begin, and ours; the indices that follow are the same
    *((f"extractor.linear_c{stage + 1}.", f"denoiser.project.{stage}.") for stage in range(4)),
    ("extractor.linear_fuse.", "denoiser.mix."),
    ("unet.unet.conv_in.", "denoiser.latent_in.0."),
    ("unet.unet.time_embedding.linear_1.", "denoiser.unet.time.0."),
    ("unet.unet.time_embedding.linear_2.", "denoiser.unet.time.2."),
    ("unet.unet.down_blocks.0.resnets.", "denoiser.unet.down."),
    ("unet.unet.mid_block.resnets.0.", "denoiser.unet.middle.0."),
    ("unet.unet.mid_block.resnets.1.", "denoiser.unet.middle.2."),
    (f"{_ATTENTION}group_norm.", "denoiser.unet.middle.1.norm."),
    ("unet.unet.up_blocks.0.resnets.", "denoiser.unet.up."),
    ("unet.unet.conv_norm_out.", "denoiser.unet.out.0."),
    ("unet.unet.conv_out.", "denoiser.unet.out.2."),
    ("vae.", "codec."),
)
_IN_A_BLOCK = ((".time_emb_proj.", ".time."), (".conv_shortcut.", ".skip."))


def is_release_model(tensors: dict[str, Tensor]) -> bool:
    """Whether these are the tensors of a whole model of the authors', in any state of theirs."""
    return any(key.startswith("extractor.") for key in tensors)


def is_release_codec(tensors: dict[str, Tensor]) -> bool:
    """Whether these are the tensors of the authors' LightVAE alone."""
    return {"encoder.0.weight", "encoder.9.weight", "decoder.12.weight"} <= tensors.keys()


def refuse_unconverted(tensors: dict[str, Tensor], path: str | Path) -> None:
    """Raises DiffIMLError, with the command that mends it, for a checkpoint or a codec of the authors'."""
    if is_release_model(tensors) or is_release_codec(tensors):
        key = next(key for key in tensors if key.startswith(("extractor.", "encoder.")))
        raise DiffIMLError(
            f"{path} holds weights of the authors' release ({key}); convert it: "
            f"benco convert {path} --output {Path(path).stem}.safetensors"
        )


def from_release(
    tensors: dict[str, Tensor], path: str | Path, activation: str = ACTIVATIONS[0]
) -> tuple[DiffIMLConfig, dict[str, Tensor]]:
    """The settings of a model of the authors', read from `path`, and its tensors by the names in our `DiffIML`.

    What has no place in ours keeps its name, and what the file lacks stays missing, so that a strict load tells.

    Args:
        activation: of its LightVAE, which no file tells.

    Raises:
        DiffIMLError: a state that is not built here, with the key that decided.
    """
    for key, state in _OTHER_STATES.items():
        if key in tensors:
            raise DiffIMLError(
                f"{path} is {state} ({key} {list(tensors[key].shape)}); only the release's can be "
                f"converted, which has {_FUSION}"
            )
    for key in (_FUSION, _CONCAT, "unet.unet.conv_in.weight"):
        if key not in tensors:
            raise DiffIMLError(f"{path} is no known state of the authors' release: it lacks {key}")
    if len(tensors[_CONCAT]) != _WIDTH:
        raise DiffIMLError(f"{path} has a U-Net of {len(tensors[_CONCAT])} channels ({_CONCAT}); expected {_WIDTH}")
    codec = "sd-vae" if _SD_VAE in tensors else "lightvae-release"
    config = DiffIMLConfig(
        encoder=_encoder_name(tensors, path),
        denoiser="release",
        latent_codec=codec,
        codec_layout="" if codec == "sd-vae" else _codec_layout(tensors, path, activation, "vae."),
        edge_supervision=tensors["unet.unet.conv_in.weight"].shape[1] == 2 * LATENT_CHANNELS,
        **SAMPLING,
    )
    return config, _renamed(tensors, config.encoder, path)


def codec_from_release(
    tensors: dict[str, Tensor], path: str | Path, activation: str = ACTIVATIONS[0]
) -> ReleaseLightVAE:
    """The authors' LightVAE, read from `path`, in evaluation mode. Raises DiffIMLError if it does not fit."""
    codec = ReleaseLightVAE(_codec_layout(tensors, path, activation))
    load_into(codec, _with_counts(tensors), path)
    return codec.eval()


@torch.no_grad()
def reconstruction_f1(codec: LatentCodec) -> float:
    """Pixel-F1 at 0.5 of one drawn mask that the codec encodes and decodes: near 1 of any that was trained."""
    side = 128
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    disc = (rows - 44) ** 2 + (columns - 40) ** 2 < 26**2
    square = (rows >= 70) & (rows < 116) & (columns >= 64) & (columns < 108)
    mask = (disc | square)[None, None]
    decoded = codec.decode(codec.encode(mask.float())) > 0.5
    return pixel_f1((decoded & mask).sum(), decoded.sum(), mask.sum()).item()


def _encoder_name(tensors: dict[str, Tensor], path: str | Path) -> str:
    """The Mix Transformer of this width and these numbers of blocks."""
    channels = tuple(len(tensors.get(f"{_BACKBONE}patch_embed{stage}.proj.weight", ())) for stage in range(1, 5))
    block = re.compile(re.escape(_BACKBONE) + r"block(\d)\.(\d+)\.norm1\.weight")
    stages = [match[1] for match in map(block.fullmatch, tensors) if match]
    depths = tuple(stages.count(str(stage)) for stage in range(1, 5))
    for name, variant in MIT_VARIANTS.items():
        if variant == (channels, depths):
            return name
    raise DiffIMLError(
        f"{path} has a backbone of {depths} blocks and {channels} channels ({_BACKBONE}block*, patch_embed*), which is "
        f"none of {', '.join(MIT_VARIANTS)}"
    )


def _codec_layout(tensors: dict[str, Tensor], path: str | Path, activation: str, prefix: str = "") -> str:
    """`ReleaseLightVAE`'s layout of the tensors under `prefix`."""
    first = tensors.get(f"{prefix}encoder.0.weight")
    if first is None:
        raise DiffIMLError(f"{path} holds no codec that is known: it lacks {prefix}encoder.0.weight and {_SD_VAE}")
    norm = "batch" if f"{prefix}encoder.1.running_mean" in tensors else "group"
    return f"{len(first)}-{norm}-{activation}"


def _renamed(tensors: dict[str, Tensor], encoder: str, path: str | Path) -> dict[str, Tensor]:
    backbone = {key.removeprefix(_BACKBONE): value for key, value in tensors.items() if key.startswith(_BACKBONE)}
    ours = to_our_layout(backbone, build_encoder(encoder), path)
    ours = {f"condition_encoder.{key}": value for key, value in ours.items()}
    rest = {key: value for key, value in tensors.items() if not key.startswith(_BACKBONE)}
    concat = rest.pop(_CONCAT)  # [128, 256, 3, 3]; ours is split
    ours |= {"denoiser.latent_in.1.weight": concat[:, :_WIDTH], "denoiser.condition_in.weight": concat[:, _WIDTH:]}
    for kind in ("weight", "bias"):  # linear layers there, pointwise convolutions here
        keys = [f"{_ATTENTION}to_{part}.{kind}" for part in ("q", "k", "v", "out.0")]
        if not rest.keys() >= set(keys):
            raise DiffIMLError(f"{path} lacks the attention of the U-Net ({_ATTENTION}to_q, to_k, to_v, to_out.0)")
        rows = [rest.pop(key) for key in keys]
        linear = {"qkv": torch.cat(rows[:3]), "out": rows[3]}
        for name, value in linear.items():
            ours[f"denoiser.unet.middle.1.{name}.{kind}"] = value[:, :, None, None] if kind == "weight" else value
    return _with_counts(ours | {_our_name(key): value for key, value in rest.items()})


def _our_name(key: str) -> str:
    theirs, ours = next((pair for pair in _RENAMED if key.startswith(pair[0])), ("", ""))
    key = ours + key.removeprefix(theirs)
    if key.startswith("denoiser."):  # the SD VAE's blocks keep their names
        for theirs, ours in _IN_A_BLOCK:
            key = key.replace(theirs, ours)
    return key


def _with_counts(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, and for each BatchNorm the number of its batches, which some files lack and nothing reads."""
    means = [key for key in tensors if key.endswith(".running_mean")]
    return {key.replace("running_mean", "num_batches_tracked"): torch.tensor(0) for key in means} | tensors
