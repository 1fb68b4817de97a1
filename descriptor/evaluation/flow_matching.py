"""Matching by optical flow: directly between two frames, or tracked through all frames between them."""

import cv2
import numpy as np

from descriptor.clips.clip import Clip
from descriptor.clips.clip_frames import Remembered, read_recorded
from descriptor.flow.checked_flow import PointSearch
from descriptor.flow.even_light import even_out
from pipeline.arrays import Bytes, Float64s
from pipeline.conventions import colmap_from_opencv, opencv_from_colmap

# Both matchers use half the recorded size and the green channel, in which vessels have the highest contrast.
_SHRINK = 2
_CLAHE_LIMIT, _CLAHE_TILES = 3.0, (8, 8)
_KEPT_FRAMES = 128


class FlowMatcher:
    """DIS optical flow (Kroeger et al., ECCV 2016), medium preset, directly from one frame to the other."""

    name = "dis"

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._grey = Remembered(_equalized_green, _KEPT_FRAMES)

    def match(self, clip: Clip, source: int, target: int, points: Float64s) -> Float64s:
        """See `PairMatcher.match`."""
        flow = self._flow.calc(self._grey(clip, source), self._grey(clip, target), None)  # type: ignore[call-overload]
        small = points / _SHRINK
        places = opencv_from_colmap(small).astype(np.float32)
        moved = cv2.remap(flow, places[None, :, 0], places[None, :, 1], cv2.INTER_LINEAR, None, cv2.BORDER_REPLICATE)
        return np.asarray((small + moved[0]) * _SHRINK, np.float64)


class TrackMatcher:
    """DIS optical flow tracked through every frame in between, with a forward-backward check.

    Each flow is initialised with that of the previous frame. Few points survive over long distances, but these are
    accurate and measure the error of the reference. The edge of the content area does not move with the tissue, so the
    frames are evened out inside it.
    """

    name = "tracked"

    def __init__(self) -> None:
        self._content = Remembered(lambda clip, row: _half_size(clip.content), 1)
        self._even = Remembered(self._even_green, _KEPT_FRAMES)

    def match(self, clip: Clip, source: int, target: int, points: Float64s) -> Float64s:
        """See `PairMatcher.match`."""
        search = PointSearch(self._even(clip, source), opencv_from_colmap(points / _SHRINK).astype(np.float32))
        step = 1 if target > source else -1
        found, places = np.ones(len(points), bool), search.points
        for row in range(source + step, target + step, step):
            found, places = search.advance(self._even(clip, row), self._content(clip, 0))
        result = colmap_from_opencv(places.astype(np.float64)) * _SHRINK
        result[~found] = np.nan
        return np.asarray(result, np.float64)

    def _even_green(self, clip: Clip, row: int) -> Bytes:
        content = (self._content(clip, 0) == 255).astype(np.float32)
        return np.asarray(even_out(_half_size(read_recorded(clip, row)[..., 1]), content), np.uint8)


def _equalized_green(clip: Clip, row: int) -> Bytes:
    green = _half_size(read_recorded(clip, row)[..., 1])
    return np.asarray(cv2.createCLAHE(_CLAHE_LIMIT, _CLAHE_TILES).apply(green), np.uint8)


def _half_size(image: Bytes) -> Bytes:
    size = (round(image.shape[1] / _SHRINK), round(image.shape[0] / _SHRINK))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
