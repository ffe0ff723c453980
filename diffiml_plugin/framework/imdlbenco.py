"""The door to IMDLBenCo: importing it prints and warns, which is kept off the user's terminal here, and would have
Python look for modules in the current folder, which may be anyone's.
"""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from diffiml_plugin.threads import quiet


class _FullPaths(list[str]):
    def append(self, entry: str) -> None:
        if os.path.isabs(entry):
            super().append(entry)


@contextmanager
def _no_relative_path_added() -> Iterator[None]:
    """Inside, nothing relative comes to `sys.path`, as some of the zoo's modules add `.` and `./modules`."""
    path = sys.path
    sys.path = _FullPaths(path)
    try:
        yield
    finally:
        path[:] = sys.path
        sys.path = path


with quiet(), warnings.catch_warnings(), _no_relative_path_added():
    warnings.simplefilter("ignore")
    import IMDLBenCo.model_zoo  # noqa: F401  (fills the registries)
    from IMDLBenCo.datasets import BalancedDataset, JsonDataset, denormalize
    from IMDLBenCo.evaluation import ImageAccuracy, ImageAUC, ImageF1
    from IMDLBenCo.registry import DATASETS, MODELS, POSTFUNCS
    from IMDLBenCo.transforms import get_albu_transforms
    from IMDLBenCo.transforms.iml_transforms import RandomInpainting
    from IMDLBenCo.transforms.robustness_wrapper import (
        GaussianBlurWrapper,
        GaussianNoiseWrapper,
        JpegCompressionWrapper,
    )

__all__ = [
    "DATASETS",
    "MODELS",
    "POSTFUNCS",
    "BalancedDataset",
    "GaussianBlurWrapper",
    "GaussianNoiseWrapper",
    "ImageAUC",
    "ImageAccuracy",
    "ImageF1",
    "JpegCompressionWrapper",
    "JsonDataset",
    "RandomInpainting",
    "denormalize",
    "get_albu_transforms",
]
