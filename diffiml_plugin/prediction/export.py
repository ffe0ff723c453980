"""DiffIML for programs without this package: three graphs of any size, and a sampler in numpy that runs them."""

import json
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any, cast

import jinja2
import numpy as np
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from diffiml_plugin import __version__
from diffiml_plugin.errors import DiffIMLError, first_line
from diffiml_plugin.evaluation.scores import THRESHOLD
from diffiml_plugin.files import file_digest, replacing, require_unchanged, write_text
from diffiml_plugin.folders import claimed
from diffiml_plugin.framework.adapters import method_of
from diffiml_plugin.ledger import begin
from diffiml_plugin.method.config import LATENT_CHANNELS, LATENT_STRIDE, SIZE_MULTIPLE, DiffIMLConfig
from diffiml_plugin.method.diffiml import DiffIML
from diffiml_plugin.models.opened import OpenedModel, open_model
from diffiml_plugin.prediction import numpy_sampler
from diffiml_plugin.settings import CommonSettings
from diffiml_plugin.table import for_markdown
from diffiml_plugin.weights.files import read_metadata

FORMATS = numpy_sampler.SUFFIXES
CONFIG, _README, _SAMPLER = "config.json", "README.md", "sample.py"
_NAMES = ("condition", "step", "decoder")
TOLERANCE = 1e-3  # of a probability, between the graphs and the model that they were made from
_TRACED, _TRIED = (96, 160), ((32, 64), (160, 128))  # heights and widths in pixels
_SAMPLING = (  # what the sampler reads of the method's settings
    "num_inference_steps",
    "ensemble_size",
    "sampler",
    "timestep_spacing",
    "clip_latents",
    "ensemble_space",
    "tta",
    "tta_fusion",
    "mask_bias",
)


@dataclass(frozen=True)
class Exported:
    """The files written, and the largest difference of a probability from the model's own, in [0, TOLERANCE]."""

    files: list[Path]
    difference: float


@dataclass(frozen=True)
class _Part:
    """A module to export, arguments to trace it with, and which of their sides may vary."""

    module: nn.Module
    arguments: dict[str, Tensor]
    sides: dict[str, dict[int, Any]]


class _Condition(nn.Module):
    """Images [B, 3, H, W] → all that sampling needs of them, [B, C', H/8, W/8]."""

    def __init__(self, diffiml: DiffIML):
        super().__init__()
        self.encoder, self.denoiser = diffiml.condition_encoder, diffiml.denoiser

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.denoiser.fuse(self.encoder(image))]


class _Step(nn.Module):
    """One photo's noisy latents [N, C, h, w], timestep [1] int64, condition [1, C', h, w] → clean ones [N, C, h, w]."""

    def __init__(self, diffiml: DiffIML):
        super().__init__()
        self.denoiser = diffiml.denoiser

    def forward(self, latent: Tensor, timestep: Tensor, condition: Tensor) -> list[Tensor]:
        return [self.denoiser(latent, self.denoiser.embed(timestep), condition)]


class _Decoder(nn.Module):
    """Clean latents [B, C, h, w] → probabilities [B, 1, 8h, 8w]: the mask's and, with edge supervision, the edges'."""

    def __init__(self, diffiml: DiffIML):
        super().__init__()
        self.codec, self.reading = diffiml.codec, diffiml.config.reading
        self.targets = ("mask", "edge") if diffiml.config.edge_supervision else ("mask",)

    def forward(self, latent: Tensor) -> list[Tensor]:
        parts = latent.split(LATENT_CHANNELS, 1)
        return [self.codec.decode(part, name, self.reading) for part, name in zip(parts, self.targets, strict=True)]


