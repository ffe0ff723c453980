"""The door to IMDLBenCo: importing it prints and warns, which is kept off the user's terminal here."""

import warnings

from diffiml_plugin.threads import quiet

with quiet(), warnings.catch_warnings():
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
