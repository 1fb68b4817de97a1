"""Sample an image bilinearly at many points."""

import cv2
import numpy as np

from pipeline.arrays import AnyArray, Float32s

# OpenCV accepts fewer than 2**15 rows, so points are arranged as a map of this width.
_WIDTH = 256


def sample(image: AnyArray, points: Float32s) -> AnyArray:
    """Sample an image (h, w) or (h, w, C) bilinearly. Points outside get the value of the nearest border pixel.

    Args:
        image: uint8 or float32.
        points: (N, 2) float32 px, OpenCV's convention.

    Returns:
        (N,) or (N, C), of the image's type.
    """
    rows = max(1, -(-len(points) // _WIDTH))
    padded = np.zeros((rows * _WIDTH, 2), np.float32)
    padded[: len(points)] = points
    x, y = np.moveaxis(padded.reshape(rows, _WIDTH, 2), 2, 0)
    sampled = np.asarray(cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))
    return sampled.reshape(rows * _WIDTH, *image.shape[2:])[: len(points)]
