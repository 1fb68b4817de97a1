"""Points of a frame found in other frames: by optical flow where it reaches, by descriptors beyond."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from descriptor.flow.flow_finder import Directions, FlowFinder
from descriptor.flow.working_frames import WorkingFrames
from descriptor.matching.guided_finder import GuidedFinder
from pipeline.arrays import Float32s
from pipeline.finder import Finder, Found

# Where flow found this share of the points, descriptors have little to add.
_REACHED_SHARE = 0.3
# Distances of the frames in which a reference image's points are searched grow by these factors.
_GROWTH, _DESCRIPTOR_GROWTH = 1.15, 1.5
# Descriptors search this much farther than flow does.
_DESCRIPTOR_REACH = 2.5


class CombinedFinder:
    """A `pipeline.finder.Finder` that uses optical flow, descriptors, or both.

    Args:
        flow: searches from near to far, or knows the result; None for descriptors alone.
        guided: searches in any frame; None for flow alone.
        rows: the frames in which `guided` searches for the points of a row.
    """

    def __init__(self, flow: Finder | None, guided: GuidedFinder | None, rows: Callable[[int], Iterable[int]]) -> None:
        self._flow, self._guided, self._rows = flow, guided, rows

    def __call__(self, reference: int, pixels: Float32s) -> Iterator[Found]:
        """Find pixels of a frame; see `pipeline.finder.Finder`. A pixel is found once in a frame."""
        by_flow: dict[int, np.ndarray] = {}
        if self._flow is not None:
            for row, which, places in self._flow(reference, pixels):
                by_flow[row] = which
                yield row, which, places
        if self._guided is None or not len(pixels):
            return
        for row in self._rows(reference):
            known = by_flow.get(row, np.zeros(0, np.int64))
            if len(known) >= _REACHED_SHARE * len(pixels):
                continue
            found, places = self._guided.find(reference, pixels, row)
            found[known] = False
            if found.any():
                yield row, np.flatnonzero(found), places[found]


def growing_offsets(first: int, last: int, factor: float) -> list[int]:
    """Distances from `first` to at most `last`: one more each time, or `factor` times as much where that is more."""
    offsets, next_one = [], float(first)
    while next_one <= last:
        offsets.append(int(next_one))
        next_one = max(int(next_one) + 1, next_one * factor)
    return offsets


def directions_by(offsets: list[int], frame_count: int) -> Callable[[int], Directions]:
    """To look at these distances after and before a row."""

    def directions(row: int) -> Directions:
        later = [row + offset for offset in offsets if row + offset < frame_count]
        return later, [row - offset for offset in offsets if row >= offset]

    return directions


def dense_finder(frames: WorkingFrames, guided: GuidedFinder | None, reach: int, *, uses_flow: bool) -> CombinedFinder:
    """Make the finder of dense points.

    Args:
        frames: of the sequence.
        guided: finds by descriptors; None for flow alone.
        reach: frames before and after a reference image in which flow searches.
        uses_flow: whether flow is used.
    """
    count = len(frames)
    flow = FlowFinder(frames, directions_by(growing_offsets(1, reach, _GROWTH), count)) if uses_flow else None
    first = max(1, reach // 4) if uses_flow else 1
    growth = _DESCRIPTOR_GROWTH if uses_flow else _GROWTH
    rows = directions_by(growing_offsets(first, round(_DESCRIPTOR_REACH * reach), growth), count)
    return CombinedFinder(flow, guided, lambda row: [each for direction in rows(row) for each in direction])


def pairs_per_reference(reach: int) -> int:
    """Largest number of frames in which flow searches for the points of a reference image."""
    return 2 * len(growing_offsets(1, reach, _GROWTH))
