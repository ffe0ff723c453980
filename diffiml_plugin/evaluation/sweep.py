"""`benco sweep`: one checkpoint under many sampling settings (Tables 6e and 7), each image encoded once."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, cast

from torch import Tensor, nn

from diffiml_plugin.errors import DiffIMLError, nearest
from diffiml_plugin.evaluation.published import require_tables
from diffiml_plugin.evaluation.records import records_file
from diffiml_plugin.evaluation.results import Record, SweepCell, SweepRow, Swept, noted
from diffiml_plugin.evaluation.scores import PIXEL_FIGURES, score_batch, summarise
from diffiml_plugin.evaluation.scoring import open_scoring
from diffiml_plugin.evaluation.settings import TestSettings
from diffiml_plugin.framework.adapters import method_of
from diffiml_plugin.method.config import DiffIMLConfig
from diffiml_plugin.method.diffiml import DiffIML
from diffiml_plugin.stored import parse_yaml
from diffiml_plugin.table import Table

RESULTS = "sweep.json"
FILES = (RESULTS, records_file(Path(RESULTS)).name)
SWEPT: dict[str, Any] = {  # setting -> its type
    field.name: field.type
    for field in fields(DiffIMLConfig)
    if field.name
    in (
        "sampler",
        "num_inference_steps",
        "timestep_spacing",
        "clip_latents",
        "ensemble_size",
        "ensemble_space",
        "tta",
        "tta_fusion",
        "mask_bias",
        "mask_reading",
    )
}
_RECORDED = (*SWEPT, "noise_seed")
_MOST_SEEDS = 1000  # each has a record of every image


def sweep(
    settings: TestSettings, model_flags: Mapping[str, Any] | None = None, *, vary: Sequence[str], noise_seeds: int
) -> Swept:
    """Varies one setting at a time around the model's own; writes sweep.json and sweep_per_image.jsonl, prints a table.

    Args:
        vary: NAME=VALUE,VALUE,... with a name of `SWEPT`.
        noise_seeds: how often each value is run, with the noise seeds that follow the model's own.

    Returns:
        what sweep.json holds.

    Raises:
        DiffIMLError: as `test.test`; a setting or value that is none; a model that does not sample.
    """
    if not 1 <= noise_seeds <= _MOST_SEEDS:
        raise DiffIMLError(f"--noise_seeds {noise_seeds} is outside [1, {_MOST_SEEDS}]")
    require_tables(settings.experiment, swept=True)
    values = _read(vary)
    scoring = open_scoring(settings, model_flags, FILES, {"vary": values, "noise_seeds": noise_seeds}, captures=False)
    if not scoring.card.samples:
        raise DiffIMLError(f"{scoring.card.name} has no sampling settings to sweep; pass a checkpoint of DiffIML")
    method = method_of(scoring.model)
    seeds = range(method.config.noise_seed, method.config.noise_seed + noise_seeds)
    cases = {
        (name, value): [replace(method.config, **{name: value}, noise_seed=seed) for seed in seeds]
        for name in values
        for value in values[name]
    }
    configs = list(dict.fromkeys(config for case in cases.values() for config in case))  # the model's own comes often
    model, variant = _ManySamplers(method, configs), " ".join([*vary, f"{noise_seeds} seeds"])
    by_set = {name: scoring.records(name, variant, model=model, score=_score) for name in scoring.lists}

    def row(configs: Sequence[DiffIMLConfig]) -> dict[str, SweepCell]:
        datasets: dict[str, SweepCell] = {}
        for name, records in by_set.items():
            summaries = [summarise(r for r in records if _of(config).items() <= r.items()) for config in configs]
            runs = [summary[PIXEL_FIGURES["f1"]] for summary in summaries if PIXEL_FIGURES["f1"] in summary]
            if runs:  # else no image is tampered
                datasets[name] = {"f1": fmean(runs), "std": stdev(runs) if len(runs) > 1 else None, "runs": runs}
        return datasets

    rows: list[SweepRow] = [
        {"setting": name, "value": value, "datasets": row(case)} for (name, value), case in cases.items()
    ]
    results: Swept = {**scoring.header, "rows": rows}
    scoring.finish(results, (record for records in by_set.values() for record in records))
    if scoring.state.is_main_process:
        print(table(results))
    return results


class _ManySamplers(nn.Module):
    """A model in test mode that yields a configuration and its output, for each; the condition is encoded once."""

    def __init__(self, method: DiffIML, configs: Sequence[DiffIMLConfig]):
        super().__init__()
        self.encoder = method.with_settings(tta=any(config.tta for config in configs))
        self.samplers = nn.ModuleList(method.with_settings(**vars(config)) for config in configs)

    def forward(
        self, image: Tensor, noise_key: Sequence[str], shape_mask: Tensor | None = None, **_: Any
    ) -> Iterator[tuple[DiffIMLConfig, dict]]:
        conditions = self.encoder.condition(image)
        for sampler in cast(Iterable[DiffIML], self.samplers):
            noise = sampler.draw_noise(noise_key, image.shape[-2:]).to(image.device, non_blocking=True)
            prediction = sampler.sample(conditions, noise).within(shape_mask)
            yield sampler.config, {"pred_mask": prediction.probability, "pred_label": prediction.score}


def _score(outputs: Iterator[tuple[DiffIMLConfig, dict]], batch: Mapping[str, Any]) -> list[Record]:
    scored = ((config, record) for config, output in outputs for record in score_batch(output, batch))
    return [cast(Record, {**_of(config), **record}) for config, record in scored]


def _of(config: DiffIMLConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in _RECORDED}


def _read(vary: Sequence[str]) -> dict[str, list[Any]]:
    """Values by setting, in their types, from NAME=VALUE,VALUE,... words."""
    read: dict[str, list[Any]] = {}
    for word in vary:
        name, _, values = word.partition("=")
        if name not in SWEPT:
            raise DiffIMLError(f"--vary {word}: {name!r} is not one of {', '.join(SWEPT)}{nearest(name, SWEPT)}")
        kind, parsed = SWEPT[name], [parse_yaml(value, f"--vary {word}:") for value in values.split(",")]
        parsed = [float(value) if kind is float and type(value) is int else value for value in parsed]
        read.setdefault(name, []).extend(parsed)
        if wrong := [value for value in read[name] if type(value) is not kind]:
            raise DiffIMLError(f"--vary {word}: {wrong[0]!r} is no {kind.__name__}")
    return read


def table(results: Swept) -> Table:
    """Pixel-F1 of each row by dataset, mean ± standard deviation."""
    cells = {
        f"{row['setting']}={row['value']}": {name: spread(cell) for name, cell in row["datasets"].items()}
        for row in results["rows"]
    }
    return replace(Table.of("", cells), note=noted(results))


def spread(cell: SweepCell) -> str:
    """Mean ± standard deviation of an entry of a row's `datasets`."""
    return f"{cell['f1']:.4f}" + ("" if cell["std"] is None else f" ± {cell['std']:.4f}")
