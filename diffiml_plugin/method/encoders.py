"""Condition encoders by name: the backbone that turns an image into features, once (DiffIML, Alg. 2)."""

from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import LayerNorm2d
from timm.models import is_model_in_modules
from torch import Tensor, nn

from diffiml_plugin.errors import DiffIMLError, nearest
from diffiml_plugin.method.mit import MIT_VARIANTS, MixTransformer

ENCODERS = (*MIT_VARIANTS, "resnet50", "resnet101")  # the paper's; every other name is looked up in timm
RESIDUALS = "srm_"  # before the name of a timm model: it sees noise residuals beside the colours
STRIDES = (4, 8, 16, 32)  # pixels per cell of the four feature maps
_PLAIN = ("vision_transformer", "eva", "deit")  # timm's modules of plain vision transformers
_MEND = "choose another encoder, such as segformer_b3, resnet50, convnext_tiny or pvt_v2_b2"


def build_encoder(name: str) -> "MixTransformer | TimmEncoder":
    """The encoder called `name`, with random weights; nothing is downloaded.

    The module maps images [B, 3, H, W] (ImageNet-normalised, sides multiples of 32) to four feature maps
    [B, encoder.channels[i], H/s, W/s] at strides s = 4, 8, 16, 32.

    Args:
        name: one of `ENCODERS`, or any timm model that yields features at these four strides or is a plain vision
            transformer; with `srm_` before it the timm model is given `NoiseResiduals` too.

    Raises:
        DiffIMLError: an unknown name, or a timm model without these features.
    """
    if name in MIT_VARIANTS:
        return MixTransformer(*MIT_VARIANTS[name])
    if not timm.is_model(name.removeprefix(RESIDUALS)):
        raise DiffIMLError(
            f"encoder {name!r} is neither one of {', '.join(ENCODERS)} nor a timm model"
            f"{nearest(name, (*ENCODERS, *timm.list_models()))}"
        )
    plain = is_model_in_modules(name.removeprefix(RESIDUALS), _PLAIN)
    return ViTEncoder(name) if plain else TimmEncoder(name)


