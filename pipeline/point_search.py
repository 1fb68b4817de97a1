"""Finding the points of one frame in frames that lie farther and farther from it, directly: errors do not add up."""

from collections.abc import Callable, Iterator

import cv2
import numpy as np
import numpy.typing as npt
from cv2.typing import MatLike as Image

Floats = npt.NDArray[np.float32]

# A frame's row, which (M,) of the points asked for were found in it, and where (M, 2) float32 px.
Found = tuple[int, npt.NDArray[np.int64], Floats]
# Looks for pixels (N, 2) float32, COLMAP's convention, of a frame, given by its row, in frames of its choice.
Finder = Callable[[int, Floats], Iterator[Found]]

_MAX_RETURN_ERROR_PX = 0.5
_SAMPLED_AT_ONCE = 256
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
        found, places = self._check(there, back, mask)
        if found.mean() >= MIN_FOUND_SHARE:
            self._there, self._back = there, back
        return found, places

    def jump(self, image: Image, mask: Image, there: Floats, back: Floats) -> tuple[npt.NDArray[np.bool_], Floats]:
        """Find the points in any frame to which the flow is known roughly.

        Args:
            image, mask: as `advance` has them.
            there, back: (h, w, 2) float32 px, the flow to that frame and from it, to a few pixels.

        Returns:
            As `advance` does, whose next start stays what it was.
        """
        coarsest = self._flow.getCoarsestScale()
        self._flow.setCoarsestScale(_GUIDED_COARSEST_SCALE)
        try:
            return self._check(*self._improve(image, there, back), mask)
        finally:
            self._flow.setCoarsestScale(coarsest)

    def _improve(self, image: Image, there: Floats, back: Floats) -> tuple[Floats, Floats]:
        return (
            np.asarray(self._flow.calc(self._image, image, there.copy()), np.float32),
            np.asarray(self._flow.calc(image, self._image, back.copy()), np.float32),
        )

    def _check(self, flow_there: Floats, flow_back: Floats, mask: Image) -> tuple[npt.NDArray[np.bool_], Floats]:
        """Which points a flow leads to where points may be, and the other flow back from there to their start."""
        there = (self.points + _sample(flow_there, self.points)).astype(np.float32)
        returned = there + _sample(flow_back, there)
        index = np.round(there).astype(int)
        inside = ((index >= 0) & (index < (mask.shape[1], mask.shape[0]))).all(axis=1)
        index[~inside] = 0
        gap = returned - self.points
        close = np.linalg.norm(gap, axis=1) < _MAX_RETURN_ERROR_PX
        # The flow back is a second measurement of the same: take the middle.
        middle = (there - 0.5 * gap).astype(np.float32)
        return inside & close & (mask[index[:, 1], index[:, 0]] > 0), middle


def _sample(flow: Floats, points: Floats) -> Floats:
    """Read a flow (h, w, 2) at positions (N, 2), bilinearly: (N, 2)."""
    # OpenCV takes pictures of fewer than 2**15 rows: the positions are laid out as one.
    rows = -(-len(points) // _SAMPLED_AT_ONCE)
    places = np.zeros((rows * _SAMPLED_AT_ONCE, 2), np.float32)
    places[: len(points)] = points
    x, y = np.moveaxis(places.reshape(rows, _SAMPLED_AT_ONCE, 2), 2, 0)
    found = cv2.remap(flow, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(found.reshape(-1, 2)[: len(points)], np.float32)
