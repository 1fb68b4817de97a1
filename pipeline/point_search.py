"""Finding the points of one frame in frames that lie farther and farther from it, directly: errors do not add up."""

import cv2
import numpy as np
import numpy.typing as npt
from cv2.typing import MatLike as Image

Floats = npt.NDArray[np.float32]

_MAX_RETURN_ERROR_PX = 0.5
# With fewer of the points than this, a frame tells nothing about the next one.
MIN_FOUND_SHARE = 0.05


class PointSearch:
    """Dense optical flow (DIS; Kroeger et al., ECCV 2016) from one frame, checked by going back.

    Args:
        image: (h, w) uint8, the frame of the points.
        points: (N, 2) float32 px, OpenCV's convention.
        preset: of cv2.DISOpticalFlow.
    """

    def __init__(self, image: Image, points: Floats, preset: int = cv2.DISOPTICAL_FLOW_PRESET_MEDIUM) -> None:
        self.points = points
        self._image = image
        self._flow = cv2.DISOpticalFlow.create(preset)
        # OpenCV writes into the flow that it is given to start from.
        self._there = np.zeros((*image.shape, 2), np.float32)
        self._back = self._there.copy()

    def advance(self, image: Image, mask: Image) -> tuple[npt.NDArray[np.bool_], Floats]:
        """Find the points in a frame that is not far from the one before.

        Args:
            image: (h, w) uint8.
            mask: (h, w) uint8, 255 where points may be.

        Returns:
            (N,) bool, which were found, and (N, 2) float32 px, where.
        """
        # Each starts from the flow to the last frame in which something was found.
        flow_there = np.asarray(self._flow.calc(self._image, image, self._there.copy()), np.float32)
        flow_back = np.asarray(self._flow.calc(image, self._image, self._back.copy()), np.float32)
        there = (self.points + _sample(flow_there, self.points)).astype(np.float32)
        returned = there + _sample(flow_back, there)
        index = np.round(there).astype(int)
        inside = ((index >= 0) & (index < (mask.shape[1], mask.shape[0]))).all(axis=1)
        index[~inside] = 0
        gap = returned - self.points
        close = np.linalg.norm(gap, axis=1) < _MAX_RETURN_ERROR_PX
        # The flow back is a second measurement of the same: take the middle.
        middle = (there - 0.5 * gap).astype(np.float32)
        found = inside & close & (mask[index[:, 1], index[:, 0]] > 0)
        if found.mean() >= MIN_FOUND_SHARE:
            self._there, self._back = flow_there, flow_back
        return found, middle


def _sample(flow: Floats, points: Floats) -> Floats:
    """Read a flow (h, w, 2) at positions (N, 2), bilinearly: (N, 2)."""
    x, y = points[:, :1], points[:, 1:]
    return np.asarray(cv2.remap(flow, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[:, 0], np.float32)
