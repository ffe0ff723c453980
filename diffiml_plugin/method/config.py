"""Every constant of the method, with its unit and its equation. Imports nothing heavy."""

from dataclasses import dataclass, field
from typing import Any

from diffiml_plugin.errors import DiffIMLError, nearest

DENOISERS = ("light", "release")
SAMPLERS = ("ddim", "ancestral")
TIMESTEP_SPACINGS = ("trailing", "leading")
ENSEMBLE_SPACES = ("latent", "pixel")
TTA_FUSIONS = ("mean", "max")
EDGE_TARGETS = ("canny", "band")
READINGS = {  # of a codec's decoded value, as a probability: the first is the codec's own
    "lightvae": ("sigmoid",),  # its values are logits
    "lightvae-release": ("sigmoid", "clamp"),  # its values aim at -1 and +1, and yet
    "sd-vae": ("clamp", "sigmoid"),
}
LATENT_CODECS = tuple(READINGS)
LATENT_STRIDE = 8  # pixels per latent cell, of every codec
LATENT_SCALE = 0.18215  # of Stable Diffusion's latents, and of the release's codec
LATENT_CHANNELS = 4  # per target: mask, edge
SIZE_MULTIPLE = 32  # pixels; the coarsest encoder stage
_LEAST_BETA = 1e-6  # 1 - beta is less than 1 in float32
_LEAST_SIGNAL = 2e-45  # more than 0 in float32, in which alphas_cumprod is kept


def _setting(default: Any, text: str) -> Any:
    """A field whose text is also the help of its flag."""
    return field(default=default, metadata={"help": text})


def true_or_false(text: str) -> bool:
    """A truth value as people write it; `bool("false")` is True. Raises DiffIMLError for another word."""
    word = str(text).lower()
    if word not in ("true", "yes", "1", "false", "no", "0"):
        raise DiffIMLError(f"{text!r} is neither true nor false")
    return word in ("true", "yes", "1")


@dataclass(frozen=True)
class EncoderConfig:
    """The condition encoder's settings. Raises DiffIMLError for a rank outside [0, 1024]."""

    encoder: str = _setting(
        "segformer_b3",
        "condition encoder: segformer_b0 to _b5, a timm model (plain vision transformers too), or srm_ before one",
    )
    freeze_encoder: bool = _setting(False, "keep the encoder's pretrained weights as they are, and train the rest")
    lora: int = _setting(0, "rank of low-rank changes to the attention of the encoder, else frozen (0: none; see peft)")

    def __post_init__(self) -> None:
        if not 0 <= self.lora <= 1024:
            raise DiffIMLError(f"lora={self.lora} is a rank: expected 0 for none, or up to 1024, such as 16")