def export(
    checkpoint_path: str,
    format: str,
    output_dir: str | Path,
    settings: CommonSettings,
    model: str = "",
    model_flags: dict[str, Any] | None = None,
) -> Exported:
    """Writes a DiffIML as three graphs, sample.py, which runs them, config.json and README.md, and tries them.

    Args:
        checkpoint_path, settings, model, model_flags: as `open_model` takes them; the sampling settings become the
            folder's defaults.
        format: one of `FORMATS`.
        output_dir: made if it is not there.

    Raises:
        DiffIMLError: as `open_model`; another model than DiffIML; a package that is missing; a part that cannot be
            exported, or that computes something else then; a folder that cannot be written, or is others' or of other
            weights or settings.
    """
    _require_packages(format)
    opened = open_model(checkpoint_path, settings, torch.device("cpu"), model, model_flags)
    if not opened.card.samples:
        raise DiffIMLError(f"{opened.path} holds a {opened.card.name}; only DiffIML is exported")
    with claimed(output_dir) as folder:
        weights = file_digest(opened.path)
        deciding = {"weights": weights, "format": format, **opened.flags, **asdict(opened.inputs)}
        names = (*(f"{name}{FORMATS[format]}" for name in _NAMES), CONFIG, _README, _SAMPLER)
        begin(folder, "export", deciding, [folder / name for name in names])
        return _exported(opened, weights, format, folder)


def _exported(opened: OpenedModel, weights: str, format: str, folder: Path) -> Exported:
    diffiml = method_of(opened.build().eval().to(memory_format=torch.contiguous_format)).requires_grad_(False)
    require_unchanged(opened.path, weights)
    tried = [_trial(diffiml, size) for size in _TRIED]
    _fix_padding(diffiml)
    files = [folder / f"{name}{FORMATS[format]}" for name in _NAMES]
    for file, part in zip(files, _parts(diffiml), strict=True):
        try:
            _write(part, file)
        except Exception as error:  # exporters fail in many ways, over layers that they do not know
            raise DiffIMLError(
                f"the {file.stem} of this model ({diffiml.config.encoder}, {diffiml.config.latent_codec}) cannot be "
                f"exported as {format}: {first_line(error)}"
            ) from error
    config = {"checkpoint": opened.path.name, "weights": weights, **_configuration(opened, diffiml.config, format)}
    graphs = _open(folder, format)
    masks = [numpy_sampler.sample(graphs, config, image, noise)[0] for image, noise, _ in tried]
    difference = float(max(np.abs(mask - own).max() for mask, (_, _, own) in zip(masks, tried, strict=True)))
    if not difference <= TOLERANCE:  # nan too
        raise DiffIMLError(
            f"the graphs in {folder} differ from the model by {difference:.2g}, more than {TOLERANCE:g}; "
            "do not use them, and try the other --format"
        )
    config["graphs"] = {file.stem: file_digest(file) for file in files}
    numpy_sampler.require_config(config)
    layout = Path(__file__).with_name("exported.md").read_text(encoding="utf-8")
    page = jinja2.Template(layout, trim_blocks=True, finalize=lambda value: for_markdown(str(value)))
    write_text(folder / CONFIG, json.dumps(config, indent=1) + "\n")
    write_text(folder / _README, page.render(config) + "\n")
    write_text(folder / _SAMPLER, Path(numpy_sampler.__file__).read_text(encoding="utf-8"))
    return Exported([*files, *(folder / name for name in (CONFIG, _README, _SAMPLER))], difference)


def _require_packages(format: str) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime") if format == "onnx" else ():
        if not find_spec(name):
            raise DiffIMLError(f"--format onnx needs the package {name}; pip install 'diffiml-plugin[export]'")
    if format == "torch_export" and "check_guards" not in signature(ExportedProgram.module).parameters:
        raise DiffIMLError(f"--format torch_export needs a newer torch than {torch.__version__}; pip install -U torch")


