"""The edge target (DiffIML, Eq. 7); NumPy and OpenCV only, since loader workers call it."""

import cv2
import numpy as np
from numpy.typing import NDArray

_KERNEL = np.ones((3, 3), np.uint8)


def edge_map(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Eq. 7, `dilate(Canny(y))`: a band of about three pixels along every contour inside the image.

    Args:
        mask: [H, W] uint8 in {0, 1}.

    Returns:
        [H, W] uint8 in {0, 1}; all zero for an empty and for a full mask.
    """
    contour = cv2.Canny(mask * np.uint8(255), 100, 200)  # a binary mask has one step height: any thresholds do
    return (cv2.dilate(contour, _KERNEL) > 0).astype(np.uint8)
