"""DiffIML: `training_loss` is Alg. 1, `predict` is Alg. 2."""

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.method.adaptation import rest_frozen
from diffiml_plugin.method.config import LATENT_CHANNELS, LATENT_STRIDE, SIZE_MULTIPLE, DiffIMLConfig
from diffiml_plugin.method.protocols import ConditionEncoder, LatentCodec
from diffiml_plugin.method.sampler import SAMPLERS, Step, keyed_noise
from diffiml_plugin.method.schedule import NoiseSchedule
from diffiml_plugin.method.unet import DENOISERS


@dataclass(frozen=True)
class TrainingLoss:
    """`loss` is the scalar to minimise; the parts are before weighting (`edge_loss` None without edges)."""

    loss: Tensor
    mask_loss: Tensor
    edge_loss: Tensor | None
    timesteps: Tensor  # [B] int64


@dataclass(frozen=True)
class Prediction:
    """Probabilities in [0, 1] at the image's size. The last three are None unless `details` was asked for.

    With test-time augmentation `members` holds the 2N members of both views, and `steps` shows the upright one.
    """

    probability: Tensor  # [B, 1, H, W]
    members: Tensor | None = None  # [B, N, 1, H, W]: each member decoded by itself
    edge: Tensor | None = None  # [B, 1, H, W]; None without edge supervision too
    steps: Tensor | None = None  # [B, S, 1, H, W]: the first member's clean estimate at each step

    @property
    def uncertainty(self) -> Tensor | None:
        """Standard deviation over the members, [B, 1, H, W] in [0, 0.5]."""
        if self.members is None:
            return None
        deviations = self.members - self.members.mean(1, keepdim=True)
        return deviations.square().mean(1).sqrt()  # several times as fast as `std` along this dimension

    def within(self, shape_mask: Tensor | None) -> "Prediction":
        """Nothing is found where `shape_mask` [B, 1, H, W] is 0: in the padding."""
        return self if shape_mask is None else replace(self, probability=self.probability * shape_mask)

    @property
    def score(self) -> Tensor:
        """Image score in [0, 1], [B]: the highest mean probability over one cell of the latent's grid."""
        return F.avg_pool2d(self.probability, LATENT_STRIDE).amax((1, 2, 3))


