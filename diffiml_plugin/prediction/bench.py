"""`benco bench`: what a prediction costs on this device, beside the zoo's models and the device's own limits."""

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain, product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image

from diffiml_plugin import launch
from diffiml_plugin.data.lists import NEGATIVE, ImageList
from diffiml_plugin.data.pairs import make_test_set
from diffiml_plugin.evaluation.scores import score_batch
from diffiml_plugin.method.diffiml import DiffIML
from diffiml_plugin.models.checkpoints import save_checkpoint
from diffiml_plugin.models.compiled import speed_up
from diffiml_plugin.models.inputs import InputSettings
from diffiml_plugin.models.registry import DIFFIML, find_model
from diffiml_plugin.models.speed import Bench, built, ceilings, lines, our_calls, our_rows, zoo_rows
from diffiml_plugin.models.zoo import device_name
from diffiml_plugin.prediction.detector import Detector
from diffiml_plugin.prediction.files import predict
from diffiml_plugin.settings import CommonSettings

_REFERENCE = ("light", 8)  # denoiser and S of the ratios
_PHOTOGRAPHS = 8  # in the folder that is predicted
_TURNS = 3  # through that folder


def bench(settings: Bench, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Measures everything, and gives `keep` the results each time there is more, so that a lost device costs no more.

    Returns:
        {"device", "ceilings", "rows", "shares_ms", "lines", "ratios"}. A row has the model, N, S, precision, compiled,
        image_size, latency_ms {median, p95} of single images, images_per_second at batch_size, the fastest, peak_mb,
        launches of one prediction, and for DiffIML floor_ms, which the ceilings allow; or an `error`. What this device
        has no figure for is None.

    Raises:
        DiffIMLError: an unknown model, or a size that DiffIML cannot take.
    """
    DIFFIML.require_size(InputSettings(settings.image_size).image_size)
    for name in settings.zoo:
        find_model(name)  # an unknown one is said now
    reached = ceilings(settings)
    results: dict[str, Any] = {"device": device_name(settings.device), "ceilings": reached, "rows": []}
    results |= {"shares_ms": {}, "lines": {}, "ratios": {}}
    for row in chain(our_rows(settings, reached), zoo_rows(settings)):
        results["rows"].append(row)
        results["ratios"] = ratios(results["rows"], settings.image_size)
        keep(results)
    results["lines"] = lines(settings)
    keep(results)
    results["shares_ms"], of_predict = _shares(settings)
    results["ratios"] |= {**of_predict, "scoring_ms_per_image": results["shares_ms"]["scoring"]}
    keep(results)
    return results


def ratios(rows: Sequence[Mapping[str, Any]], image_size: int) -> dict[str, float | None]:
    """Between medians; None where one of the two is missing.

    N=5 over N=1 in the fastest way of this device. The fastest model of the zoo at the same size, in plain fp32 as the
    framework runs it, over our N=1 in plain fp32, and over our N=1 in that fastest way.
    """
    measured = [row for row in rows if "error" not in row]

    def time_of(members: int, precision: str, compiled: bool) -> float | None:
        wanted = dict(zip(("denoiser", "S"), _REFERENCE, strict=True))
        wanted |= {"model": DIFFIML.name, "N": members, "precision": precision, "compiled": compiled}
        return next((row["latency_ms"]["median"] for row in measured if wanted.items() <= row.items()), None)

    def over(one: float | None, other: float | None) -> float | None:
        return one / other if one and other else None

    ways = product(("fp32", "bf16"), (False, True))
    best = min(ways, key=lambda way: time_of(5, *way) or math.inf)
    peers = [row for row in measured if row["model"] != DIFFIML.name and row["image_size"] == image_size]
    fastest = min((row["latency_ms"]["median"] for row in peers), default=None)
    return {
        "N5_over_N1": over(time_of(5, *best), time_of(1, *best)),
        f"fastest_zoo_{image_size}_over_N1": over(fastest, time_of(1, "fp32", False)),
        f"fastest_zoo_{image_size}_over_fastest_N1": over(fastest, time_of(1, *best)),
    }


def _shares(settings: Bench) -> tuple[dict[str, float], dict[str, float]]:
    """Milliseconds of the parts of one image's way through `benco test`; and the ratios of `_of_predict`."""
    side, device = settings.image_size, settings.device
    with tempfile.TemporaryDirectory() as folder, built(settings, "light") as (model, method):
        photographs, checkpoint = Path(folder, "photographs"), Path(folder, "weights.safetensors")
        _write_photographs(photographs, side)
        flags = DIFFIML.resolve({"encoder": settings.encoder, "denoiser": "light"})
        save_checkpoint(checkpoint, model, DIFFIML.name, flags, input={"image_size": side})
        files = sorted(photographs.iterdir())
        listed = ImageList("photographs", tuple(map(str, files)), (NEGATIVE,) * len(files))
        dataset = make_test_set(listed, InputSettings(side), DIFFIML, model=model)
        speed_up(model, device, "auto", "auto")
        image = torch.randn(1, 3, side, side, device=device)
        noise = method.draw_noise(["a"], (side, side)).to(device)
        mask = (torch.rand(1, 1, side, side, device=device) < 0.1).double()
        batch = {"mask": mask, "label": torch.ones(1), "name": ["a"], "index": torch.zeros(1)}
        output = {"pred_mask": torch.rand(1, 1, side, side, device=device)}
        with torch.no_grad(), launch.autocast(device, "auto"):
            conditions = method.condition(image)
            parts: dict[str, list[Callable[[], Any]]] = {
                "data": [partial(dataset.__getitem__, i) for i in range(len(files))],
                "encoder": [lambda: method.condition(image)],
                "sampler": [lambda: method.sample(conditions, noise)],
                "decoder": [lambda: method._decode_mean(noise[:, 0, 0])],
                "scoring": [lambda: score_batch(output, batch, complete=True)],
            }
            shares = {name: 1e3 * settings.median_of(calls) for name, calls in parts.items()}
        shares["sampler"] -= shares["decoder"]
        detector = Detector(checkpoint, CommonSettings(device=device.type))
        return shares, _of_predict(settings, method, partial(predict, detector, [str(photographs)]), Path(folder))


def _of_predict(
    settings: Bench, method: DiffIML, predict_folder: Callable[[Path], Any], folder: Path
) -> dict[str, float]:
    """`benco predict` of a folder over as many bare predictions, and over such that decode the members too.

    A bare prediction decodes their mean alone, which gives no uncertainty. All three take turns, because the pace of a
    machine changes.
    """
    bare, with_members = (our_calls(settings, method, "auto", members=members) for members in (False, True))
    predict_folder(folder / "warm")
    settings.seconds_of(with_members)
    over_bare, over_both = [], []
    for turn in range(_TURNS):
        whole = settings.total_of([partial(predict_folder, folder / str(turn))], 1)
        over_bare.append(whole / settings.total_of(bare, _PHOTOGRAPHS))
        over_both.append(whole / settings.total_of(with_members, _PHOTOGRAPHS))
    return {"predict_over_bare": median(over_bare), "predict_over_bare_with_members": median(over_both)}


def _write_photographs(folder: Path, side: int) -> None:
    """JPEGs of about the detail of photographs: coarse noise and fine."""
    folder.mkdir()
    for number in range(_PHOTOGRAPHS):
        coarse = Image.effect_noise((side // 16, side // 16), 90).resize((side, side))
        mixed = Image.blend(coarse, Image.effect_noise((side, side), 40), 0.3)
        mixed.convert("RGB").save(folder / f"{number}.jpg", quality=90)
