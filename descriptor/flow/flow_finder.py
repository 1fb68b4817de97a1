"""Points of a frame found in the frames around it by dense optical flow, straight from it."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from descriptor.flow.point_search import MIN_FOUND_SHARE, Floats, PointSearch
from descriptor.flow.working_frames import WorkingFrames
from pipeline.finder import Found

# A direction in time is given up when so few of the points are found in more frames than these, one after the other: a
# flash or a drop of water does not end it.
_MAX_MISSES = 3

# The rows in which to look for a row's points, later and earlier, each from near to far.
Directions = Sequence[Iterable[int]]


def search_by_flow(frames: WorkingFrames, row: int, points: Floats, directions: Directions) -> Iterator[Found]:
    """Find points of a frame in other frames.

    Args:
        frames: of the video.
        row: the frame of the points.
        points: (N, 2) px of the working frame, OpenCV's convention.
        directions: where to look; each begins near to `row`, and is given up when nothing more is found.

    Yields:
        What was found in each frame, px of the working frame.
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
    """A `descriptor.flow.point_search.Finder` by flow.

    Args:
        frames: of the video.
        directions: where to look for the points of a row.
    """

    def __init__(self, frames: WorkingFrames, directions: Callable[[int], Directions]) -> None:
        self._frames, self._directions = frames, directions

    def __call__(self, reference: int, pixels: Floats) -> Iterator[Found]:
        """Find pixels of a frame; see `descriptor.flow.point_search.Finder`."""
        points = self._frames.working_from_colmap(pixels)
        for row, which, places in search_by_flow(self._frames, reference, points, self._directions(reference)):
            yield row, which, self._frames.colmap_from_working(places)
