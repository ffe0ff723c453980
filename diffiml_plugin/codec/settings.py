"""The settings of training LightVAE; each field is a flag of `benco distill`."""

from dataclasses import dataclass

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.settings import flag


@dataclass(frozen=True)
class DistillSettings:
    """The flags of the training itself. Raises DiffIMLError out of range."""

    latent_codec: str = flag(
        "lightvae", "lightvae: ours | lightvae-release: the authors', by their loss", ("lightvae", "lightvae-release")
    )
    student: str = flag("", "LightVAE weights to go on from, whose width counts (none: random ones)")
    width: int | None = flag(
        None, "channels at half resolution (19: 0.071 M parameters; lightvae-release: 32, 0.196 M)"
    )
    latent_weight: float = flag(1e-3, "lambda_lat of Eq. 6; without a teacher, of the latents' mean square")
    noise: float = flag(0.35, "of lightvae: highest standard deviation of the noise on unit-variance latents")
    mean_weight: float = flag(
        2.0, "of lightvae: of the error of decoded means of latents against means of their maps (0: off)"
    )
    mean_members: int = flag(5, "most latents in such a mean; each is of 2 to so many")
    edge_share: float = flag(1 / 3, "share of edge maps (Eq. 7) in a batch")
    image_size: int = flag(512, "side of the maps in pixels, of one step in four; the others see windows of half of it")
    batch_size: int = flag(12, "windows per step (a quarter as many whole maps)")
    steps: int = flag(20_000, "optimizer steps")
    minutes: float = flag(0.0, "stop after so long at the latest; the rate's decay is fitted to it (0: no limit)")
    lr: float = flag(2e-3, "peak learning rate of AdamW, decayed by a cosine")
    weight_decay: float = flag(1e-4, "of AdamW")
    precision: str = flag("fp32", "of the forward pass", ("fp32", "bf16"))
    checks: int = flag(12, "validations, and stored weights, of a run")
    num_workers: int | None = flag(None, "processes that draw masks (the cores at hand, at most 8)")
    resume: str = flag("", "auto goes on with the run in output_dir, if there is one")
    seed: int = flag(0, "of masks, initial weights and noise")

    def __post_init__(self) -> None:
        ranges = {
            "width": (1, 1024),
            "noise": (0, 10),
            "mean_weight": (0, 10**3),
            "mean_members": (2, 100),
            "edge_share": (0, 0.9),
            "image_size": (32, 4096),
            "batch_size": (8, 4096),
            "steps": (1, 10**8),
            "latent_weight": (0, float("inf")),
            "minutes": (0, 10**5),
            "lr": (0, 1),
            "weight_decay": (0, 1),
            "checks": (1, 10**4),
            "num_workers": (0, 1024),
            "seed": (0, 2**32 - 1),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise DiffIMLError(f"--{name} {value} is outside [{low}, {high}]")
        if self.resume not in ("", "auto"):
            raise DiffIMLError(f"--resume {self.resume}: expected auto, and the run's folder as --output_dir")
        if self.image_size % 16:
            raise DiffIMLError(f"--image_size {self.image_size} is not a multiple of 16")
