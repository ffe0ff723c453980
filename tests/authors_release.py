"""The authors' release, stated a second time from its layer lists: plain torch, and diffusers' own classes.

Nothing of the package is used here, so that its network, codec and sampling have something to be compared with.
Tensors have the names of a checkpoint of theirs, and random values.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DModel
from torch import Tensor, nn

WIDTH = 128
SCALE = 0.18215
VARIANTS = {"b0": ((32, 64, 160, 256), (2, 2, 2, 2)), "b2": ((64, 128, 320, 512), (3, 4, 6, 3)),
            "b3": ((64, 128, 320, 512), (3, 4, 18, 3)), "b4": ((64, 128, 320, 512), (3, 8, 27, 3)),
            "b5": ((64, 128, 320, 512), (3, 6, 40, 3))}  # fmt: skip


def backbone(variant: str) -> nn.Module:
    """NVIDIA's Mix Transformer, as IMDL-BenCo has it, with random weights."""
    from IMDLBenCo.modules.backbones.segformer import MixVisionTransformer

    channels, depths = VARIANTS[variant]
    load = torch.load
    torch.load = lambda path: {}  # its constructor insists on a file
    try:
        model = MixVisionTransformer(embed_dims=list(channels), depths=list(depths))
    finally:
        torch.load = load
    model.deconv_model = nn.Identity()
    return model.eval()


def unet(latents: int = 8) -> UNet2DModel:
    return UNet2DModel(
        in_channels=latents,
        out_channels=latents,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        block_out_channels=(WIDTH,),
        layers_per_block=2,
    ).eval()


def sd_vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
    ).eval()


def checkpoint(variant: str = "b0", codec: dict[str, Tensor] | None = None, latents: int = 8) -> dict[str, Tensor]:
    """The tensors of a whole model, all of them random; `codec` as `light_vae` gives it, or of an SD VAE under vae.*"""
    tensors = {f"extractor.backbone.{key}": value for key, value in backbone(variant).state_dict().items()}
    tensors = {key: value for key, value in tensors.items() if ".deconv_model." not in key and ".head." not in key}
    for number, channels in enumerate(VARIANTS[variant][0], start=1):
        tensors |= _layer(f"extractor.linear_c{number}", torch.empty(WIDTH, channels, 1, 1))
    tensors |= _layer("extractor.linear_fuse.0", torch.empty(WIDTH, 4 * WIDTH, 3, 3), bias=False)
    tensors |= _batch_norm("extractor.linear_fuse.1", WIDTH)
    tensors |= {f"unet.unet.{key}": value for key, value in unet(latents).state_dict().items()}
    tensors |= _layer("unet.concat", torch.empty(WIDTH, 2 * WIDTH, 3, 3), bias=False)
    tensors = {key: _random(value) for key, value in tensors.items()}
    return tensors | {f"vae.{key}": value for key, value in (codec or light_vae()).items()}


def light_vae(width: int = 32, norm: str = "batch") -> dict[str, Tensor]:
    """The tensors of light_vae_weights.pth, random."""
    w = width
    norms = _batch_norm if norm == "batch" else _group_norm
    tensors = {}
    for index, (inner, outer) in zip((0, 3, 6), ((1, w), (w, 2 * w), (2 * w, 4 * w)), strict=True):
        tensors |= _layer(f"encoder.{index}", torch.empty(outer, inner, 3, 3), bias=False)
        tensors |= norms(f"encoder.{index + 1}", outer)
    tensors |= _layer("encoder.9", torch.empty(4, 4 * w, 1, 1))
    tensors |= _layer("decoder.0", torch.empty(4 * w, 4, 1, 1)) | norms("decoder.1", 4 * w)
    for index, (inner, outer) in zip((3, 6, 9), ((4 * w, 2 * w), (2 * w, w), (w, w)), strict=True):
        tensors |= _layer(f"decoder.{index}", torch.empty(inner, outer, 3, 3), bias=False)
        tensors |= norms(f"decoder.{index + 1}", outer)
    tensors |= _layer("decoder.12", torch.empty(1, w, 3, 3))
    return {key: _random(value) for key, value in tensors.items()}


