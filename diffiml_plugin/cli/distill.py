"""Train LightVAE, the mask autoencoder, with or without a teacher (Eq. 6)."""

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from diffiml_plugin.cli.parser import Parser

if TYPE_CHECKING:
    import torch

    from diffiml_plugin.method.sdvae import SDVAE


def add_arguments(parser: Parser) -> None:
    from diffiml_plugin.cli.arguments import add_fields
    from diffiml_plugin.codec.settings import DistillSettings
    from diffiml_plugin.settings import DEVICES

    parser.add_argument(
        "--teacher",
        default="none",
        metavar="NAME|PATH|none",
        help="AutoencoderKL to learn from: stabilityai/sd-vae-ft-mse, a local folder, or none; Eq. 6 "
        "wants --latent_weight 0.1 beside it, as --config codec/distill#taught does",
    )
    parser.add_argument(
        "--masks",
        nargs="+",
        default=["synthetic"],
        metavar="DIR|JSON|synthetic",
        help="training masks, any number of sources",
    )
    parser.add_argument("--label_maps", metavar="DIR", help="maps of hand-drawn regions, whose unions are masks too")
    parser.add_argument("--val_masks", metavar="DIR|JSON", help="masks to validate on (every tenth of --masks)")
    parser.add_argument("--binarise", action="store_true", help="cut masks that are not binary; a warning counts them")
    parser.add_argument(
        "--output_dir", default="./output_dir", help="folder for lightvae.safetensors, log.jsonl and training_state.pt"
    )
    parser.add_argument("--device", default="auto", choices=DEVICES, help="where to compute")
    add_fields(parser, DistillSettings, title="training")


def run(args: argparse.Namespace) -> int:
    from diffiml_plugin.codec.distill import WEIGHTS, distill
    from diffiml_plugin.codec.settings import DistillSettings
    from diffiml_plugin.codec.sources import read_sources
    from diffiml_plugin.folders import claimed
    from diffiml_plugin.launch import start_inference
    from diffiml_plugin.training.log import LOG
    from diffiml_plugin.training.resume import begin_training

    data = {name: getattr(args, name) for name in ("masks", "label_maps", "val_masks", "binarise")}
    settings = DistillSettings(**{name: getattr(args, name) for name in DistillSettings.__dataclass_fields__})
    with claimed(args.output_dir) as folder:
        begin_training(folder, "distill", {**asdict(settings), "teacher": args.teacher, **data}, [WEIGHTS], [LOG])
        device = start_inference(args.device).device
        mixture, held_out, described = read_sources(*data.values())
        teacher = None if args.teacher == "none" else _teacher(args.teacher, device)
        distill(settings, mixture, held_out, folder, {"teacher": args.teacher, "data": described}, teacher, device)
    print(f"weights: {folder / WEIGHTS}")
    return 0


def _teacher(source: str, device: "torch.device") -> "SDVAE":
    from diffiml_plugin.weights.sdvae import load_sdvae  # seconds: it imports diffusers

    teacher = load_sdvae(source).to(device)
    return teacher.half() if device.type == "cuda" else teacher
