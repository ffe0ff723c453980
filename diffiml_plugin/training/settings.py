"""The settings of training. Each field is a flag; where IMDLBenCo has one it keeps its name."""

import re
from dataclasses import dataclass

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.settings import (
    DATA,
    MODEL,
    OPTIMIZATION,
    PRECISIONS,
    RUN,
    STREAM,
    WRITTEN,
    CommonSettings,
    flag,
    require,
    require_counts,
)
from diffiml_plugin.tampering.settings import LARGEST_WINDOW

AUGMENTATIONS = ("mvss", "turns")


@dataclass(frozen=True)
class TrainSettings(CommonSettings):
    """The flags of `benco train`; the defaults are the paper's protocol, but for the encoder's start.

    Raises DiffIMLError out of range.
    """

    model: str = flag("DiffIML", "name in the framework's registry; empty: that of --checkpoint_path", group=MODEL)
    data_path: str = flag(
        "", "training set: a folder with Tp/ and Gt/, a JSON list, a balanced JSON, or synth:FOLDER", group=DATA
    )
    checkpoint_path: str = flag(
        "", "weights to start from, with their model's flags: a file, a run's folder, or small", group=MODEL
    )
    samples_per_set: int = flag(1840, "images of each set of a balanced JSON per epoch", group=DATA)
    synth_kinds: str = flag(
        "",
        "manipulations that synth:FOLDER draws from: splice,copy_move,removal and, in styles, text (all)",
        group=STREAM,
    )
    synth_authentic: float = flag(
        0.1, "share of the images of synth:FOLDER that is compressed, but not tampered", group=STREAM
    )
    synth_strength: str = flag(
        "realistic",
        "of synth:FOLDER; visible: large, recoloured, little compressed; world: in "
        "many styles, with what happens to pictures before and after; or a YAML file of styles",
        group=STREAM,
    )
    synth_samples: int | None = flag(None, "images of synth:FOLDER per epoch (one for each photograph)", group=STREAM)
    synth_window: int | None = flag(
        None, "synth:FOLDER tampers squares of so many pixels, cut from the photographs", group=STREAM
    )
    synth_windows: str = flag(
        "",
        "both --synth_window and --crop_size, of several sizes in turns, as 256,384,512; --batch_size is of the "
        "first, and all batches have as many pixels",
        group=STREAM,
    )
    augmentation: str = flag(
        "mvss",
        "mvss: after MVSS-Net; turns: mirrored and turned by right angles alone, which leaves fine traces whole",
        AUGMENTATIONS,
        group=DATA,
    )
    crop_size: int | None = flag(
        None, "train on random windows of so many pixels, at the images' own resolution; needs --if_padding", group=DATA
    )
    cache: str = flag(
        "",
        "folder of decoded images, 3 bytes a pixel, for later epochs and runs; may be emptied (none)",
        group=DATA,
    )
    test_data_path: str = flag("", "validation set: a folder, a JSON list, or a JSON of {name: path}", group=DATA)
    batch_size: int = flag(16, "images per process and forward pass", group=OPTIMIZATION)
    total_batch_size: int = flag(
        128, "images per optimizer step; gradient accumulation is derived from it", group=OPTIMIZATION
    )
    epochs: int = flag(200, "passes over the training set", group=OPTIMIZATION)
    lr: float = flag(1e-4, "peak learning rate of AdamW", group=OPTIMIZATION)
    encoder_lr: float | None = flag(
        None, "peak learning rate of the condition encoder's pretrained part (that of all)", group=OPTIMIZATION
    )
    min_lr: float = flag(0.0, "learning rate at the end of the cosine", group=OPTIMIZATION)
    warmup_epochs: int = flag(0, "epochs of linear warm-up before the cosine", group=OPTIMIZATION)
    weight_decay: float = flag(0.05, "of AdamW; not applied to biases and norms", group=OPTIMIZATION)
    ema_decay: float = flag(
        0.0, "keep a moving average of the weights, and test and store that (0: off; 0.999)", group=OPTIMIZATION
    )
    precision: str = flag(
        "auto",
        "of training: bf16 where CUDA has it, else fp16 on CUDA, fp32 on the CPU",
        PRECISIONS,
        group=OPTIMIZATION,
    )
    test_period: int = flag(4, "epochs between validations", group=WRITTEN)
    save_period: int = flag(25, "epochs between kept checkpoints", group=WRITTEN)
    save_minutes: float = flag(
        10.0, "minutes between stored states inside an epoch, to go on from (0: at its end only)", group=WRITTEN
    )
    log_per_epoch_count: int = flag(20, "loss points per epoch in TensorBoard", group=WRITTEN)
    log_dir: str = flag("", "folder for TensorBoard, in which each run has its own (output_dir itself)", group=WRITTEN)
    checkpoint_encoder: bool = flag(
        False, "keep no activations of the encoder's blocks: a third slower, and half the memory or less", group=RUN
    )
    deterministic: bool = flag(
        False, "the same weights to the bit on any number of cores: one thread, deterministic algorithms", group=RUN
    )
    find_unused_parameters: bool = flag(False, "let DDP search for parameters a step did not use", group=RUN)
    resume: str = flag(
        "", "auto continues the run in output_dir, if there is one; or a training_state.pt", group=WRITTEN
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_counts(self, "batch_size", "total_batch_size", "epochs", "test_period", "save_period")
        require_counts(self, "log_per_epoch_count", "samples_per_set", "crop_size", "synth_window", "synth_samples")
        require(
            self,
            "synth_windows",
            lambda value: bool(re.fullmatch(r"([1-9]\d{0,3}(,[1-9]\d{0,3})*)?", value)),
            "sides in pixels, as 256,384,512",
        )
        if self.synth_windows:
            if self.synth_window or self.crop_size:
                raise DiffIMLError("--synth_windows says --synth_window and --crop_size too; leave those out")
            within = max(self.windows) <= LARGEST_WINDOW
            require(self, "synth_windows", lambda _: within, f"sides of at most {LARGEST_WINDOW} pixels")
        for folder in ("cache", "log_dir"):
            require(self, folder, lambda value: value.partition("/")[0] != "~", "written out: no shell expands that ~")
        require(self, "save_minutes", lambda value: value >= 0, "0 or more")
        require(self, "synth_authentic", lambda value: 0 <= value <= 1, "0 to 1")
        require(self, "warmup_epochs", lambda value: 0 <= value < self.epochs, f"0 to {self.epochs - 1}")
        require(self, "lr", lambda value: 0 < value <= 1, "above 0, at most 1")
        require(self, "encoder_lr", lambda value: value is None or 0 < value <= 1, "above 0, at most 1")
        require(self, "min_lr", lambda value: 0 <= value <= self.lr, f"0 to --lr {self.lr}")
        require(self, "weight_decay", lambda value: value >= 0, "0 or more")
        require(self, "ema_decay", lambda value: 0 <= value < 1, "0 to below 1")

    @property
    def windows_setting(self) -> str:
        """The setting that says `windows`."""
        return "crop_size" if self.crop_size else "synth_windows"

    @property
    def windows(self) -> list[int]:
        """The sides of the windows that training sees, in pixels; none where it sees whole images."""
        if self.crop_size:
            return [self.crop_size]
        return [int(side) for side in self.synth_windows.split(",") if side]