def averaging_light_vae(width: int = 8) -> dict[str, Tensor]:
    """A codec that works without training: its first channel is the share of the mask nearby, the others are silent.

    Its values are small, where SiLU halves what ReLU lets through: read with the wrong activation it finds nothing.
    """
    tensors = {key: torch.zeros_like(value) for key, value in light_vae(width).items()}
    tensors |= {key: torch.ones_like(value) for key, value in tensors.items() if key.endswith("running_var")}
    line = torch.tensor([1.0, 2.0, 1.0]) / 4
    for coder, blocks, blur in (("encoder", (0, 3, 6), line), ("decoder", (3, 6, 9), 2 * line)):
        for index in blocks:
            tensors[f"{coder}.{index}.weight"][0, 0] = torch.outer(blur, blur)
            tensors[f"{coder}.{index + 1}.weight"][0] = 1
    tensors["encoder.1.running_mean"][0] = -1  # from -1 and +1 to 0 and 2
    tensors["encoder.1.weight"][0] = 0.01
    tensors["encoder.9.weight"][0, 0] = tensors["decoder.0.weight"][0, 0] = tensors["decoder.1.weight"][0] = 1
    tensors["decoder.12.weight"][0, 0, 1, 1] = 100
    tensors["decoder.12.bias"][0] = -1
    return tensors


