"""A picture in which a wrong pose convention is seen at a glance: the points of a model projected on a frame."""

import cv2
import numpy as np
from cv2.typing import MatLike as Image

from pipeline.data.images import read_pixels
from pipeline.data.training_data import TrainingData, inside_mask
from pipeline.errors import LumenError

_SEEN = (80, 220, 80)
_OTHER = (60, 60, 200)
_TEXT = (235, 235, 235)


def draw_projections(data: TrainingData, view: int) -> Image:
    """Draw all points in front of a view: green where the view is listed as seeing the point, small and red elsewhere.

    Args:
        data: the model.
        view: a row of `data.frame_index`.

    Returns:
        (H, W, 3) uint8 BGR.

    Raises:
        LumenError: if the view's image cannot be read.
    """
    path = data.image_paths[view]
    image = read_pixels(path)
    if image is None:
        raise LumenError(f"{path} cannot be read as an image")
    everyone = np.arange(len(data.points))
    pixels, depth = data.project(everyone, np.full(len(everyone), view))
    in_frame = inside_mask(pixels, depth, np.full(data.mask.shape, 255, np.uint8))
    listed = np.isin(everyone, data.observation_point[data.observation_view == view])
    radius = max(1, round(data.height / 400))
    for point in np.flatnonzero(in_frame & ~listed):
        cv2.circle(image, pixels[point].astype(int).tolist(), max(1, radius // 2), _OTHER, cv2.FILLED)
    for point in np.flatnonzero(in_frame & listed):
        cv2.circle(image, pixels[point].astype(int).tolist(), radius, _SEEN, cv2.FILLED)
    inside = int((inside_mask(pixels, depth, data.mask) & listed).sum())
    text = f"frame {int(data.frame_index[view])}: {inside} of {int(listed.sum())} listed points inside the mask"
    scale = data.height / 900
    cv2.putText(
        image, text, (12, round(36 * scale) + 4), cv2.FONT_HERSHEY_SIMPLEX, scale, _TEXT, max(1, round(2 * scale))
    )
    return image
