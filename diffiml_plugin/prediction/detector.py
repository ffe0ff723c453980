"""From photos to results."""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import default_collate

from diffiml_plugin import launch
from diffiml_plugin.errors import DiffIMLError, of_arguments, out_of_memory
from diffiml_plugin.evaluation.calibration import Calibration
from diffiml_plugin.evaluation.scores import THRESHOLD
from diffiml_plugin.files import file_digest, require_unchanged
from diffiml_plugin.folders import claimed
from diffiml_plugin.framework.adapters import method_of
from diffiml_plugin.launch import Sample, pinned, to_device
from diffiml_plugin.ledger import begin
from diffiml_plugin.method.config import LATENT_STRIDE
from diffiml_plugin.models.checkpoints import find_checkpoint
from diffiml_plugin.models.compiled import speed_up
from diffiml_plugin.models.inputs import Geometry, Inputs
from diffiml_plugin.models.opened import OpenedModel, open_model, statements
from diffiml_plugin.models.passes import Passes, read_output
from diffiml_plugin.models.registry import require_inputs
from diffiml_plugin.models.tiles import Maps, Tile, Tiling, in_tiles, whole_side
from diffiml_plugin.prediction.memory import PassMemory, halved
from diffiml_plugin.prediction.photograph import Photo, Photograph, read_photograph
from diffiml_plugin.prediction.result import Result
from diffiml_plugin.settings import COMPILE_MODES, PRECISIONS, CommonSettings, require_choice
from diffiml_plugin.stored import typed
from diffiml_plugin.weights import hub
from diffiml_plugin.weights.files import save_weights, tensors_digest

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """A file without a result, and why."""

    path: Path
    reason: str