class Release:
    """What their code computes from the tensors of a checkpoint."""

    def __init__(self, tensors: dict[str, Tensor], variant: str = "b0"):
        self.tensors = tensors
        self.backbone = backbone(variant)
        self.backbone.load_state_dict(self._under("extractor.backbone."), strict=False)
        self.unet = unet(tensors["unet.unet.conv_in.weight"].shape[1])
        self.unet.load_state_dict(self._under("unet.unet."))
        self.vae = None
        if "vae.vae.encoder.conv_in.weight" in tensors:
            self.vae = sd_vae()
            self.vae.load_state_dict(self._under("vae.vae."))

    def _under(self, prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}

    @torch.no_grad()
    def stages(self, image: Tensor) -> list[Tensor]:
        """The four maps [B, C_i, H/s, W/s]."""
        found, hooks = [], []
        for number in range(1, 5):
            norm = getattr(self.backbone, f"norm{number}")
            hooks.append(norm.register_forward_hook(lambda module, inputs, output: found.append(output)))
        height, width = image.shape[-2:]
        self.backbone(
            image, torch.zeros(len(image), self.backbone.norm4.normalized_shape[0], height // 32, width // 32)
        )
        for hook in hooks:
            hook.remove()
        return [
            x.transpose(1, 2).unflatten(2, (height // stride, width // stride))
            for x, stride in zip(found, (4, 8, 16, 32), strict=True)
        ]

    @torch.no_grad()
    def condition(self, image: Tensor) -> Tensor:
        """[B, 128, H/8, W/8]; theirs is 64×64 whatever the image, which is the same at 512×512."""
        size, maps = [side // 8 for side in image.shape[-2:]], []
        for number, features in enumerate(self.stages(image), start=1):
            x = self._convolve(f"extractor.linear_c{number}", features)
            maps.append(F.interpolate(x, size=size, mode="bilinear", align_corners=False))
        x = self._convolve("extractor.linear_fuse.0", torch.cat(maps[::-1], 1), padding=1)
        return self._normalise("extractor.linear_fuse.1", x).relu()

    @torch.no_grad()
    def denoise(self, z: Tensor, t: int, condition: Tensor) -> Tensor:
        def with_condition(module, inputs, output):
            return self._convolve("unet.concat", torch.cat([output, condition], 1), padding=1)

        hook = self.unet.conv_in.register_forward_hook(with_condition)
        try:
            return self.unet(z, t).sample
        finally:
            hook.remove()

    @torch.no_grad()
    def encode(self, mask: Tensor, activation=F.relu) -> Tensor:
        x = torch.where(mask != 0, 1.0, -1.0)
        if self.vae:
            return SCALE * self.vae.encode(x.repeat(1, 3, 1, 1)).latent_dist.mode()
        for index in (0, 3, 6):
            x = self._convolve(f"vae.encoder.{index}", x, stride=2, padding=1)
            x = activation(self._normalise(f"vae.encoder.{index + 1}", x))
        return SCALE * self._convolve("vae.encoder.9", x)

    @torch.no_grad()
    def decode(self, z: Tensor, activation=F.relu) -> Tensor:
        """The raw value, which aims at -1 and +1."""
        if self.vae:
            return self.vae.decode(z / SCALE).sample.mean(1, keepdim=True)
        x = activation(self._normalise("vae.decoder.1", self._convolve("vae.decoder.0", z / SCALE)))
        for index in (3, 6, 9):
            weight = self.tensors[f"vae.decoder.{index}.weight"]
            x = F.conv_transpose2d(x, weight, stride=2, padding=1, output_padding=1)
            x = activation(self._normalise(f"vae.decoder.{index + 1}", x))
        return self._convolve("vae.decoder.12", x, padding=1)

    def predict(self, image: Tensor, noise: Sequence[Tensor], steps: int, tta: bool) -> Tensor:
        """Probabilities [B, 1, H, W]; `noise` is one [B or 2B, 8, H/8, W/8] of each member."""
        views = torch.cat([image, image.flip(-1)]) if tta else image
        condition, members = self.condition(views), []
        scheduler = DDIMScheduler(1000, 1e-4, 0.02, "linear", prediction_type="sample")  # and its defaults
        for z in noise:
            scheduler.set_timesteps(steps)
            for t in scheduler.timesteps:
                z = scheduler.step(self.denoise(z, t, condition), t, z).prev_sample
            members.append(z)
        probability = self.decode(torch.stack(members).mean(0)[:, :4]).sigmoid()
        if not tta:
            return probability
        upright, mirrored = probability.chunk(2)
        return upright.maximum(mirrored.flip(-1))

    def _convolve(self, name: str, x: Tensor, **options: int) -> Tensor:
        return F.conv2d(x, self.tensors[f"{name}.weight"], self.tensors.get(f"{name}.bias"), **options)

    def _normalise(self, name: str, x: Tensor) -> Tensor:
        scale, shift = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        if f"{name}.running_mean" not in self.tensors:
            return F.group_norm(x, 8, scale, shift)
        mean, variance = (self.tensors[f"{name}.running_{what}"] for what in ("mean", "var"))
        return F.batch_norm(x, mean, variance, scale, shift)


def _layer(name: str, weight: Tensor, bias: bool = True) -> dict[str, Tensor]:
    outputs = len(weight)
    return {f"{name}.weight": weight} | ({f"{name}.bias": torch.empty(outputs)} if bias else {})


def _group_norm(name: str, channels: int) -> dict[str, Tensor]:
    return {f"{name}.weight": torch.ones(channels), f"{name}.bias": torch.empty(channels)}


def _batch_norm(name: str, channels: int) -> dict[str, Tensor]:
    statistics = {f"{name}.running_mean": torch.empty(channels), f"{name}.running_var": torch.ones(channels)}
    return _group_norm(name, channels) | statistics | {f"{name}.num_batches_tracked": torch.tensor(7)}


def _random(tensor: Tensor) -> Tensor:
    """Of a size that keeps signals about unit under ReLU; what is 1 (gains, variances) stays near it."""
    if not tensor.is_floating_point():
        return tensor
    if tensor.ndim > 1:
        return torch.randn(tensor.shape) * (2 / tensor[0].numel()) ** 0.5
    near = 1.0 if tensor.numel() and bool((tensor == 1).all()) else 0.0
    return near + 0.1 * torch.randn(tensor.shape)
