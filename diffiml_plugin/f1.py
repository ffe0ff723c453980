"""Pixel-F1, the figure that everything here is judged by."""

from typing import TypeVar

import numpy as np
from torch import Tensor

_Count = TypeVar("_Count", float, np.ndarray, Tensor)


def pixel_f1(hits: _Count, called: _Count, tampered: _Count) -> _Count:
    """2 TP / (2 TP + FP + FN); 0 where nothing is tampered and nothing called so. IMDLBenCo's agrees within 5e-9.

    Args:
        hits: pixels that are tampered and called so, of one mask or of several in one shape.
        called: pixels that are called tampered.
        tampered: pixels that are.
    """
    both = called + tampered
    return 2 * hits / (both + (both == 0))
