"""Condition encoders by name: the backbone that turns an image into features, once (DiffIML, Alg. 2)."""

import timm
import torch
from torch import Tensor, nn

from diffiml_plugin.errors import DiffIMLError, nearest
from diffiml_plugin.method.mit import MIT_VARIANTS, MixTransformer

ENCODERS = (*MIT_VARIANTS, "resnet50", "resnet101")  # the paper's; every other name is looked up in timm
STRIDES = (4, 8, 16, 32)  # pixels per cell of the four feature maps
_MEND = "choose another encoder, such as segformer_b3, resnet50, convnext_tiny or pvt_v2_b2"


def build_encoder(name: str) -> nn.Module:
    """The encoder called `name`, with random weights; nothing is downloaded.

    The module maps images [B, 3, H, W] (ImageNet-normalised, sides multiples of 32) to four feature maps
    [B, encoder.channels[i], H/s, W/s] at strides s = 4, 8, 16, 32.

    Args:
        name: one of `ENCODERS`, or any timm model that yields features at these four strides.

    Raises:
        DiffIMLError: an unknown name, or a timm model without these features.
    """
    if name in MIT_VARIANTS:
        return MixTransformer(*MIT_VARIANTS[name])
    if not timm.is_model(name):
        raise DiffIMLError(f"encoder {name!r} is neither one of {', '.join(ENCODERS)} nor a timm model"
                           f"{nearest(name, (*ENCODERS, *timm.list_models()))}")
    return TimmEncoder(name)


class TimmEncoder(nn.Module):
    """A timm model cut to its features at strides 4, 8, 16, 32, without the layers behind them.

    `timm_options` rebuild `net` with `timm.create_model`, for whoever reads pretrained weights.
    """

    def __init__(self, name: str):
        super().__init__()
        options = {"features_only": True}
        if name.startswith("swin"):
            options["strict_img_size"] = False  # else it insists on its training size
        try:
            info = timm.create_model(name, pretrained=False, **options).feature_info
        except RuntimeError as error:
            raise DiffIMLError(f"timm model {name!r} has no feature maps ({error}); {_MEND}") from error
        last_of_stride = dict(zip(info.reduction(), info.out_indices, strict=True))
        if missing := [stride for stride in STRIDES if stride not in last_of_stride]:
            raise DiffIMLError(f"timm model {name!r} has features at strides {info.reduction()}, "
                               f"not at {missing}; {_MEND}")
        options["out_indices"] = tuple(last_of_stride[stride] for stride in STRIDES)
        self.name, self.timm_options = name, options
        self.net = timm.create_model(name, pretrained=False, **options)  # cut: DDP wants every layer used
        self.channels = tuple(self.net.feature_info.channels())
        self._channels_last = getattr(self.net, "output_fmt", "NCHW") == "NHWC"
        self._check_any_size()

    def forward(self, image: Tensor) -> list[Tensor]:
        features = self.net(image)
        return [x.permute(0, 3, 1, 2) for x in features] if self._channels_last else features

    @torch.no_grad()
    def _check_any_size(self) -> None:
        """Tries an image that no fixed size, window or position table foresees."""
        height, width = 32, 33 * 32
        expected = [(1, c, height // s, width // s) for c, s in zip(self.channels, STRIDES, strict=True)]
        try:
            shapes = [tuple(x.shape) for x in self.eval()(torch.zeros(1, 3, height, width))]
        except (AssertionError, RuntimeError, IndexError, ValueError) as error:
            raise DiffIMLError(f"timm model {self.name!r} does not take images of any size ({error}); "
                               f"{_MEND}") from error
        if shapes != expected:
            raise DiffIMLError(f"timm model {self.name!r} yields features {shapes}, not {expected}; {_MEND}")
        self.train()