def _fix_padding(network: nn.Module) -> None:
    """Gives convolutions that work out their padding from the image's size, as TensorFlow's do, that of all our sizes.

    Their input's sides are multiples of the stride, because the image's are multiples of 32.
    """
    for name, child in network.named_children():
        if not isinstance(child, Conv2dSame):
            _fix_padding(child)
            continue
        (tall, wide), (down, across) = child.kernel_size, child.stride
        x, y = max(0, wide - across), max(0, tall - down)  # missing pixels, the odd one on the right and below
        padding = nn.ZeroPad2d((x // 2, x - x // 2, y // 2, y - y // 2))
        plain = nn.Conv2d(
            child.in_channels, child.out_channels, (tall, wide), (down, across), groups=child.groups, bias=False
        )
        plain.weight, plain.bias = child.weight, child.bias
        network.register_module(name, nn.Sequential(padding, plain))


def _parts(diffiml: DiffIML) -> list[_Part]:
    """What becomes the graphs, in the order of `_NAMES`. Sides are multiples of 32 pixels, or of 4 cells."""
    count, height, width = Dim("count"), Dim("height"), Dim("width")
    pixels = {2: SIZE_MULTIPLE * height, 3: SIZE_MULTIPLE * width}
    cells = {side: SIZE_MULTIPLE // LATENT_STRIDE * size for side, size in ((2, height), (3, width))}
    image = torch.zeros(2, 3, *_TRACED)
    latent = torch.zeros(2, diffiml.config.joint_channels, *(side // LATENT_STRIDE for side in _TRACED))
    condition = diffiml.denoiser.fuse(diffiml.condition_encoder(image[:1]))
    step = {"latent": latent, "timestep": torch.tensor([1]), "condition": condition}
    return [
        _Part(_Condition(diffiml), {"image": image}, {"image": {0: count, **pixels}}),
        _Part(_Step(diffiml), step, {"latent": {0: count, **cells}, "timestep": {}, "condition": cells}),
        _Part(_Decoder(diffiml), {"latent": latent}, {"latent": {0: count, **cells}}),
    ]


def _write(part: _Part, file: Path) -> None:
    program = torch.export.export(part.module.eval(), tuple(part.arguments.values()), dynamic_shapes=part.sides)
    with replacing(file) as opened:
        if file.suffix == FORMATS["torch_export"]:
            torch.export.save(program, opened)
        else:  # with the weights in the one file
            graph = torch.onnx.export(program, (), input_names=list(part.arguments), verbose=False)
            opened.write(cast(Any, graph).model_proto.SerializeToString())


def _open(folder: Path, format: str) -> numpy_sampler.Graphs:
    """The graphs read back, as functions from arrays to arrays."""
    if format == "onnx":
        return {name: numpy_sampler.open_graph(folder / f"{name}{FORMATS[format]}") for name in _NAMES}

    def graph(name: str) -> numpy_sampler.Graph:  # its guards ask for sides that are no 1 on any level, needlessly
        module = torch.export.load(folder / f"{name}{FORMATS[format]}").module(check_guards=False)
        return lambda *arrays: [tensor.numpy() for tensor in module(*map(torch.from_numpy, arrays))]

    return {name: graph(name) for name in _NAMES}


def _configuration(opened: OpenedModel, config: DiffIMLConfig, format: str) -> dict[str, Any]:
    """The content of config.json."""
    inputs = asdict(opened.inputs)
    metadata = read_metadata(opened.path) if opened.path.suffix == ".safetensors" else {}
    return {
        "format": format,
        "model": {
            "exported_by": f"diffiml-plugin {__version__}",
            **{name: metadata[name] for name in ("data", "licence", "limits") if name in metadata},
        },
        "input": {
            **{name: inputs[name] for name in ("image_size", "if_padding", "padding_mode")},
            "multiple": SIZE_MULTIPLE,
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
        },
        "schedule": {name: getattr(config, name) for name in ("num_train_timesteps", "beta_start", "beta_end")},
        "sampling": {
            **{name: getattr(config, name) for name in _SAMPLING},
            "latent_channels": config.joint_channels,
            "latent_stride": LATENT_STRIDE,
        },
        "threshold": THRESHOLD if opened.threshold is None else opened.threshold,
    }


def _trial(diffiml: DiffIML, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A random image [1, 3, h, w], noise [V, D, N, C, h/8, w/8], and the probability [h, w] that the model gives."""
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    noise = diffiml.draw_noise(["tried"], size)[0]
    return image.numpy(), noise.numpy(), diffiml.predict(image, ["tried"]).probability[0, 0].numpy()
