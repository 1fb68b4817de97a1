"""Random images with texture everywhere."""

import cv2
import numpy as np


def textured_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """An image of blobs of several sizes, (H, W, 3) uint8."""
    random = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.float32)
    for sigma in (2, 5, 12):
        noise = cv2.GaussianBlur(random.normal(size=(height, width, 3)).astype(np.float32), (0, 0), sigma)
        image += noise / noise.std()
    return np.clip(127 + 35 * image, 0, 255).astype(np.uint8)
