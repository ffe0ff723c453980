"""The LightVAE that travels with the package, those that `benco distill` writes, and the authors', converted."""

from pathlib import Path
from typing import Any

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.method.lightvae import LightVAE
from diffiml_plugin.method.lightvae_release import ReleaseLightVAE
from diffiml_plugin.stored import checked
from diffiml_plugin.weights.files import identity, load_into, load_weights, save_weights

SHIPPED = Path(__file__).with_name("lightvae.safetensors")
_KINDS = {kind.__name__: kind for kind in (LightVAE, ReleaseLightVAE)}


def save_lightvae(path: str | Path, codec: LightVAE | ReleaseLightVAE, provenance: dict[str, Any]) -> None:
    """Writes the codec; `provenance` says how it was trained and what it reached."""
    config = {"width": codec.width} if isinstance(codec, LightVAE) else {"layout": codec.layout}
    metadata = {"model": type(codec).__name__, "config": config, "provenance": provenance}
    save_weights(path, codec.state_dict(), metadata)


def load_lightvae(path: str | Path = SHIPPED) -> LightVAE | ReleaseLightVAE:
    """A trained LightVAE in evaluation mode, ours or the release's, of the layout it was stored with.

    Raises:
        DiffIMLError: the file is truncated, foreign, or holds another model; names it and its hash.
    """
    tensors, metadata = load_weights(path)
    if metadata.get("model") not in _KINDS:
        raise DiffIMLError(
            f"{identity(path)} holds {metadata.get('model')!r}, not a LightVAE; "
            "pass a file written by `benco distill`, or by `benco convert` from the authors'"
        )
    fields = {"width": int} if metadata["model"] == LightVAE.__name__ else {"layout": str}
    config = checked(metadata.get("config"), fields, f"config in the header of {path}")
    codec = _KINDS[metadata["model"]](**config)
    load_into(codec, tensors, path)
    return codec.eval()
