"""Local contrast: what little texture tissue has, made as strong in the dark as in the light."""

import cv2
import numpy as np
import numpy.typing as npt

Frames = npt.NDArray[np.uint8]

# Levels added to the local deviation, so that the noise of flat places stays small.
_NOISE_LEVELS = 3.0
# A deviation of one becomes this many levels about the middle.
_LEVELS = 50.0
_MIDDLE = 128


def normalize_locally(frames: Frames, masks: npt.NDArray[np.bool_], radius_px: float) -> Frames:
    """Give each channel of frames the same mean and deviation everywhere (divisive normalisation).

    The light moves with the scope, so shading belongs to the view and texture to the tissue. Mean and deviation are
    weighted by a Gaussian and taken over tissue alone.

    Args:
        frames: (N, H, W, 3) uint8 RGB.
        masks: (N, H, W) bool, pixels that show tissue; the others become black.
        radius_px: standard deviation of the Gaussian; 0 leaves frames as they are.
    """
    if radius_px <= 0:
        return frames
    changed = np.empty_like(frames)
    for before, mask, after in zip(frames, masks, changed, strict=True):
        tissue = mask.astype(np.float32)[..., None]
        weight = np.maximum(_blur(tissue, radius_px), 1e-3)
        values = before * tissue
        values -= _blur(values, radius_px) / weight
        values *= tissue
        deviation = np.sqrt(_blur(values * values, radius_px) / weight)
        after[:] = np.clip(_MIDDLE + _LEVELS * values / (deviation + _NOISE_LEVELS), 0, 255) * tissue
    return changed


def _blur(values: npt.NDArray[np.float32], radius_px: float) -> npt.NDArray[np.float32]:
    return np.asarray(cv2.GaussianBlur(values, (0, 0), radius_px), np.float32).reshape(values.shape)
