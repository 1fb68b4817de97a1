"""Points of a model projected into an image: a wrong pose convention is obvious at a glance."""

import cv2
import numpy as np
from cv2.typing import MatLike as Image

from pipeline.data.images import read_pixels
from pipeline.data.training_data import TrainingData, inside_mask
from pipeline.errors import LumenError

_OBSERVED = (80, 220, 80)
_OTHER = (60, 60, 200)
_TEXT = (235, 235, 235)


def draw_projections(data: TrainingData, view: int) -> Image:
    """Draw all points in front of a view: green if the view observes the point, small and red otherwise.

    Args:
        data: poses and points.
        view: row of `data.frame_index`.

    Returns:
        (H, W, 3) uint8 BGR.

    Raises:
        LumenError: if the image of the view cannot be read.
    """
    path = data.image_paths[view]
    image = read_pixels(path)
    if image is None:
        raise LumenError(f"{path} cannot be read as an image")
    every_point = np.arange(len(data.points))
    pixels, depth = data.project(every_point, np.full(len(every_point), view))
    in_frame = inside_mask(pixels, depth, np.full(data.mask.shape, 255, np.uint8))
    observed = np.isin(every_point, data.observation_point[data.observation_view == view])
    radius = max(1, round(data.height / 400))
    for point in np.flatnonzero(in_frame & ~observed):
        cv2.circle(image, pixels[point].astype(int).tolist(), max(1, radius // 2), _OTHER, cv2.FILLED)
    for point in np.flatnonzero(in_frame & observed):
        cv2.circle(image, pixels[point].astype(int).tolist(), radius, _OBSERVED, cv2.FILLED)
    inside = int((inside_mask(pixels, depth, data.mask) & observed).sum())
    text = f"frame {int(data.frame_index[view])}: {inside} of {int(observed.sum())} observed points inside the mask"
    scale = data.height / 900
    cv2.putText(
        image, text, (12, round(36 * scale) + 4), cv2.FONT_HERSHEY_SIMPLEX, scale, _TEXT, max(1, round(2 * scale))
    )
    return image
