"""Large photos in overlapping tiles, which are blended: in `benco predict` and `benco test` alike."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from diffiml_plugin.method.config import LATENT_STRIDE
from diffiml_plugin.method.diffiml import DiffIML
from diffiml_plugin.models.inputs import Inputs
from diffiml_plugin.models.passes import read_output
from diffiml_plugin.models.registry import require_inputs

_logger = logging.getLogger(__name__)
WHOLE = 4_000_000  # pixels of the largest photo that is not cut, where no memory is given
SIDE = 1536  # pixels of a tile's side then
_JPEG_BLOCK = 8  # pixels
OVERLAP = 256  # pixels that two neighbours share
_MARGIN = 32  # of those, on each side: what a tile says at its very border does not count


@dataclass(frozen=True)
class Tile:
    """A part of a photo: from row `top` and column `left`, of that height and width, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """This part of an array [H, W, ...]."""
        return array[self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True, eq=False)
class Maps:
    """A model's answer of one photo, or a part of it: [H, W] float32 each, and its score."""

    probability: npt.NDArray[np.float32]
    uncertainty: npt.NDArray[np.float32] | None
    score: float | None


class Tiling:
    """Tiles of `side` pixels that cover a photo; they start on a grid, so that each sees the photo's JPEG blocks and an
    encoder's strides in the phase of the whole.

    Args:
        height, width: of the photo, in pixels.
        side: a multiple of JPEG's block and of `multiple`, above OVERLAP.
        multiple: pixels, of a model's sides.
    """

    def __init__(self, height: int, width: int, side: int, multiple: int | None):
        self.shape = height, width
        grid = math.lcm(multiple or 1, _JPEG_BLOCK)
        self.rows, self.columns = (_starts(extent, side, grid) for extent in self.shape)
        self.side = side
        self.weights = [
            _weights(extent, starts, side) for extent, starts in ((height, self.rows), (width, self.columns))
        ]

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def __iter__(self) -> Iterator[Tile]:
        for top, left in product(self.rows, self.columns):
            yield Tile(top, left, min(self.side, self.shape[0] - top), min(self.side, self.shape[1] - left))

    def add(self, total: npt.NDArray[np.float32], tile: Tile, values: npt.NDArray[np.float32]) -> None:
        """Adds a tile's values [h, w] to `total` [H, W], by weights that amount to 1 for each pixel over all tiles."""
        rows, columns = (
            weights[starts.index(start)]
            for weights, starts, start in zip(
                self.weights, (self.rows, self.columns), (tile.top, tile.left), strict=True
            )
        )
        tile.of(total)[...] += values * rows[:, None] * columns


def in_tiles(
    tiles: Tiling,
    frame: Callable[[int, int], tuple[int, int]],
    draw_noise: Callable[[Sequence[int]], Tensor] | None,
    predict: Callable[[Tile, Tensor | None], Maps],
) -> Maps:
    """A model's answer of a photo, blended of those of its tiles, which start from one noise, of the whole photo.

    Args:
        frame: `Inputs.frame`.
        draw_noise: [V, D, N, C, h, w] for an input of that height and width in pixels; None of a model without noise.
        predict: the answer of a tile, from its part of the noise.
    """
    frames = [(tile, frame(tile.height, tile.width)) for tile in tiles]
    size = [max(ends) for ends in zip(*((t.top + h, t.left + w) for t, (h, w) in frames), strict=True)]
    noise = draw_noise and draw_noise(size)
    total, spread, scores = np.zeros(tiles.shape, np.float32), np.zeros(tiles.shape, np.float32), []
    for tile, own in frames:
        part = predict(tile, None if noise is None else _part(noise, tile, own))
        tiles.add(total, tile, part.probability)
        if part.uncertainty is not None:
            tiles.add(spread, tile, part.uncertainty)
        scores.append(part.score)
    known = [score for score in scores if score is not None]
    return Maps(total, None if part.uncertainty is None else spread, max(known, default=None))


