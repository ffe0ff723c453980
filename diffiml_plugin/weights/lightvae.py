"""The LightVAE that travels with the package, and those that `benco distill` writes."""

import hashlib
from pathlib import Path
from typing import Any

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.method.lightvae import LightVAE
from diffiml_plugin.weights.files import load_into, load_weights, save_weights

SHIPPED = Path(__file__).with_name("lightvae.safetensors")


def save_lightvae(path: str | Path, codec: LightVAE, provenance: dict[str, Any]) -> None:
    """Writes the codec; `provenance` says how it was trained and what it reached."""
    config = {"width": codec.width}
    save_weights(path, codec.state_dict(), {"model": "LightVAE", "config": config, "provenance": provenance})


def load_lightvae(path: str | Path | None = None) -> LightVAE:
    """A trained LightVAE in evaluation mode, of the width it was stored with; None takes the shipped one.

    Raises:
        DiffIMLError: the file is truncated, foreign, or holds another model; names it and its hash.
    """
    path = SHIPPED if path is None else Path(path)
    tensors, metadata = load_weights(path)
    if metadata.get("model") != "LightVAE":
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        raise DiffIMLError(
            f"{path} (sha256 {sha256}) holds {metadata.get('model')!r}, not a LightVAE; "
            "pass a file written by `benco distill`"
        )
    codec = LightVAE(**metadata["config"])
    load_into(codec, tensors, path)
    return codec.eval()
