"""The paper's figures (published.json), and the names by which runs fill rows of its tables."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffiml_plugin.errors import DiffIMLError, nearest
from diffiml_plugin.models.registry import look_up

PUBLISHED = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))
FIGURE_4 = PUBLISHED.pop("figure4")  # the only one that is no table
_AS_PUBLISHED = {"encoder": "segformer_b3", "denoiser": "release"}  # what a name in Table 4 does not say
_CODECS = {"lightvae": "our LightVAE", "lightvae-release": "LightVAE", "sd-vae": "VAE"}


def require_tables(experiment: str, swept: bool = False) -> None:
    """Raises DiffIMLError unless each word of `--experiment` begins with a table that a test, or a sweep, can fill."""
    known = [name for name, table in PUBLISHED.items() if ("sweep" in table) == swept and name != "table4"]
    for table in (word.partition("/")[0] for word in experiment.split()):
        if table not in known:
            verb = "sweep" if swept else "test"
            raise DiffIMLError(
                f"--experiment {table}: no table that `benco {verb}` fills{nearest(table, known)}; "
                f"those are {', '.join(known)}"
            )


def published_name(model: str) -> str:
    """The name in the paper's tables of a model that a results file names, registered here or not."""
    card = look_up(model)
    return card.published_name or card.name if card else model


def table4_name(row: Mapping[str, Any], members: str) -> str:
    """The name in Table 4 of a row of `benco complexity --json`, for an ensemble of `members`, such as "N=5"."""
    settings, side = row["settings"], row["image_size"]
    name = published_name(row["model"])
    if codec := settings.get("latent_codec"):
        other = [str(settings[key]) for key, value in _AS_PUBLISHED.items() if settings.get(key, value) != value]
        name = ", ".join([name, *other, _CODECS.get(str(codec), str(codec)), members])
    return name if side == 512 else f"{name} ({side}²)"


def figure4_curves() -> dict[str, dict[str, dict[int, float]]]:
    """Figure 4: by method and perturbation the pixel-F1 on CASIAv1 by strength, 0 being the clean image."""
    return {
        method: {
            perturbation: {0: row["clean"], **dict(zip(strengths, row[perturbation], strict=True))}
            for perturbation, strengths in FIGURE_4["strengths"].items()
        }
        for method, row in FIGURE_4["rows"].items()
    }
