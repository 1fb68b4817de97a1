"""Finding the points of one frame in frames that lie farther and farther from it, directly: errors do not add up."""

import cv2
import numpy as np
import numpy.typing as npt
from cv2.typing import MatLike as Image

from pipeline.image_sampling import sample

Floats = npt.NDArray[np.float32]

_MAX_RETURN_ERROR_PX = 0.5
# With fewer of the points than this, a frame tells nothing about the next one.
MIN_FOUND_SHARE = 0.05
# Where a flow that is known to a few pixels is to be improved, coarser scales than this would only lose it.
_GUIDED_COARSEST_SCALE = 3


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
        there, back = self._improve(image, self._there, self._back)
        found, places = self._return(there, back)
        found &= _is_inside(places, mask)
        if found.mean() >= MIN_FOUND_SHARE:
            self._there, self._back = there, back
        return found, places

    def jump(self, image: Image, mask: Image, motion: Floats) -> tuple[npt.NDArray[np.bool_], Floats]:
        """Find the points in any frame to which the motion is known roughly.

        That frame is first brought over the points' frame by the motion, so that flow, which compares upright patches
        of one size, meets neither turns nor another scale.

        Args:
            image, mask: as `advance` has them.
            motion: (h, w, 2) float32 px, where each pixel is in that frame, to a few pixels, and smooth.

        Returns:
            As `advance` does, whose next start stays what it was.
        """
        rows, columns = np.indices(motion.shape[:2], np.float32)
        over = cv2.remap(image, columns + motion[..., 0], rows + motion[..., 1], cv2.INTER_LINEAR, borderValue=128)
        coarsest = self._flow.getCoarsestScale()
        self._flow.setCoarsestScale(_GUIDED_COARSEST_SCALE)
        still = np.zeros_like(motion)
        found, places = self._return(*self._improve(np.asarray(over, np.uint8), still, still))
        self._flow.setCoarsestScale(coarsest)
        there = (places + sample(motion, places)).astype(np.float32)
        return found & _is_inside(there, mask), there

    def _improve(self, image: Image, there: Floats, back: Floats) -> tuple[Floats, Floats]:
        return (
            np.asarray(self._flow.calc(self._image, image, there.copy()), np.float32),
            np.asarray(self._flow.calc(image, self._image, back.copy()), np.float32),
        )

    def _return(self, flow_there: Floats, flow_back: Floats) -> tuple[npt.NDArray[np.bool_], Floats]:
        """Which points the other flow leads back to their start, and where a flow leads them."""
        there = (self.points + sample(flow_there, self.points)).astype(np.float32)
        gap = there + sample(flow_back, there) - self.points
        close = np.linalg.norm(gap, axis=1) < _MAX_RETURN_ERROR_PX
        # The flow back is a second measurement of the same: take the middle.
        return close, (there - 0.5 * gap).astype(np.float32)


def _is_inside(points: Floats, mask: Image) -> npt.NDArray[np.bool_]:
    """Which points (N, 2) are where points may be."""
    index = np.round(points).astype(int)
    inside = ((index >= 0) & (index < (mask.shape[1], mask.shape[0]))).all(axis=1)
    index[~inside] = 0
    return np.asarray(inside & (mask[index[:, 1], index[:, 0]] > 0))
