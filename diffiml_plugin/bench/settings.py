"""The settings of training and testing. Each field is a flag; where IMDLBenCo has one it keeps its name."""

from dataclasses import dataclass, field
from typing import Any

from diffiml_plugin.errors import DiffIMLError, nearest

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
STRENGTHS = ("realistic", "visible")  # of tampering; bench.tamper
PADDING_MODES = ("constant", "reflect")
AUGMENTATIONS = ("mvss", "turns")
DEVICES = ("auto", "cuda", "cpu")


def flag(default: Any, text: str, choices: tuple[str, ...] | None = None, alias: str = "") -> Any:
    """A dataclass field that says how its flag looks: its help, its allowed values and another name for it."""
    return field(default=default, metadata={"help": text, "choices": choices, "alias": alias})


@dataclass(frozen=True)
class CommonSettings:
    """The flags that training and testing share."""

    image_size: int | None = flag(None, "side in pixels that images are brought to (512; for a checkpoint, its own)")
    if_resizing: bool = flag(False, "resize images to the size (the default)")
    if_padding: bool | None = flag(None, "pad images to the size instead; only real pixels are scored (false; for a "
                                   "checkpoint, its own)")
    padding_mode: str | None = flag(None, "of padded test images: constant: black, to a square; reflect: mirrored, to "
                                    "a frame of their own, which suits training with --crop_size", PADDING_MODES)
    edge_mask_width: int | None = flag(None, "give models the framework's edge band, so many pixels wide (MVSSNet: 7)")
    if_predict_label: bool = flag(False, "train the model's image-level head too, where it has one")
    no_model_eval: bool = flag(False, "test in training mode, as the framework's MVSSNet scripts do")
    test_batch_size: int = flag(8, "images per process and forward pass when testing")
    num_workers: int | None = flag(None, "loader processes per process (the cores at hand, at most 8)")
    device: str = flag("auto", "where to compute", DEVICES)
    gpus: int | None = flag(None, "start this many processes, one on each GPU (one)")
    output_dir: str = flag("./output_dir", "folder for everything that is written")
    seed: int = flag(42, "of data order, augmentation, initial weights and training noise")

    def __post_init__(self):
        for name in ("image_size", "edge_mask_width", "test_batch_size", "gpus"):
            _require(self, name, lambda value: value is None or value >= 1, "a positive number")
        for name in ("num_workers", "seed"):
            _require(self, name, lambda value: value is None or value >= 0, "0 or more")
        for entry in type(self).__dataclass_fields__.values():
            name, choices, value = entry.name, entry.metadata["choices"], getattr(self, entry.name)
            if choices and value is not None and value not in choices:
                raise DiffIMLError(f"--{name} {value} is not one of {', '.join(choices)}{nearest(value, choices)}")
        if self.if_padding and self.if_resizing:
            raise DiffIMLError("--if_padding and --if_resizing exclude each other; give one of them")


@dataclass(frozen=True)
class TrainSettings(CommonSettings):
    """The flags of `benco train`; the defaults are the paper's protocol, but for the encoder's start.

    Raises DiffIMLError out of range.
    """

    model: str = flag("DiffIML", "name in the framework's registry; empty: that of --checkpoint_path")
    data_path: str = flag("", "training set: a folder with Tp/ and Gt/, a JSON list, a balanced JSON, or synth:FOLDER")
    checkpoint_path: str = flag("", "weights to start from, with their model's flags: a file, a run's folder, or small")
    samples_per_set: int = flag(1840, "images of each set of a balanced JSON per epoch")
    synth_kinds: str = flag("splice,copy_move,removal", "manipulations that synth:FOLDER draws from")
    synth_authentic: float = flag(0.1, "share of the images of synth:FOLDER that is compressed, but not tampered")
    synth_strength: str = flag("realistic", "of synth:FOLDER; visible: large, recoloured, little compressed", STRENGTHS)
    synth_window: int | None = flag(None, "synth:FOLDER tampers squares of so many pixels, cut from the photographs")
    augmentation: str = flag("mvss", "mvss: after MVSS-Net; turns: mirrored and turned by right angles alone, which "
                             "leaves fine traces whole", AUGMENTATIONS)
    crop_size: int | None = flag(None, "train on random windows of so many pixels, at the images' own resolution; "
                                 "needs --if_padding")
    test_data_path: str = flag("", "validation set: a folder, a JSON list, or a JSON of {name: path}")
    batch_size: int = flag(16, "images per process and forward pass")
    total_batch_size: int = flag(128, "images per optimizer step; gradient accumulation is derived from it")
    epochs: int = flag(200, "passes over the training set")
    lr: float = flag(1e-4, "peak learning rate of AdamW")
    min_lr: float = flag(0.0, "learning rate at the end of the cosine")
    warmup_epochs: int = flag(0, "epochs of linear warm-up before the cosine")
    weight_decay: float = flag(0.05, "of AdamW; not applied to biases and norms")
    ema_decay: float = flag(0.0, "keep a moving average of the weights, and test and store that (0: off; 0.999)")
    precision: str = flag("auto", "of training: bf16 where CUDA has it, else fp16 on CUDA, fp32 on the CPU", PRECISIONS)
    test_period: int = flag(4, "epochs between validations")
    save_period: int = flag(25, "epochs between kept checkpoints")
    log_per_epoch_count: int = flag(20, "loss points per epoch in TensorBoard")
    log_dir: str = flag("", "folder for TensorBoard (output_dir)")
    find_unused_parameters: bool = flag(False, "let DDP search for parameters a step did not use")
    resume: str = flag("", "auto continues the run in output_dir, if there is one; or a training_state.pt")

    def __post_init__(self):
        super().__post_init__()
        for name in ("batch_size", "total_batch_size", "epochs", "test_period", "save_period", "log_per_epoch_count",
                     "samples_per_set"):
            _require(self, name, lambda value: value >= 1, "a positive number")
        for name in ("crop_size", "synth_window"):
            _require(self, name, lambda value: value is None or value >= 1, "a positive number")
        _require(self, "synth_authentic", lambda value: 0 <= value <= 1, "0 to 1")
        _require(self, "warmup_epochs", lambda value: 0 <= value < self.epochs, f"0 to {self.epochs - 1}")
        _require(self, "lr", lambda value: value > 0, "above 0")
        _require(self, "min_lr", lambda value: 0 <= value <= self.lr, f"0 to --lr {self.lr}")
        _require(self, "weight_decay", lambda value: value >= 0, "0 or more")
        _require(self, "ema_decay", lambda value: 0 <= value < 1, "0 to below 1")


@dataclass(frozen=True)
class TestSettings(CommonSettings):
    """The flags of `benco test`. Raises DiffIMLError out of range."""

    __test__ = False  # pytest: no test class

    model: str = flag("", "name in the framework's registry (the checkpoint's)")
    checkpoint_path: str = flag("", "weights to test: a file, a training run's folder (its best.safetensors), or small")
    test_data_path: str = flag("", "test sets: a folder with Tp/ and Gt/, a JSON list, or a JSON of {name: path}",
                               alias="test_data_json")
    precision: str = flag("fp32", "of the forward pass", PRECISIONS)
    tta: bool | None = flag(None, "average the predictions of an image and of its mirror image")
    experiment: str = flag("", "rows of `benco report` that this fills, such as 'table5/DiffIML table6d/on'")


def _require(settings: CommonSettings, name: str, holds, expected: str) -> None:
    if not holds(getattr(settings, name)):
        raise DiffIMLError(f"--{name} {getattr(settings, name)} must be {expected}")