class TimmEncoder(nn.Module):
    """A timm model cut to its features at strides 4, 8, 16, 32, without the layers behind them.

    It takes ImageNet-normalised images like every encoder, and gives the model those of its own normalisation.

    Attributes:
        net: the timm model, which pretrained weights are of.
        channels: of the four feature maps.
    """

    net: Any  # a module that has `feature_info`
    scale: Tensor
    shift: Tensor

    def __init__(self, name: str):
        super().__init__()
        self.residuals = NoiseResiduals() if name.startswith(RESIDUALS) else None
        self.name = name.removeprefix(RESIDUALS)
        self.net = self.create(in_chans=3 if self.residuals is None else 3 + NoiseResiduals.channels)
        self.channels = self._add_maps()
        own = self.net.pretrained_cfg
        means, deviations = (
            torch.tensor([imagenet, own[key]]).view(2, 1, 3, 1, 1)
            for imagenet, key in ((IMAGENET_DEFAULT_MEAN, "mean"), (IMAGENET_DEFAULT_STD, "std"))
        )
        self.register_buffer("scale", deviations[0] / deviations[1], persistent=False)
        self.register_buffer("shift", (means[0] - means[1]) / deviations[1], persistent=False)
        self._check_any_size()

    @property
    def backbone(self) -> nn.Module:
        """What pretrained weights fill."""
        net: nn.Module = self.net
        return net

    def create(self, **options: Any) -> Any:
        """Such a `net`, anew; `options` as `timm.create_model` takes them (pretrained, in_chans...)."""
        options["features_only"] = True
        if self.name.startswith("swin"):
            options["strict_img_size"] = False  # else it insists on its training size
        try:
            info: Any = timm.create_model(self.name, **{**options, "pretrained": False}).feature_info
        except RuntimeError as error:
            raise DiffIMLError(f"timm model {self.name!r} has no feature maps ({error}); {_MEND}") from error
        last_of_stride = dict(zip(info.reduction(), info.out_indices, strict=True))
        if missing := [stride for stride in STRIDES if stride not in last_of_stride]:
            raise DiffIMLError(
                f"timm model {self.name!r} has features at strides {info.reduction()}, not at {missing}; {_MEND}"
            )
        options["out_indices"] = tuple(last_of_stride[stride] for stride in STRIDES)
        return timm.create_model(self.name, **options)  # cut: DDP wants every layer used

    def forward(self, image: Tensor) -> list[Tensor]:
        colours = image * self.scale + self.shift
        return self._maps(colours if self.residuals is None else torch.cat([colours, self.residuals(image)], 1))

    def _add_maps(self) -> tuple[int, ...]:
        """Adds what `_maps` needs beside `net`; gives the channels of its maps."""
        return tuple(self.net.feature_info.channels())

    def _maps(self, x: Tensor) -> list[Tensor]:
        maps = self.net(x)
        channels_last = getattr(self.net, "output_fmt", "NCHW") == "NHWC"
        return [one.permute(0, 3, 1, 2) for one in maps] if channels_last else maps

    @torch.no_grad()
    def _check_any_size(self) -> None:
        """Tries an image that no fixed size, window or position table foresees."""
        height, width = 32, 33 * 32
        expected = [(1, c, height // s, width // s) for c, s in zip(self.channels, STRIDES, strict=True)]
        try:
            shapes = [tuple(x.shape) for x in self.eval()(torch.zeros(1, 3, height, width))]
        except (AssertionError, RuntimeError, IndexError, ValueError) as error:
            raise DiffIMLError(
                f"timm model {self.name!r} does not take images of any size ({error}); {_MEND}"
            ) from error
        if shapes != expected:
            raise DiffIMLError(f"timm model {self.name!r} yields features {shapes}, not {expected}; {_MEND}")
        self.train()


class ViTEncoder(TimmEncoder):
    """A plain vision transformer of timm (DINOv2, DINOv3, CLIP, MAE ...) under a simple feature pyramid.

    Its patches are of 16 pixels, whatever they were (published filters of 14 or 32 are resampled), so that the one map
    it yields lies at stride 16. Convolutions make those of strides 4 and 8 of it, and a maximum that of 32, after Li et
    al., "Exploring plain vision transformer backbones for object detection" (2022). Their pointwise and 3x3 layers
    behind are those of the denoiser's fusion.
    """

    _PATCH = 16  # pixels

    def create(self, **options: Any) -> Any:
        net: Any = timm.create_model(self.name, patch_size=self._PATCH, dynamic_img_size=True, num_classes=0, **options)
        if isinstance(net.norm, nn.Identity):  # it averages the tokens first, and normalises then
            net.norm = net.fc_norm
        net.fc_norm, net.attn_pool = nn.Identity(), None  # the rest of what is behind the tokens
        return net

    def _add_maps(self) -> tuple[int, ...]:
        width = self.net.embed_dim
        self.to_stride_8 = nn.ConvTranspose2d(width, width // 2, 2, 2)
        self.to_stride_4 = nn.Sequential(
            nn.ConvTranspose2d(width, width // 2, 2, 2),
            LayerNorm2d(width // 2),
            nn.GELU(),
            nn.ConvTranspose2d(width // 2, width // 4, 2, 2),
        )
        return width // 4, width // 2, width, width

    def _maps(self, x: Tensor) -> list[Tensor]:
        size = [side // self._PATCH for side in x.shape[-2:]]
        patches = self.net.forward_features(x)[:, self.net.num_prefix_tokens :]  # [B, H/16 · W/16, C]
        at_16 = patches.unflatten(1, size).permute(0, 3, 1, 2)
        return [self.to_stride_4(at_16), self.to_stride_8(at_16), at_16, F.max_pool2d(at_16, 2)]


class NoiseResiduals(nn.Module):
    """Three fixed high-pass filters of steganalysis' rich models (SRM) on each colour.

    Tampering shows in the noise, whose amplitude is a hundredth of the content's: a network that is trained from
    scratch finds it in far fewer steps when the content is filtered out.
    """

    channels = 9  # three of each colour
    _LIMIT = 4.0  # grey levels; what is larger is content

    kernels: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        second = torch.tensor([1.0, -2.0, 1.0]) / 2
        kernels = torch.zeros(3, 5, 5)
        kernels[0, 2, 1:4] = second
        kernels[1, 1:4, 1:4] = -torch.outer(second, second)
        kernels[2] = (
            torch.tensor(
                [[-1.0, 2, -2, 2, -1], [2, -6, 8, -6, 2], [-2, 8, -12, 8, -2], [2, -6, 8, -6, 2], [-1, 2, -2, 2, -1]]
            )
            / 12
        )
        self.register_buffer("kernels", kernels.repeat(3, 1, 1)[:, None], persistent=False)  # [9, 1, 5, 5]
        deviation = 255 * torch.tensor(IMAGENET_DEFAULT_STD).view(1, 3, 1, 1)
        self.register_buffer("deviation", deviation, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """[B, 3, H, W], ImageNet-normalised → [B, 9, H, W], clipped to 2."""
        with torch.autocast(image.device.type, enabled=False):  # half precision would round the noise away
            grey_levels = image.float() * self.deviation
            residuals = F.conv2d(grey_levels, self.kernels, padding=2, groups=3)
            return residuals.clamp(-self._LIMIT, self._LIMIT) / 2
