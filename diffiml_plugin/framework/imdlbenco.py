"""The door to IMDLBenCo: importing it prints and warns, which is kept off the user's terminal here, and would have
Python look for modules in the current folder, which may be anyone's.
"""

import warnings

from diffiml_plugin.imports import no_relative_path_added
from diffiml_plugin.threads import quiet

with quiet(), warnings.catch_warnings(), no_relative_path_added():
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
