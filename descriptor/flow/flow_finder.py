"""Finds points of a frame in neighbouring frames by dense optical flow, directly from that frame."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from descriptor.flow.checked_flow import MIN_FOUND_SHARE, PointSearch
from descriptor.flow.working_frames import WorkingFrames
from pipeline.arrays import Float32s
from pipeline.finder import Found

# The search in one direction stops after more than this many consecutive frames with too few points found. A flash or a
# drop of water does not stop it.
_MAX_MISSES = 3

# Rows to search for a row's points, one iterable per direction in time, each ordered from near to far.
Directions = Sequence[Iterable[int]]


def search_by_flow(frames: WorkingFrames, row: int, points: Float32s, directions: Directions) -> Iterator[Found]:
    """Find points of a frame in other frames.

    Args:
        frames: working frames of the video.
        row: row of the frame with the points.
        points: (N, 2) px of the working frame, OpenCV's convention.
        directions: rows to search; each direction starts near `row`, and stops when points are lost.

    Yields:
        The points found in each frame, px of the working frame.
    """
    frame = frames[row]
    if frame is None or not len(points):
        return
    for targets in directions:
        search = PointSearch(frame.image, points)
        misses = 0
        for target in targets:
            other = frames[target]
            if other is None:
                continue
            found, places = search.advance(other.image, other.mask)
            misses = misses + 1 if found.mean() < MIN_FOUND_SHARE else 0
            if misses > _MAX_MISSES:
                break
            if not misses:
                yield target, np.flatnonzero(found), places[found]


class FlowFinder:
    """A `pipeline.finder.Finder` by optical flow.

    Args:
        frames: working frames of the video.
        directions: rows to search for the points of a row.
    """

    def __init__(self, frames: WorkingFrames, directions: Callable[[int], Directions]) -> None:
        self._frames, self._directions = frames, directions

    def __call__(self, reference: int, pixels: Float32s) -> Iterator[Found]:
        """Find pixels of a frame; see `pipeline.finder.Finder`."""
        points = self._frames.working_from_colmap(pixels)
        for row, which, places in search_by_flow(self._frames, reference, points, self._directions(reference)):
            yield row, which, self._frames.colmap_from_working(places)
