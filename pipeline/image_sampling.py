"""Reading a picture at many places at once, between its pixels."""

import cv2
import numpy as np
import numpy.typing as npt

# OpenCV takes pictures of fewer than 2**15 rows: places are laid out as one of this width.
_WIDTH = 256


def sample(picture: npt.NDArray, points: npt.NDArray[np.float32]) -> npt.NDArray:
    """Read a picture (h, w) or (h, w, C) bilinearly; beyond its edge it goes on as at the edge.

    Args:
        picture: uint8 or float32.
        points: (N, 2) float32 px, OpenCV's convention.

    Returns:
        (N,) or (N, C) of the picture's type.
    """
    rows = max(1, -(-len(points) // _WIDTH))
    places = np.zeros((rows * _WIDTH, 2), np.float32)
    places[: len(points)] = points
    x, y = np.moveaxis(places.reshape(rows, _WIDTH, 2), 2, 0)
    found = np.asarray(cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))
    return found.reshape(rows * _WIDTH, *picture.shape[2:])[: len(points)]
