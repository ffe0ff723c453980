"""A model that learns in seconds; run as a script it is the command with that model registered."""

import sys

import torch
from torch import nn

from diffiml_plugin.framework.imdlbenco import MODELS


class TinyIML(nn.Module):
    architecture = "two convolutions, no statistics of the batch"

    def __init__(self, width: int = 4, poison: str = "", image_size: int = 0, dropout: float = 0.0):
        super().__init__()
        self.poison, self.image_size, self.dropout = poison, image_size, nn.Dropout(dropout)
        self.layers = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, image, mask=None, label=None, name=None, *args, **kwargs):
        logits = self.layers(self.dropout(image))
        if self.poison in (name or ()):
            logits = logits * float("nan")
        probability = logits.sigmoid()
        output = {"pred_mask": probability, "pred_label": probability.amax((1, 2, 3))}
        if mask is not None:
            loss = nn.functional.binary_cross_entropy_with_logits(logits, mask.float())
            timesteps = torch.arange(len(image))
            output |= {"backward_loss": loss, "visual_loss": {"loss": loss}, "timesteps": timesteps}
        return output


if not MODELS.has("TinyIML"):
    MODELS.register_module(module=TinyIML)

if __name__ == "__main__":
    from diffiml_plugin.cli.main import main

    torch.set_num_threads(1)
    sys.exit(main())
