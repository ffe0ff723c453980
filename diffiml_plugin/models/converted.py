"""Weights of the authors' release, converted to files of this package."""

from dataclasses import asdict
from pathlib import Path

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.files import require_free
from diffiml_plugin.framework.adapters import method_of
from diffiml_plugin.method.protocols import LatentCodec
from diffiml_plugin.models.checkpoints import save_checkpoint
from diffiml_plugin.models.inputs import InputSettings
from diffiml_plugin.models.registry import DIFFIML
from diffiml_plugin.weights.files import load_into, refusing
from diffiml_plugin.weights.foreign import read_foreign
from diffiml_plugin.weights.lightvae import save_lightvae
from diffiml_plugin.weights.mit_layouts import is_mit
from diffiml_plugin.weights.release import (
    ACTIVATIONS,
    codec_from_release,
    from_release,
    is_release_codec,
    is_release_model,
    reconstruction_f1,
)

_HEALTHY_F1 = 0.9  # a trained codec reaches 0.99


def convert(source: Path, target: Path, activation: str = ACTIVATIONS[0], force: bool = False) -> str:
    """Writes a checkpoint, or the codec alone, of the authors' release as a file of ours, and says what it is.

    Args:
        activation: of the codec (relu | silu), which their files do not tell.
        force: convert a codec that gives back no mask too.

    Raises:
        DiffIMLError: `source` cannot be read, is not theirs, or a state of theirs that is not built here; a codec with
            random weights or another activation; `target` exists, is no .safetensors, or cannot be written.
    """
    require_free(target, ".safetensors")
    tensors = read_foreign(source).tensors
    provenance = {"converted_from": source.name}
    if is_release_codec(tensors):
        with refusing(source):  # of odd shapes
            codec = codec_from_release(tensors, source, activation)
        f1 = _require_trained(codec, source, activation, force)
        save_lightvae(target, codec, provenance | {"mask_f1": f1})
        return f"the release's LightVAE, {codec.layout}; pixel-F1 of a mask {f1:.4f}"
    if not is_release_model(tensors):
        raise DiffIMLError(_what_else(source, tensors))
    with refusing(source):
        config, renamed = from_release(tensors, source, activation)
    flags = {**asdict(config), **DIFFIML.untrained}
    model = DIFFIML.build(flags, pretrained=False)
    method = method_of(model.eval())
    load_into(method, renamed, source)
    f1 = _require_trained(method.codec, source, activation, force)
    save_checkpoint(
        target, model, DIFFIML.name, flags, input=asdict(InputSettings()), provenance=provenance | {"mask_f1": f1}
    )
    return f"the release's model on {config.encoder} with {config.latent_codec}; pixel-F1 of a mask {f1:.4f}"


def _require_trained(codec: LatentCodec, source: Path, activation: str, force: bool) -> float:
    """The codec's pixel-F1 on a mask. Raises DiffIMLError if it is no trained codec's, unless `force`."""
    f1 = reconstruction_f1(codec)
    if f1 < _HEALTHY_F1 and not force:
        (other,) = set(ACTIVATIONS) - {activation}
        raise DiffIMLError(
            f"{source}: its codec gives back a mask with a pixel-F1 of {f1:.3f}, where a trained one reaches 0.99: its "
            f"weights are random (the release trains with such if the codec's file is missing), or its "
            f"activation is not {activation} (try --activation {other}); --force converts it as it is"
        )
    return f1


def _what_else(source: Path, tensors: dict) -> str:
    if is_mit(tensors):
        return f"{source} holds a Mix Transformer, which needs no conversion; pass it by --encoder_weights"
    if all(key.startswith("diffiml.") for key in tensors):
        return f"{source} holds a DiffIML of this package, which needs no conversion; pass it by --checkpoint_path"
    return (
        f"{source} is no checkpoint of the authors' release, which has extractor.*, unet.* and vae.*, nor its codec, "
        f"with encoder.0.* and decoder.12.*; its first tensors are {', '.join(list(tensors)[:3])}"
    )
