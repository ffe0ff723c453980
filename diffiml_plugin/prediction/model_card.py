"""The card of a checkpoint, as the hub shows it, written from what the checkpoint's own metadata say."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.evaluation.calibration import Calibration
from diffiml_plugin.evaluation.results import noted
from diffiml_plugin.files import write_text
from diffiml_plugin.stored import shown
from diffiml_plugin.table import Table, for_markdown
from diffiml_plugin.weights.files import load_weights

_NOT_STATED = "Not stated."
_LIMITS = (
    "- That nothing was found does not say that nothing was done, and no answer is evidence by itself.\n"
    "- Figures and error rates hold for pictures like those that they were measured on."
)


def write_card(weights: Path, card: Path, name: str, source: str) -> Path:
    """Writes the card of a file of weights, and returns its path. Arguments and DiffIMLError as `model_card`."""
    state_dict, metadata = load_weights(weights)
    write_text(card, model_card(metadata, name, source, sum(tensor.numel() for tensor in state_dict.values())))
    return card


def model_card(metadata: Mapping[str, Any], name: str, source: str, parameters: int) -> str:
    """A README.md for the hub, with its YAML header and the figures in its model-index.

    Args:
        metadata: the checkpoint's. Beside what rebuilds the model: `data`, `licence` and `limits`, sentences; `figures`
            as `intervals.figures` gives them, `left_out` of a results file; `threshold`, `calibration` and
            `calibrated_on` of `benco calibrate`.
        name: of the model.
        source: what `load` takes: its name on the hub, or where it lies as seen from beside the card or its folder.
        parameters: how many it has.

    Raises:
        DiffIMLError: a calibration that is damaged, or figures.
    """
    model, config = metadata.get("model", "a model"), metadata.get("config", {})
    parts = ", ".join(str(config[part]) for part in ("encoder", "denoiser", "latent_codec") if part in config)
    limits = for_markdown(metadata.get("limits", ""))
    sections = {
        "Data": for_markdown(metadata.get("data", "")),
        "Figures": _figures(_measured(metadata), metadata),
        "Calibration": _calibration(metadata),
        "Limits": "\n".join(filter(None, (limits and f"- {limits}", _LIMITS))),
        "Licence": for_markdown(metadata.get("licence", "")),
    }
    return (
        "\n\n".join(
            [
                f"---\n{_header(metadata, name)}\n---",
                f"# {for_markdown(name)}",
                f"{for_markdown(model + (parts and f' ({parts})'))}, {parameters / 1e6:.1f} M parameters: it says of a "
                "photograph which of its pixels were manipulated.",
                f"    from diffiml_plugin import load\n    load({source!r})('photo.jpg').sentence",
                *(f"## {title}\n\n{text or _NOT_STATED}" for title, text in sections.items()),
            ]
        )
        + "\n"
    )


def _measured(metadata: Mapping[str, Any]) -> Mapping[str, Mapping[str, tuple[float, float, float]]]:
    """The figures; none where a file has them in the form of an earlier version, without intervals.

    Raises:
        DiffIMLError: one of them is not of three numbers.
    """
    by_set = metadata.get("figures", {})
    if not all(isinstance(figures, dict) for figures in by_set.values()):
        return {}
    if odd := [values for figures in by_set.values() for values in figures.values() if len(values) != 3]:
        raise DiffIMLError(f"figures: {shown(odd[0])} is no value with the ends of its interval; write the file again")
    return by_set


def _header(metadata: Mapping[str, Any], name: str) -> str:
    results = [
        EvalResult(
            task_type="image-segmentation",
            dataset_type=dataset,
            dataset_name=dataset,
            metric_type=figure,
            metric_value=value,
            metric_config=f"95 % interval {low:.4f} to {high:.4f}" + _without(metadata, dataset),
        )
        for dataset, figures in _measured(metadata).items()
        for figure, (value, low, high) in figures.items()
    ]
    licence = metadata.get("licence")
    data = ModelCardData(
        model_name=name,
        library_name="diffiml_plugin",
        pipeline_tag="image-segmentation",
        tags=["image-forensics", "image-manipulation-localization"],
        license="other" if licence else None,
        license_name=licence,
        eval_results=results or None,
    )
    return str(data.to_yaml())


def _without(metadata: Mapping[str, Any], dataset: str) -> str:
    count = metadata.get("left_out", {}).get(dataset)
    return f", {count} faulty pairs left out" if count else ""


def _figures(by_set: Mapping[str, Mapping[str, tuple[float, float, float]]], metadata: Mapping[str, Any]) -> str:
    if not by_set:
        return ""
    cells = {
        dataset: {figure: "{:.3f} [{:.3f}, {:.3f}]".format(*values) for figure, values in figures.items()}
        for dataset, figures in by_set.items()
    }
    table = replace(Table.of("", cells), note=noted(metadata))
    return f"{table.markdown()}\n\nAt a threshold of 0.5; brackets: 95 % intervals over images."


def _calibration(metadata: Mapping[str, Any]) -> str:
    if not metadata.get("calibration"):
        return "None: its answers are called uncalibrated, and `benco calibrate` makes a calibration."
    calibration = Calibration.read(metadata["calibration"])
    rates = {"cross-validated": calibration.crossed, "with each set left out": calibration.left_out}
    cells = {
        how: {
            "authentic called tampered": f"{rate.false_alarms:.1%}",
            "tampered, nothing found": f"{rate.misses:.1%}",
            "ECE": f"{rate.ece:.3f}",
            "Cllr": f"{rate.cllr:.3f}",
        }
        for how, rate in rates.items()
        if rate
    }
    return (
        f"On {calibration.authentic} authentic and {calibration.tampered} tampered pictures of "
        f"{for_markdown(', '.join(metadata.get('calibrated_on', ())))}. A pixel counts as manipulated above "
        f"{metadata.get('threshold', 0.5):g}. A picture is called tampered above a probability of "
        f"{calibration.tampered_above:.2f}; nothing is found below {calibration.nothing_below:.2f}.\n\n"
        f"{Table.of('', cells).markdown()}"
    )
