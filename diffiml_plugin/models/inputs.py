"""How images reach a model: resized or padded, and at which size."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.settings import CommonSettings

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class InputSettings:
    """How images reach the model: resized or padded (as `PairsDataset` says); stored with the weights."""

    image_size: int = 512
    if_padding: bool = False
    edge_mask_width: int | None = None
    padding_mode: str = "constant"

    @classmethod
    def of(cls, settings: CommonSettings, wanted: Mapping[str, Any] | None = None) -> "InputSettings":
        """As the flags say; what they leave open as `wanted` (stored with the weights, or the card's), or the default.

        Raises:
            DiffIMLError: --padding_mode reflect of images that are resized.
        """
        made = replace(cls(), **(wanted or {}))
        if settings.if_padding is not None or settings.if_resizing:
            made = replace(made, if_padding=bool(settings.if_padding))
        if settings.padding_mode == "reflect" and not made.if_padding:
            raise DiffIMLError("--padding_mode reflect is of padded images, but these are resized; add --if_padding")
        given = {name: getattr(settings, name) for name in ("image_size", "edge_mask_width", "padding_mode")}
        return replace(made, **{name: value for name, value in given.items() if value is not None})

    def warn_if_cut(self, longest_side: int, multiple: int | None = None) -> None:
        """Warns that images of so many pixels lose some, unless `PairsDataset` pads them to a `multiple`."""
        if self.if_padding and not multiple and longest_side > self.image_size:
            _logger.warning(
                f"--if_padding cuts images of up to {longest_side} pixels to their upper left "
                f"{self.image_size}x{self.image_size}; raise --image_size, or use --if_resizing"
            )