class Tiled(nn.Module):
    """A model in test mode whose images of more than WHOLE pixels go in tiles, one by one, as `Detector` has it; all of
    them go whole if the model sees images at one size.

    Args:
        inputs: by which the batches are made.
    """

    def __init__(self, model: nn.Module, inputs: Inputs):
        super().__init__()
        self.model, self.inputs, self.training = model, inputs, model.training
        self.method = next((module for module in model.modules() if isinstance(module, DiffIML)), None)
        self.largest_said = 0

    def forward(self, **batch: Any) -> dict[str, Any]:
        """The model's output; where an image went in tiles, `pred_mask` [B, 1, h, w] and `pred_label` [B] of it."""
        require_inputs(self.model, batch)
        sizes = batch["shape"].tolist()
        whole = [goes_whole(self.inputs, size) for size in sizes]
        if all(whole):
            return self.model(**batch)
        images = [{key: values[i : i + 1] for key, values in batch.items()} for i in range(len(sizes))]
        outputs = [
            self.model(**image) if is_whole else self._in_tiles(image, *size)
            for image, size, is_whole in zip(images, sizes, whole, strict=True)
        ]
        keys = [key for key in ("pred_mask", "pred_label") if outputs[0].get(key) is not None]
        return {key: torch.cat([output[key] for output in outputs]) for key in keys}

    def _in_tiles(self, image: dict[str, Any], height: int, width: int) -> dict[str, Tensor]:
        """Of a batch of one image of that size in pixels."""
        tiles = Tiling(height, width, whole_side(self.inputs), self.inputs.multiple)
        if height * width > self.largest_said:
            self.largest_said = height * width
            megapixels = f"{height * width / 1e6:.1f} megapixels"
            _logger.info(f"{image['name'][0]} has {megapixels}: tested in tiles of {tiles.side}x{tiles.side}")
        maps = {key: value for key, value in image.items() if isinstance(value, Tensor) and value.ndim == 4}

        def predict(tile: Tile, noise: Tensor | None) -> Maps:
            rows, columns = self.inputs.frame(tile.height, tile.width)
            end = tile.top + rows, tile.left + columns
            part = {key: value[..., tile.top : end[0], tile.left : end[1]] for key, value in maps.items()}
            if noise is not None:
                part["noise"] = noise[None]
            probability, scores = read_output(self.model(**{**image, **part}), (1, 1, rows, columns), image["name"])
            mask = probability[0, 0, : tile.height, : tile.width]
            return Maps(mask.cpu().numpy(), None, scores[0])

        draw = self.method and (lambda size: self.method.draw_noise(image["noise_key"], size)[0])
        blended = in_tiles(tiles, self.inputs.frame, draw, predict)
        mask = torch.zeros_like(image["image"][:, :1])
        mask[0, 0, :height, :width] = torch.from_numpy(blended.probability)
        return {"pred_mask": mask} | ({} if blended.score is None else {"pred_label": mask.new_tensor([blended.score])})


def goes_whole(inputs: Inputs, size: Sequence[int]) -> bool:
    """Whether a model takes an image of that height and width in pixels in one pass, where no memory is given."""
    return inputs.one_size or math.prod(size) <= WHOLE


def whole_side(inputs: Inputs) -> int:
    """The side in pixels of tiles where no memory is given: SIDE, or more for a model of larger images."""
    grid = math.lcm(inputs.multiple or 1, _JPEG_BLOCK)
    return max(SIDE, math.ceil(inputs.settings.image_size / grid) * grid)


def _part(noise: Tensor, tile: Tile, frame: tuple[int, int]) -> Tensor:
    """A tile's part of the noise of the whole photo, [V, D, N, C, h, w]; the mirrored view's from the other side."""
    top, left, height, width = (side // LATENT_STRIDE for side in (tile.top, tile.left, *frame))
    mirrored = noise.shape[-1] - left - width
    rows = noise[..., top : top + height, :]
    return torch.stack([view[..., x : x + width] for view, x in zip(rows, (left, mirrored), strict=False)])


def _starts(extent: int, side: int, grid: int) -> list[int]:
    """Where the tiles of one direction start: as few as overlap enough, spread evenly, each on the grid."""
    last = math.ceil(extent / grid) * grid - side
    if last <= 0:
        return [0]
    steps = math.ceil(last / (side - OVERLAP))
    return [last * step // steps // grid * grid for step in range(steps)] + [last]


def _weights(extent: int, starts: list[int], side: int) -> list[npt.NDArray[np.float32]]:
    """Of each tile along one direction: 1 where it is alone, a ramp where two overlap; they amount to 1."""
    ramps = []
    for start in starts:
        x = np.arange(start, min(start + side, extent), dtype=np.float32) + 0.5
        before = x - start - _MARGIN if start else np.inf
        behind = start + side - _MARGIN - x if start != starts[-1] else np.inf
        ramps.append(np.clip(np.minimum(before, behind), 0, OVERLAP - 2 * _MARGIN) * np.ones_like(x))
    total = np.zeros(extent, np.float32)
    for start, ramp in zip(starts, ramps, strict=True):
        total[start : start + len(ramp)] += ramp
    return [ramp / total[start : start + len(ramp)] for start, ramp in zip(starts, ramps, strict=True)]
