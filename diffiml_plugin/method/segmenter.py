"""The discriminative counterpart of Table 5: the same condition encoder, but each pixel is classified."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffiml_plugin.method.adaptation import rest_frozen
from diffiml_plugin.method.diffiml import Prediction, check_image
from diffiml_plugin.method.protocols import ConditionEncoder
from diffiml_plugin.method.unet import resize

_WIDTH = 256  # channels of the head


class Segmenter(nn.Module):
    """A condition encoder under SegFormer's head of pointwise layers; no noise, no latents, one forward pass.

    Args:
        encoder: as `DiffIML` takes it.
    """

    def __init__(self, encoder: ConditionEncoder):
        super().__init__()
        self.condition_encoder = encoder
        self.project = nn.ModuleList(nn.Conv2d(channels, _WIDTH, 1) for channels in encoder.channels)
        self.head = nn.Sequential(
            nn.Conv2d(4 * _WIDTH, _WIDTH, 1, bias=False),
            nn.GroupNorm(32, _WIDTH),
            nn.ReLU(),
            nn.Dropout2d(0.1),
            nn.Conv2d(_WIDTH, 1, 1),
        )

    def train(self, mode: bool = True) -> "Segmenter":
        super().train(mode)
        rest_frozen(self)
        return self

    def logits(self, image: Tensor) -> Tensor:
        """[B, 3, H, W], ImageNet-normalised, sides multiples of 32 → [B, 1, H, W], at the image's resolution."""
        check_image(image)
        features = self.condition_encoder(image)
        size = features[0].shape[-2:]  # stride 4
        stages = [resize(project(f), size) for project, f in zip(self.project, features, strict=True)]
        return resize(self.head(torch.cat(stages, 1)), image.shape[-2:])

    def training_loss(self, image: Tensor, mask: Tensor) -> Tensor:
        """Mean binary cross-entropy over all pixels; `mask` [B, 1, H, W] in {0, 1}."""
        return F.binary_cross_entropy_with_logits(self.logits(image).float(), mask.float())

    @torch.no_grad()
    def predict(self, image: Tensor) -> Prediction:
        """Each pixel's probability of being manipulated."""
        return Prediction(self.logits(image).float().sigmoid())
