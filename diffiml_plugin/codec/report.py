"""How well a latent codec keeps masks, and at what cost: `codec.json`, and a page with the worst ten."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn

from diffiml_plugin.codec.cost import CodecCost, measure_cost
from diffiml_plugin.codec.metrics import (
    MEANS,
    THRESHOLD,
    averaging,
    boundary_f,
    codec_device,
    decode_masks,
    disturbed,
    encode_maps,
    f1_score,
    iou,
    latent_statistics,
)
from diffiml_plugin.data.masks import resized
from diffiml_plugin.evaluation.records import digest
from diffiml_plugin.files import write_text
from diffiml_plugin.folders import claimed
from diffiml_plugin.ledger import begin
from diffiml_plugin.method.config import LATENT_STRIDE
from diffiml_plugin.method.edges import edge_map
from diffiml_plugin.method.lightvae import TARGETS
from diffiml_plugin.method.protocols import LatentCodec
from diffiml_plugin.method.sdvae import SDVAE
from diffiml_plugin.reports.page import Section, Strip, write_page
from diffiml_plugin.table import Table
from diffiml_plugin.weights.files import tensors_digest

RESULTS, _PAGE = "codec.json", "codec.html"
NOISE_LEVELS = (0.1, 0.2, 0.3)  # standard deviations, on unit-variance latents
_WORST = 10


@dataclass(frozen=True)
class Reconstruction:
    """Maps of one target through the codec; the scores are one for each map."""

    maps: Sequence[np.ndarray]  # [H, W] in {0, 1}
    decoded: Sequence[np.ndarray]  # the same, after encoding and decoding
    latents: Sequence[torch.Tensor]  # [1, 4, h, w]
    f1: np.ndarray
    iou: np.ndarray
    boundary_f: np.ndarray  # at 2 pixels


def reconstruct(codec: LatentCodec, maps: Sequence[np.ndarray], target: str) -> Reconstruction:
    """Encodes and decodes maps [H, W] in {0, 1} of any sizes."""
    latents = encode_maps(codec, maps, target)
    decoded = decode_masks(codec, latents, maps, target)
    scores = (
        np.array([metric(*pair) for pair in zip(decoded, maps, strict=True)]) for metric in (f1_score, iou, boundary_f)
    )
    return Reconstruction(maps, decoded, latents, *scores)


def report_codec(codec: LatentCodec, masks: Mapping[str, np.ndarray], size: int, output_dir: Path) -> dict:
    """Measures the codec on masks by name, [H, W] in {0, 1} of any sizes, and writes codec.json and codec.html.

    Args:
        size: side in pixels of the map that time, FLOPs and the empty mask are measured on, and that masks are
            brought to where means of them are (cut to a multiple of 8).

    Raises:
        DiffIMLError: what stands there is others' or of another codec, or another process writes there.

    Returns:
        what codec.json holds; latent statistics are a list of eight, the mask's channels, then the edge map's.
    """
    with claimed(output_dir):
        weights = tensors_digest(cast(nn.Module, codec).state_dict())
        contents = [(name, mask.shape, sha256(mask.tobytes()).hexdigest()) for name, mask in sorted(masks.items())]
        deciding = {"weights": weights, "masks": digest(contents), "image_size": size}
        begin(output_dir, "codec-report", deciding, [output_dir / RESULTS, output_dir / _PAGE])
        return _reported(codec, weights, masks, size, output_dir)


def _reported(codec: LatentCodec, weights: str, masks: Mapping[str, np.ndarray], size: int, output_dir: Path) -> dict:
    maps = {"mask": list(masks.values()), "edge": [edge_map(mask) for mask in masks.values()]}
    reconstructions = {target: reconstruct(codec, maps[target], target) for target in TARGETS}
    empty = reconstruct(codec, [np.zeros((size, size), np.uint8)], "mask")
    statistics = [latent_statistics(reconstructions[target].latents) for target in TARGETS]
    device = codec_device(codec)
    rival = SDVAE().to(device).eval()  # random weights: its cost does not depend on them
    costs = {"LightVAE": measure_cost(codec, size), "SD VAE": measure_cost(rival, size)}
    f1, side = reconstructions["mask"].f1, size - size % LATENT_STRIDE
    squares = [resized(mask, side) for mask in maps["mask"]]
    result = {
        "weights": weights,
        "reconstruction": {"f1_mean": f1.mean(), "f1_p5": np.percentile(f1, 5), "f1_min": f1.min(), "images": len(f1)},
        "means": {str(members): asdict(averaging(codec, squares, members)) for members in MEANS if members <= len(f1)},
        "noise": {str(level): _noisy_f1(codec, reconstructions["mask"], level) for level in NOISE_LEVELS},
        "empty_false_area": empty.decoded[0].mean(),
        "latents": {
            "mean": [mean for means, _ in statistics for mean in means],
            "std": [std for _, stds in statistics for std in stds],
        },
        "params_M": costs["LightVAE"].params_M,
        "time_ratio_sd_over_light": costs["SD VAE"].seconds / costs["LightVAE"].seconds,
    }
    write_text(output_dir / RESULTS, json.dumps(result, indent=1) + "\n")
    empty_spread = empty.latents[0].std((2, 3)).max().item()
    _write_page(
        output_dir / _PAGE,
        result,
        reconstructions,
        costs,
        list(masks),
        empty_spread,
        f"fp32 on {device.type}, {torch.get_num_threads()} threads; time and multiply-adds are of "
        f"encoding and decoding one {size}x{size} map",
    )
    return result


def _noisy_f1(codec: LatentCodec, exact: Reconstruction, level: float) -> float:
    decoded = decode_masks(codec, disturbed(exact.latents, level), exact.maps, "mask")
    return float(np.mean([f1_score(*pair) for pair in zip(decoded, exact.maps, strict=True)]))


def _write_page(
    path: Path,
    result: dict,
    reconstructions: Mapping[str, Reconstruction],
    costs: Mapping[str, CodecCost],
    names: Sequence[str],
    empty_spread: float,
    conditions: str,
) -> None:
    reconstruction, noise, latents = (result[part] for part in ("reconstruction", "noise", "latents"))
    mask = reconstructions["mask"]
    per_target = [
        (
            target,
            *(
                f"{value:.4f}"
                for value in (
                    part.f1.mean(),
                    np.percentile(part.f1, 5),
                    part.f1.min(),
                    part.iou.mean(),
                    part.boundary_f.mean(),
                )
            ),
        )
        for target, part in reconstructions.items()
    ]
    channels = [f"{mean:+.2f} ± {std:.2f}" for mean, std in zip(latents["mean"], latents["std"], strict=True)]
    half = len(channels) // 2
    worst = np.argsort(mask.f1)[:_WORST]
    of_means = [(k, f"{mean['error']:.4f}", f"{mean['lattice']:.1f}") for k, mean in result["means"].items()]
    by_noise = [(level, f"{f1:.4f}") for level, f1 in {"0": reconstruction["f1_mean"], **noise}.items()]
    cost_rows = [(name, f"{c.params_M:.3f}", f"{c.gmacs:.2f}", f"{c.seconds:.4f}") for name, c in costs.items()]
    write_page(
        path,
        "LightVAE: what it keeps of a mask",
        f"{len(names)} masks, threshold {THRESHOLD}, {conditions}. The SD VAE has random weights here: "
        "its cost does not depend on them.",
        [
            Section(
                "Reconstruction",
                tables=[Table(("", "F1", "5th percentile", "worst", "IoU", "boundary-F, 2 px"), per_target)],
            ),
            Section("Gaussian noise on the latents", tables=[Table(("standard deviation", "F1"), by_noise)]),
            Section(
                "Means of latents, decoded",
                "Each mask is averaged with others at random: what the mean of the latents decodes to, against the "
                "mean of the masks. The peak is in units of the power around it; a decoder that shows no latent cells "
                "has about 1.",
                tables=[Table(("latents", "error where masks disagree", "peak of its spectrum at 8 pixels"), of_means)],
            ),
            Section(
                "Latents, mean and standard deviation by channel",
                f"Of an empty mask {result['empty_false_area']:.1e} of the pixels are called tampered; its latent "
                f"deviates by {empty_spread:.3f} at most (standard deviation over the map, by channel).",
                tables=[Table(("", *"1234"), [("mask", *channels[:half]), ("edge", *channels[half:])])],
            ),
            Section("Cost", tables=[Table(("", "M parameters", "G multiply-adds", "seconds"), cost_rows)]),
            Section(f"The worst {len(worst)}", strips=[_strip(mask, i, names[i]) for i in worst]),
        ],
        {
            "pixel-F1": f"{reconstruction['f1_mean']:.4f}",
            "5th percentile": f"{reconstruction['f1_p5']:.4f}",
            "under latent noise 0.3": f"{noise['0.3']:.4f}",
            "times faster than the SD VAE": f"{result['time_ratio_sd_over_light']:.0f}",
        },
    )


def _strip(reconstruction: Reconstruction, index: int, name: str) -> Strip:
    mask, decoded, f1 = reconstruction.maps[index], reconstruction.decoded[index], reconstruction.f1[index]
    return Strip({"mask": mask, "decoded": decoded, "difference": mask ^ decoded}, f"{name}: F1 {f1:.4f}")