@dataclass(frozen=True)
class DiffIMLConfig(EncoderConfig):
    """The method's settings; the defaults are the paper's unless the text says otherwise.

    Raises:
        DiffIMLError: a value outside its range, with the range.
    """

    denoiser: str = _setting("release", "release: the authors' U-Net | light: ours, a tenth of the work of a call")
    latent_codec: str = _setting("lightvae", "latent codec: lightvae: ours | lightvae-release: the authors' | sd-vae")
    codec_layout: str = _setting(
        "",
        "of a codec's weights that are not its usual ones: the width (19) of lightvae; "
        "width-norm-activation (32-batch-relu) of lightvae-release",
    )
    edge_supervision: bool = _setting(True, "joint latent concat[z_mask, z_edge]; false: the mask latent alone")
    edge_target: str = _setting(
        "canny",
        "canny: Eq. 7, drawn at the input's size | band: the framework's, drawn at the photograph's own size, which "
        "the release trains on and which needs --edge_mask_width 7",
    )
    prior_rate: float = _setting(0.1, "lambda of Eq. 15, in latent standard deviations")
    seg_weight: float = _setting(0.2, "alpha of Eq. 10: share of the mask term, in [0, 1]")
    timestep_power: float = _setting(1.0, "k: training draws t as T u^(1/k), u uniform; 1: the paper's, above: noisier")
    finetune: str = _setting(
        "", "decoded: train the prediction in one step end to end, on the maps that it decodes to (--preset fast)"
    )
    num_train_timesteps: int = _setting(1000, "T, steps of the schedule")
    beta_start: float = _setting(1e-4, "linear schedule, variance of the first step")
    beta_end: float = _setting(0.02, "variance of the last step")
    sampler: str = _setting("ddim", "ddim (sigma = 0) | ancestral (Eq. 3-5)")
    num_inference_steps: int = _setting(8, "S, sampling steps")
    timestep_spacing: str = _setting("trailing", "trailing: from t = T-1 | leading: down to t = 0, as the release does")
    clip_latents: float = _setting(0.0, "bound on the clean estimate in each step (0: none; 1: the release's)")
    ensemble_size: int = _setting(5, "N, members whose latents are averaged (Alg. 2)")
    ensemble_space: str = _setting(
        "latent", "where members are averaged: latent (Alg. 2; decodes once) | pixel: their decoded probabilities"
    )
    tta: bool = _setting(False, "fuse with the prediction of the mirrored image")
    tta_fusion: str = _setting("mean", "of both views' probabilities: mean | max (the release's)")
    mask_bias: float = _setting(
        0.0, "added to the logit of the mask's probability: brings a model's own threshold to 0.5 (0: the paper's)"
    )
    mask_reading: str = _setting(
        "auto", "probability of a decoded value v: sigmoid | clamp: (v + 1) / 2 cut to [0, 1] | auto: the codec's own"
    )
    noise_seed: int = _setting(0, "key of the sampling noise, beside the image's content and the member")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.denoiser == "paper":
            raise DiffIMLError(
                "denoiser='paper' is no longer built: it fused the last encoder stage alone, which no one "
                "has published; take release, the authors' network, and train it anew"
            )
        for name, allowed in (
            ("denoiser", DENOISERS),
            ("latent_codec", LATENT_CODECS),
            ("sampler", SAMPLERS),
            ("finetune", ("", "decoded")),
            ("timestep_spacing", TIMESTEP_SPACINGS),
            ("ensemble_space", ENSEMBLE_SPACES),
            ("tta_fusion", TTA_FUSIONS),
            ("edge_target", EDGE_TARGETS),
            ("mask_reading", ("auto", *READINGS.get(self.latent_codec, ()))),
        ):
            value = getattr(self, name)
            if value not in allowed:
                raise DiffIMLError(f"{name}={value!r} is not one of {', '.join(allowed)}{nearest(value, allowed)}")
        for name, low, high in (
            ("prior_rate", 0, 10),
            ("seg_weight", 0, 1),
            ("timestep_power", 1, 100),
            ("num_train_timesteps", 1, 10_000),
            ("num_inference_steps", 1, self.num_train_timesteps),
            ("clip_latents", 0, 1000),
            ("mask_bias", -10, 10),
            ("ensemble_size", 1, 100),
            ("beta_end", _LEAST_BETA, 1),
            ("beta_start", _LEAST_BETA, self.beta_end),
        ):
            if not low <= getattr(self, name) <= high:
                raise DiffIMLError(f"{name}={getattr(self, name)} is outside [{low}, {high}]")
        # No more than the last alphas_cumprod, since log(1 - beta) is concave in beta.
        signal = ((1 - self.beta_start) * (1 - self.beta_end)) ** (self.num_train_timesteps / 2)
        if signal < _LEAST_SIGNAL:
            raise DiffIMLError(
                f"num_train_timesteps={self.num_train_timesteps} of beta_start={self.beta_start} to "
                f"beta_end={self.beta_end} leave nothing of a latent, and sampling would divide by zero; "
                "expected a smaller beta_end, or fewer steps"
            )
        if self.clip_latents and self.latent_codec == "lightvae":
            raise DiffIMLError(
                f"clip_latents={self.clip_latents} does not suit latent_codec='lightvae': its latents "
                "have unit variance, of which a bound cuts off a part (1 costs 0.47 F1); expected 0"
            )

    @property
    def joint_channels(self) -> int:
        """Channels of z0: 4 for the mask, and 4 more for the edge map when it is supervised."""
        return LATENT_CHANNELS * (2 if self.edge_supervision else 1)

    @property
    def reading(self) -> str:
        """`mask_reading`, or the codec's own where that is "auto"."""
        return READINGS[self.latent_codec][0] if self.mask_reading == "auto" else self.mask_reading


# What a stored model is: these fields fix its weights' shapes or the meaning of its latents.
ARCHITECTURE_FIELDS = (
    "encoder",
    "lora",
    "denoiser",
    "latent_codec",
    "codec_layout",
    "edge_supervision",
    "num_train_timesteps",
    "beta_start",
    "beta_end",
)
# Of no use once a model is trained.
TRAINING_FIELDS = ("edge_target", "finetune", "freeze_encoder", "prior_rate", "seg_weight", "timestep_power")