class Detector:
    """A model that says of photos which of their pixels were manipulated; `diffiml_plugin.load` makes one.

    Threads may share it: the model takes one photo at a time.

    Args:
        checkpoint_path: as `open_model` takes it.
        settings: the device, and how images reach the model, where not as it was trained. A model that was trained on
            padded images takes larger ones as they are.
        model, model_flags: as for `open_model`.
        threshold: a pixel of higher probability counts as manipulated; None: the checkpoint's own, else 0.5.
        precision, compile_mode: as `speed_up` takes them.
        max_memory: GB that a prediction may take, of the device's memory or, on the CPU, of the whole process. A model
            that takes photos at their own size gets larger ones in tiles, as large as that allows; None: photos of more
            than 4 megapixels in tiles of 1536x1536, or of less where nine tenths of the computer's memory, or of what
            its container allows, do not suffice. A photo that does not fit even so is refused before it is decoded.

    Attributes:
        description: the model, its file and the SHA-256 of that, and all settings that decide a result.
        deciding: the same without the file's place.

    Raises:
        DiffIMLError: as `open_model`; a device that is not there, or a value that is none of a setting's.
    """

    @typed
    def __init__(
        self,
        checkpoint_path: str | os.PathLike[str],
        settings: CommonSettings,
        model: str = "",
        model_flags: Mapping[str, Any] | None = None,
        threshold: float | None = None,
        precision: str = "auto",
        compile_mode: str = "auto",
        max_memory: float | None = None,
    ):
        require_choice("precision", precision, PRECISIONS)
        require_choice("compile", compile_mode, COMPILE_MODES)
        if threshold is not None and not 0 <= threshold <= 1:
            raise DiffIMLError(f"--threshold {threshold} is outside [0, 1]; probabilities are compared with it")
        if max_memory is not None and not max_memory > 0:
            raise DiffIMLError(f"--max_memory {max_memory} is not above 0; it is in GB")
        self._turn = Lock()  # a pass sets the model's mode for its time, and a CUDA graph has one place for an image
        self.device = launch.one_device(settings.device)
        path = find_checkpoint(checkpoint_path)
        digest = file_digest(path)
        self.opened = opened = open_model(checkpoint_path, settings, self.device, model, model_flags)
        if settings.image_size and opened.inputs.if_padding and opened.inputs.padding_mode == "reflect":
            _logger.info("the image size is not used: this model takes images at their own size")
        self.card, self.inputs = opened.card, Inputs(opened.inputs, opened.card.size_multiple)
        if max_memory is not None and not self._takes_any_size:
            _logger.warning(f"max_memory {max_memory:g} is not used: this model sees photos of any size at one")
            max_memory = None
        self._chosen = opened.threshold if threshold is None else threshold
        actual = launch.actual_precision(precision, self.device.type == "cpu")
        self.calibration = _calibration(opened, actual)
        self.model, self.precision = opened.build().to(self.device), precision
        require_unchanged(path, digest)
        speed_up(self.model, self.device, precision, compile_mode)
        cell = self._noise("", (LATENT_STRIDE, LATENT_STRIDE)).nbytes if self.card.samples else 0
        noise = cell / LATENT_STRIDE**2
        self.memory = PassMemory(self._run_on, self.device, max_memory, whole_side(self.inputs), noise)
        self._passes = Passes(self.model)  # behind `memory`, which is not to count a copy that is gone after a pass
        if max_memory is not None:  # `holds` may be asked beside the model
            self.memory.holds(np.zeros((1, 1, 3), np.uint8))
        values = {**opened.flags, **asdict(opened.inputs), "threshold": self.threshold, "precision": actual}
        decided = {**values, "max_memory": max_memory}
        self.description = {
            "model": opened.card.name,
            "checkpoint": str(opened.path),
            "sha256": digest,
            "settings": decided,
        }
        self.deciding: dict[str, Any] = {"model": (opened.card.name, digest), **decided}
        self._loaded = self._state()

    def __getstate__(self) -> object:
        raise DiffIMLError(
            "a detector is neither pickled nor copied: it holds its device; load it anew in each process, or take the "
            "network alone, by load_model"
        )

    @property
    def threshold(self) -> float:
        """A pixel of higher probability counts as manipulated."""
        return THRESHOLD if self._chosen is None else self._chosen

    @overload
    def __call__(self, photo: Photo) -> Result: ...  # type: ignore[overload-overlap]  # str is a Sequence[str]

    @overload
    def __call__(self, photo: Sequence[Photo]) -> list[Result]: ...

    def __call__(self, photo: Photo | Sequence[Photo]) -> Result | list[Result]:
        """What the model says of a photo, or of each of a list.

        Args:
            photo: the path of a file, a PIL image or an array [H, W, 3] of uint8, RGB; or a list of such. Pixels are
                taken as they are stored, without EXIF rotation. The SHA-256 of the file's bytes, or of the
                pixels where there is none, decides the noise of a model that samples, as in `benco test`: no name does.

        Raises:
            DiffIMLError: something else; a file that cannot be read; a photo too large for a model of one size.
        """
        with of_arguments():
            if isinstance(photo, (list, tuple)):
                return [self._of(one) for one in photo]
            return self._of(photo)

    def predict(self, files: Iterable[Path]) -> Iterator[Result | Failure]:
        """A result for each file, in order, or why there is none."""
        for file in files:
            try:
                yield self._of(file)
            except DiffIMLError as error:
                yield Failure(file, str(error))

    def _of(self, photo: object) -> Result:
        """What the model says of a photo; the result knows its maps, so that others are not taken for them."""
        result = self.detect(self.read(photo))
        return replace(result, made_with={**result.made_with, "maps": result.maps_digest})

    @typed
    def save_pretrained(self, folder: str | os.PathLike[str], name: str = "") -> Path:
        """Writes model.safetensors, with the settings that this detector runs with, and README.md, its model card.

        Args:
            folder: made if it is not there; `load` takes it.
            name: of the model in the card; the folder's, if empty.

        Returns:
            the folder.

        Raises:
            DiffIMLError: a file cannot be written, or the folder holds other weights, other settings or statements of
                these, a card of another name, or a README.md of others; the detector's own file was replaced since, or
                its network changed.
        """
        from diffiml_plugin.prediction.model_card import write_card  # its import takes a while

        opened = self.opened
        tensors, metadata = opened.content(**({} if self._chosen is None else {"threshold": self._chosen}))
        require_unchanged(opened.path, str(self.description["sha256"]))
        with self._turn:
            self._require_as_loaded()
        mine = self.model.state_dict()
        if any(
            not mine[name].cpu().equal(its.to(mine[name].dtype)) for name, its in opened.build().state_dict().items()
        ):
            raise self._changed()  # behind torch's back
        settings = {**opened.flags, **asdict(opened.inputs)}
        deciding = {"weights": tensors_digest(tensors), **statements(metadata), **settings}
        with claimed(folder) as place:
            name = name or place.resolve().name
            begin(place, "save_pretrained", {"name": name, **deciding}, [place / hub.WEIGHTS, place / hub.CARD])
            save_weights(place / hub.WEIGHTS, tensors, metadata)
            source = name if hub.is_name(name) else f"./{place.resolve().name}"  # `small` alone is another model
            write_card(place / hub.WEIGHTS, place / hub.CARD, name, source)
        return place

    @typed
    def push_to_hub(self, name: str, *, private: bool = False, replace: bool = False) -> str:
        """Uploads what `save_pretrained` writes.

        Args:
            name: ORGANISATION/NAME of a repository on the hub, which is made if it is not there.
            private: make it so that few can see it.
            replace: take the place of the weights and the card that are there, as of an earlier model; the hub keeps
                those as an earlier commit.

        Returns:
            the commit's hash: `load(name, revision=...)` gives this very model for ever.

        Raises:
            DiffIMLError: no network, or no right to write there; other weights or another card are there, and not
                `replace`; it is there for all to see, and `private`.
        """
        with TemporaryDirectory() as folder:
            return hub.push(self.save_pretrained(folder, name), name, private, replace)

    def read(self, photo: object) -> Photograph:
        """A photo, read and prepared; may run in a thread beside the model. Raises DiffIMLError, as a call does."""
        launch.require_torchs_defaults()
        photograph = read_photograph(photo, self.memory)
        if self._in_tiles(photograph.image):
            return photograph
        return replace(photograph, prepared=self._prepared(photograph))

    def detect(self, photograph: Photograph) -> Result:
        """What the model says of a photo of `read`. Raises DiffIMLError, as a call does.

        Where the memory is too small for it whole, or for its tiles, they are made smaller, with a warning.
        """
        with self._turn:
            self._require_as_loaded()
            try:
                return self._result(photograph, self._fitting_maps(photograph))
            finally:
                self._loaded = self._state()  # a pass itself may write, and have it put back

    def _require_as_loaded(self) -> None:
        """Raises DiffIMLError if the network was changed: results and saved files tell of its file."""
        if self._state() != self._loaded:
            raise self._changed()

    def _changed(self) -> DiffIMLError:
        return DiffIMLError(
            f"the network of this detector was changed, and is no longer that of {self.opened.path}; load that anew, "
            "or take the network alone, by load_model"
        )

    def _state(self) -> tuple[object, ...]:
        """What changes when the network, a tensor of it or its sampling's settings do: which parameters these are, and
        how often each and all buffers were written, as torch counts it. Through `data`, and of tensors made in
        inference mode, it does not. A network may register a buffer while it runs.
        """
        parameters = [(id(one), one.data_ptr(), _writes(one)) for one in self.model.parameters()]
        buffers = sum(map(_writes, self.model.buffers()))
        return method_of(self.model).config if self.card.samples else None, parameters, buffers

    def _fitting_maps(self, photograph: Photograph) -> Maps:
        """Of a photo, whole or in the largest tiles that the memory holds."""
        side = None if photograph.prepared else self.memory.side(photograph.image, photograph.name)
        while True:
            try:
                return self._maps(photograph, side)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or not self._takes_any_size:
                    raise
                side = halved(side or max(photograph.image.shape[:2]))
                if side is None:
                    raise DiffIMLError(f"{photograph.name}: the memory is full with the smallest tile") from error
                _logger.warning(f"{photograph.name}: the memory is full; the photo is cut into tiles of {side}x{side}")
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    @property
    def _takes_any_size(self) -> bool:
        """Whether the model sees photos at their own resolution, whatever their size."""
        return not self.inputs.one_size

    def _in_tiles(self, image: npt.NDArray[np.uint8]) -> bool:
        return self._takes_any_size and not self.memory.holds(image)

    def _prepared(
        self, photograph: Photograph, tile: Tile | None = None, noise: Tensor | None = None
    ) -> tuple[Sample, Geometry]:
        """What the model takes of a photo, or of a part of it, and the noise that sampling starts from."""
        image = photograph.image if tile is None else tile.of(photograph.image)
        sample, geometry = self.inputs.sample(image, photograph.name)
        if self.card.samples:
            whole = noise is None
            sample["noise"] = self._noise(photograph.digest, sample["image"].shape[1:]) if whole else noise
        if self.card.post_function:
            self.card.post_function(sample)
        return pinned(default_collate([sample]), self.device), geometry

    def _noise(self, digest: str, size: Sequence[int]) -> Tensor:
        """[V, D, N, C, h, w] for an input of that height and width in pixels."""
        return method_of(self.model).draw_noise([digest], size)[0]

    def _maps(self, photograph: Photograph, side: int | None) -> Maps:
        """Of a photo, whole or in tiles of `side` pixels."""
        if side is None:
            return self._predicted(photograph.name, *(photograph.prepared or self._prepared(photograph)))
        height, width = photograph.image.shape[:2]
        tiles = Tiling(height, width, side, self.inputs.multiple)

        def predict(tile: Tile, noise: Tensor | None) -> Maps:
            return self._predicted(photograph.name, *self._prepared(photograph, tile, noise))

        draw_noise = partial(self._noise, photograph.digest) if self.card.samples else None
        return in_tiles(tiles, self.inputs.frame, draw_noise, predict)

    def _predicted(self, name: str, batch: Sample, geometry: Geometry) -> Maps:
        require_inputs(self.model, batch)
        with launch.testing_mode(self.model), launch.autocast(self.device, self.precision):
            given = to_device(batch, self.device)
            with self._passes.one(given["image"]):
                output = self.model(**given, uncertainty=True)
        probability, scores = read_output(output, (1, 1, *batch["image"].shape[-2:]), [name])
        uncertainty = output.get("uncertainty")
        return Maps(
            geometry.undo(probability[0, 0]),
            None if uncertainty is None else geometry.undo(uncertainty[0, 0]),
            scores[0],
        )

    def _run_on(self, image: npt.NDArray[np.uint8]) -> None:
        """A pass over an image, of which only the cost is of interest."""
        photograph = Photograph("a test image", "", image, 1)
        self._predicted(photograph.name, *self._prepared(photograph))

    def _result(self, photograph: Photograph, maps: Maps) -> Result:
        return Result(
            os.path.basename(photograph.name),
            photograph.image,
            maps.probability,
            maps.uncertainty,
            maps.score,
            self.threshold,
            self.calibration,
            photograph.orientation,
            self.deciding,
            photograph.several,
        )


def _writes(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _calibration(opened: OpenedModel, precision: str) -> Calibration | None:
    """The checkpoint's; None where it has none or a damaged one, or where the model does not run as calibrated."""
    if opened.checkpoint is None or opened.checkpoint.calibration is None:
        return None
    if changed := opened.changed:
        _logger.warning(f"uncalibrated: the model was calibrated with another {', '.join(changed)}")
        return None
    try:
        calibration = Calibration.read(opened.checkpoint.calibration)
    except DiffIMLError as error:
        _logger.warning(f"uncalibrated: {error}")
        return None
    if not calibration.holds_in(precision):
        _logger.warning(f"uncalibrated: the model was calibrated in {calibration.precision}, not in {precision}")
        return None
    return calibration
