"""Finds the points of one frame in increasingly distant frames, directly, so that errors do not accumulate."""

import cv2
import numpy as np
from cv2.typing import MatLike as Image

from pipeline.arrays import Bools, Float32s
from pipeline.image_sampling import sample

_MAX_RETURN_ERROR_PX = 0.5
# A frame with a smaller share of found points does not initialise the flow of the next frame.
MIN_FOUND_SHARE = 0.05
# Refinement of a flow known to a few pixels starts at this scale; coarser scales would discard it.
_GUIDED_COARSEST_SCALE = 3


class PointSearch:
    """Dense optical flow (DIS; Kroeger et al., ECCV 2016) from one frame, with a forward-backward check.

    Args:
        image: (h, w) uint8, the frame of the points.
        points: (N, 2) float32 px, OpenCV's convention.
        preset: preset of cv2.DISOpticalFlow.
    """

    def __init__(self, image: Image, points: Float32s, preset: int = cv2.DISOPTICAL_FLOW_PRESET_MEDIUM) -> None:
        self.points = points
        self._image = image
        self._flow = cv2.DISOpticalFlow.create(preset)
        # OpenCV overwrites its initial flow.
        self._there = np.zeros((*image.shape, 2), np.float32)
        self._back = self._there.copy()

    def advance(self, image: Image, mask: Image) -> tuple[Bools, Float32s]:
        """Find the points in a frame close to the previous one.

        Args:
            image: (h, w) uint8.
            mask: (h, w) uint8, 255 where points are allowed.

        Returns:
            (N,) bool, whether each point was found; and (N, 2) float32 px, its position.
        """
        # Initialised with the flow to the last frame in which enough points were found.
        there, back = self._improve(image, self._there, self._back)
        found, places = self._return(there, back)
        found &= _is_inside(places, mask)
        if found.mean() >= MIN_FOUND_SHARE:
            self._there, self._back = there, back
        return found, places

    def jump(self, image: Image, mask: Image, motion: Float32s) -> tuple[Bools, Float32s]:
        """Find the points in any frame to which the motion is approximately known.

        The frame is first warped by the motion onto the points' frame. Flow, which compares upright patches of one
        size, then sees neither rotation nor scale.

        Args:
            image, mask: see `advance`.
            motion: (h, w, 2) float32 px, smooth displacement of each pixel to that frame, accurate to a few pixels.

        Returns:
            See `advance`; the initial flow of its next call is unchanged.
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

    def _improve(self, image: Image, there: Float32s, back: Float32s) -> tuple[Float32s, Float32s]:
        return (
            np.asarray(self._flow.calc(self._image, image, there.copy()), np.float32),
            np.asarray(self._flow.calc(image, self._image, back.copy()), np.float32),
        )

    def _return(self, flow_there: Float32s, flow_back: Float32s) -> tuple[Bools, Float32s]:
        """Whether each point passes the forward-backward check, and its position."""
        there = (self.points + sample(flow_there, self.points)).astype(np.float32)
        gap = there + sample(flow_back, there) - self.points
        close = np.linalg.norm(gap, axis=1) < _MAX_RETURN_ERROR_PX
        # The backward flow is a second measurement of the same motion: use the mean.
        return close, (there - 0.5 * gap).astype(np.float32)


def _is_inside(points: Float32s, mask: Image) -> Bools:
    """Which points (N, 2) lie on the mask."""
    index = np.round(points).astype(int)
    inside = ((index >= 0) & (index < (mask.shape[1], mask.shape[0]))).all(axis=1)
    index[~inside] = 0
    return np.asarray(inside & (mask[index[:, 1], index[:, 0]] > 0))