class DiffIML(nn.Module):
    """A conditional latent diffusion model of the manipulation mask, p(y|x).

    Args:
        config: the method's settings.
        encoder, codec: the parts beside the denoiser; each is an nn.Module too.
    """

    def __init__(self, config: DiffIMLConfig, encoder: ConditionEncoder, codec: LatentCodec):
        super().__init__()
        self.config = config
        self.condition_encoder = encoder
        self.codec = codec
        self.codec.requires_grad_(False)
        self.denoiser = DENOISERS[config.denoiser](encoder.channels, config.joint_channels)
        self.schedule = NoiseSchedule(config.num_train_timesteps, config.beta_start, config.beta_end)

    def train(self, mode: bool = True) -> "DiffIML":
        super().train(mode)
        rest_frozen(self)  # the codec always, whatever the mode
        return self

    def with_settings(self, **settings: Any) -> "DiffIML":
        """The same weights under other settings of its sampling."""
        other = copy(self)
        other.__dict__.pop("forward", None)  # a captured one is of these settings
        other.config = replace(self.config, **settings)
        return other

    def training_loss(self, image: Tensor, mask: Tensor, edge: Tensor | None = None) -> TrainingLoss:
        """Alg. 1: the latent loss of Eq. 8-10 at a random timestep for each image.

        Args:
            image: [B, 3, H, W], ImageNet-normalised; sides are multiples of 32.
            mask, edge: [B, 1, H, W] in {0, 1}; the edge map (Eq. 7) only with edge supervision.
        """
        check_image(image)
        # 1. The clean joint latent.
        z0 = self._encode_targets(mask, edge)  # [B, 8, h, w]
        # 2. Noise it, with the error prior (Eq. 15).
        t = self._draw_timesteps(len(image)).to(image.device)  # [B]
        noise, prior = torch.randn_like(z0), torch.randn_like(z0)
        zt = self.schedule.add_noise(z0, t, noise, prior, self.config.prior_rate)  # [B, 8, h, w]
        # 3. Predict it back under the condition.
        fused = self.denoiser.fuse(self.condition_encoder(image))
        estimate = self.denoiser(zt, self.denoiser.embed(t), fused).float()  # [B, 8, h, w]
        # 4. Weigh the mask's error against the edge's.
        parts = (torch.split(z, LATENT_CHANNELS, 1) for z in (estimate, z0))  # of the mask, of the edge map
        return self._weighed([F.mse_loss(mine, its) for mine, its in zip(*parts, strict=True)], t)

    def decoded_loss(self, image: Tensor, mask: Tensor, edge: Tensor | None = None) -> TrainingLoss:
        """Fine-tuning of the one-step prediction, end to end, on the maps that it decodes to.

        After Garcia et al., "Fine-tuning image-conditional diffusion models is easier than you think" (2024): sampling
        with S = 1 is run as it is in prediction, with gradients; the error is that of pixels, weighed as in Eq. 10.

        Args:
            image, mask, edge: as `training_loss` takes them.

        Raises:
            DiffIMLError: more than one sampling step.
        """
        check_image(image)
        if self.config.num_inference_steps != 1:
            raise DiffIMLError(
                f"num_inference_steps={self.config.num_inference_steps}: finetune='decoded' trains the prediction in "
                "one step; expected 1, as --preset fast says"
            )
        # 1. The clean latent, from pure noise in one step.
        size = [side // LATENT_STRIDE for side in image.shape[-2:]]
        noise = torch.randn(len(image), 1, 1, self.config.joint_channels, *size, device=image.device)
        fused = self.denoiser.fuse(self.condition_encoder(image))
        estimate = self._sample(fused, noise, self._steps())[-1][:, 0]  # [B, 8, h, w]
        # 2. The maps that it decodes to, against the true ones.
        maps = self._target_maps(mask, edge)
        errors = [self._pixel_error(estimate, y, target) for target, y in maps.items()]
        ((t, _, _),) = self.schedule.respaced(1, self.config.timestep_spacing)
        return self._weighed(errors, self.schedule.timesteps[t].expand(len(image)))

    def _weighed(self, errors: Sequence[Tensor], timesteps: Tensor) -> TrainingLoss:
        """Eq. 10, of the mask's error and, with edge supervision, the edge map's."""
        if len(errors) == 1:
            return TrainingLoss(errors[0], errors[0], None, timesteps)
        mask_loss, edge_loss = errors
        alpha = self.config.seg_weight
        return TrainingLoss(alpha * mask_loss + (1 - alpha) * edge_loss, mask_loss, edge_loss, timesteps)

    def _pixel_error(self, z: Tensor, y: Tensor, target: str) -> Tensor:
        """Of a decoded map, before it is a probability: cross-entropy of a logit, or squared, of what aims at ±1."""
        value = self._decode(z, target, "value")  # [B, 1, H, W]
        if self.config.reading == "sigmoid":
            return F.binary_cross_entropy_with_logits(value, y.float())
        return F.mse_loss(value / 2 + 0.5, y.float())

    def predict(
        self,
        image: Tensor,
        keys: Sequence[str] | None,
        details: bool = False,
        members: bool = False,
        noise: Tensor | None = None,
    ) -> Prediction:
        """Alg. 2: encode the condition once, sample N latents for each image, average them, decode once.

        With `ensemble_space` "pixel" each is decoded, and the probabilities are averaged.

        Args:
            image: [B, 3, H, W], ImageNet-normalised; sides are multiples of 32.
            keys: one for each image; with `config.noise_seed` and the member it decides the noise, so that a
                prediction depends on nothing else in the batch.
            details: give members, edge and steps too (each is decoded: N + S + 1 times the decoder's cost).
            members: give the members, and with them the uncertainty, but no other detail.
            noise: of `draw_noise`, where it is drawn already, as of a part of a larger image; `keys` do not count then.

        Raises:
            DiffIMLError: an unusable image; not one key for each; noise of another shape.
        """
        check_image(image)
        if noise is None:
            words = [*keys] if isinstance(keys, Iterable) and not isinstance(keys, str) else []
            if len(words) != len(image) or not all(isinstance(key, str) for key in words):
                raise DiffIMLError(f"keys={keys!r}: expected a list of {len(image)} strings, one for each image")
            noise = self.draw_noise(words, image.shape[-2:])
        elif not isinstance(noise, Tensor):
            raise DiffIMLError(f"noise is a {type(noise).__name__}; expected a tensor, as of draw_noise")
        elif noise.shape != (expected := _noise_shape(self.config, len(image), image.shape[-2:])):
            raise DiffIMLError(f"noise has shape {tuple(noise.shape)}; expected {expected}, as of draw_noise")
        noise = noise.to(image.device, non_blocking=True)
        return self.sample(self.condition(image), noise, True) if details else Prediction(*self(image, noise, members))

    def forward(self, image: Tensor, noise: Tensor, members: bool = False) -> tuple[Tensor, ...]:
        """Alg. 2 from tensors to tensors, a single graph, which compiles and captures: `Prediction.probability`, and
        `Prediction.members` if they are asked for."""
        prediction = self.sample(self.condition(image), noise, members=members)
        if prediction.members is None:
            return (prediction.probability,)
        return prediction.probability, prediction.members

    def draw_noise(self, keys: Sequence[str], size: Sequence[int]) -> Tensor:
        """`draw_noise` of this model's settings."""
        return draw_noise(self.config, keys, size)

    @torch.no_grad()
    def condition(self, image: Tensor) -> list[Tensor]:
        """All that sampling needs of the images: [B, C, h, w] of the upright view, and with `tta` of the mirrored."""
        check_image(image)
        views = [image, image.flip(-1)] if self.config.tta else [image]
        return [self.denoiser.fuse(self.condition_encoder(view)) for view in views]

    @torch.no_grad()
    def sample(
        self, conditions: Sequence[Tensor], noise: Tensor, details: bool = False, members: bool = False
    ) -> Prediction:
        """Alg. 2 from the condition on, which serves any sampling settings; a mirrored view not wanted is left out.

        Args:
            conditions: of `condition`.
            noise: of `draw_noise`, on the same device.
            details, members: as `predict` takes them.
        """
        steps = self._steps()
        views = conditions[: 1 + self.config.tta]
        samples = [self._sample(fused, noise[:, v], steps) for v, fused in enumerate(views)]  # of [B, N, C, h, w]
        upright, latents = samples[0], [estimates[-1] for estimates in samples]
        wanted = details or members
        each = [self._decode_each(z) for z in latents] if wanted else []  # of [B, N, 1, H, W]
        shared = self.config.ensemble_space == "pixel" and wanted  # the mean is of what is decoded already
        decoded = [z.mean(1) for z in each] if shared else [self._decode_mean(z) for z in latents]  # of [B, 1, H, W]
        if self.config.tta:
            decoded[1] = decoded[1].flip(-1)
        views_of_mask = torch.stack(decoded)  # [1 or 2, B, 1, H, W]
        probability = views_of_mask.amax(0) if self.config.tta_fusion == "max" else views_of_mask.mean(0)
        if self.config.mask_bias:
            probability = (probability.logit() + self.config.mask_bias).sigmoid()
        if not wanted:
            return Prediction(probability)

        if self.config.tta:
            each[1] = each[1].flip(-1)
        decoded_members = torch.cat(each, 1)  # [B, V·N, 1, H, W]
        if not details:
            return Prediction(probability, decoded_members)
        edge = self._decode_mean(upright[-1], "edge") if self.config.edge_supervision else None
        first = torch.stack([estimate[:, 0] for estimate in upright], 1)  # [B, S, C, h, w]
        return Prediction(probability, decoded_members, edge, self._decode_each(first))

    def _draw_timesteps(self, count: int) -> Tensor:
        """[count] int64 in 0..T-1: uniform if `timestep_power` is 1, else of density k (t/T)^(k-1).

        A latent with little noise on it shows its mask, and teaches the condition encoder nothing.
        """
        share = torch.rand(count, dtype=torch.float64) ** (1 / self.config.timestep_power)
        return (share * self.config.num_train_timesteps).long().clamp(max=self.config.num_train_timesteps - 1)

    def _steps(self) -> list[Step]:
        """The sampling steps (time, abar_t, abar_next), where time [1, K] is what the denoiser is told of t."""
        respaced = self.schedule.respaced(self.config.num_inference_steps, self.config.timestep_spacing)
        timesteps = torch.cat([self.schedule.timesteps[t : t + 1] for t, _, _ in respaced])  # [S]
        times = torch.split(self.denoiser.embed(timesteps), 1)
        return [(time, abar, abar_next) for time, (_, abar, abar_next) in zip(times, respaced, strict=True)]

    def _sample(self, fused: Tensor, noise: Tensor, steps: Sequence[Step]) -> list[Tensor]:
        """One view's estimates of the members' clean latents by step, each [B, N, C, h, w]; the last is the sample.

        Args:
            fused: [B, C', h, w] of `condition`.
            noise: [B, D, N, C, h, w] of `draw_noise`.
            steps: of `_steps`.
        """

        def denoise(z: Tensor, time: Tensor) -> Tensor:
            return self.denoiser(z, time, fused).float()  # [B·N, C, h, w]

        rows = noise.movedim(1, 0).flatten(1, 2)  # [D, B·N, C, h, w]
        estimates = SAMPLERS[self.config.sampler](denoise, rows, steps, self.config.clip_latents)
        return [torch.unflatten(estimate, 0, (len(fused), -1)) for estimate in estimates]

    def _encode_targets(self, mask: Tensor, edge: Tensor | None) -> Tensor:
        """z0 [B, 4 or 8, h, w]: the mask's latent, and the edge map's behind it."""
        maps = self._target_maps(mask, edge)
        with torch.no_grad(), torch.autocast(mask.device.type, enabled=False):
            return torch.cat([self.codec.encode(y.float(), target) for target, y in maps.items()], 1)

    def _target_maps(self, mask: Tensor, edge: Tensor | None) -> dict[str, Tensor]:
        """The maps that are predicted, by the names of their parts of the latent, in its order."""
        if not self.config.edge_supervision:
            return {"mask": mask}
        if edge is None:
            raise DiffIMLError("edge supervision needs the mask's edge map (method.edges.edge_map); none was given")
        return {"mask": mask, "edge": edge}

    def _decode(self, z: Tensor, target: str = "mask", reading: str = "") -> Tensor:
        part = z[:, :LATENT_CHANNELS] if target == "mask" else z[:, LATENT_CHANNELS:]
        with torch.autocast(z.device.type, enabled=False):
            return self.codec.decode(part, target, reading or self.config.reading)

    def _decode_mean(self, z: Tensor, target: str = "mask") -> Tensor:
        """Members' latents [B, N, C, h, w] to their mean probability [B, 1, H, W], averaged in the ensemble's space."""
        if self.config.ensemble_space == "latent":
            return self._decode(z.mean(1), target)
        return self._decode_each(z, target).mean(1)

    def _decode_each(self, z: Tensor, target: str = "mask") -> Tensor:
        decoded = self._decode(z.flatten(0, 1), target)  # [B, K, C, h, w] → [B·K, 1, H, W]
        return torch.unflatten(decoded, 0, z.shape[:2])


def draw_noise(config: DiffIMLConfig, keys: Sequence[str], size: Sequence[int]) -> Tensor:
    """What `DiffIML.sample` starts from for images of those keys, [B, V, D, N, C, h, w] on the CPU: V views (2 with
    `tta`) and D draws (S for the ancestral sampler, else 1). `size` is the images' height and width in pixels.

    Runs anywhere, such as in a loader's worker while the device computes.
    """
    _, views, draws, members, *latent = _noise_shape(config, len(keys), size)
    rows = [f"{config.noise_seed}/{key}/{v}/{m}" for key in keys for v in range(views) for m in range(members)]
    noise = keyed_noise(rows, draws, latent)
    return torch.unflatten(noise, 1, (len(keys), views, members)).movedim(0, 2)


def _noise_shape(config: DiffIMLConfig, images: int, size: Sequence[int]) -> tuple[int, ...]:
    """That of `draw_noise`."""
    draws = config.num_inference_steps if config.sampler == "ancestral" else 1
    latent = (config.joint_channels, *(side // LATENT_STRIDE for side in size))
    return images, 1 + config.tta, draws, config.ensemble_size, *latent


def check_image(image: Tensor) -> None:
    """Raises DiffIMLError unless `image` is [B, 3, H, W] with sides that are multiples of 32."""
    if image.ndim != 4 or image.shape[1] != 3:
        raise DiffIMLError(f"image has shape {tuple(image.shape)}; expected [B, 3, H, W]")
    if any(side % SIZE_MULTIPLE for side in image.shape[-2:]):
        raise DiffIMLError(
            f"image sides {tuple(image.shape[-2:])} are not multiples of {SIZE_MULTIPLE}; resize or pad it"
        )
