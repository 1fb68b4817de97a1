"""Removes uneven lighting from frames: the light moves with the camera, but only tissue should be tracked."""

import cv2
import numpy as np
from cv2.typing import MatLike as Image

from pipeline.arrays import Float32s

_DENOISE_PX = 0.8
# Structures wider than this are shading, not tissue.
_SHADING_PX = 16.0
_CONTRAST = 40.0
_LEAST_DEVIATION = 1.0


def even_out(image: Image, content: Float32s) -> Image:
    """Subtract the local mean and divide by the local deviation, both computed inside the content area only.

    Args:
        image: (h, w) uint8, one channel.
        content: (h, w), 1 inside the content area and 0 outside.

    Returns:
        (h, w) uint8; 128 is the local mean, and the value outside the content area.
    """
    signal = np.asarray(cv2.GaussianBlur(image.astype(np.float32), (0, 0), _DENOISE_PX), np.float32)
    signal = (signal - _local_mean(signal, content, _SHADING_PX)) * content
    deviation = np.sqrt(_local_mean(signal**2, content, 2 * _SHADING_PX))
    return np.clip(128 + _CONTRAST * signal / (deviation + _LEAST_DEVIATION), 0, 255).astype(np.uint8)


def _local_mean(values: Float32s, weight: Float32s, sigma_px: float) -> Float32s:
    total = cv2.GaussianBlur(values * weight, (0, 0), sigma_px)
    mean: Float32s = total / (cv2.GaussianBlur(weight, (0, 0), sigma_px) + 1e-3)
    return mean
