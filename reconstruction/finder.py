"""Where the points of a frame are looked for, and how: by flow where it reaches, by descriptors beyond."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from descriptor.flow.flow_finder import Directions
from descriptor.flow.point_search import Floats
from descriptor.matching.guided_finder import GuidedFinder
from pipeline.finder import Finder, Found

# Where flow found this share of the points, descriptors have little to add.
_REACHED_SHARE = 0.3


class CombinedFinder:
    """A `pipeline.finder.Finder` of one or two ways.

    Args:
        flow: goes from near to far, or knows what did; None does without.
        guided: looks in any frame; None does without.
        rows: in which frames `guided` looks for the points of a row.
    """

    def __init__(self, flow: Finder | None, guided: GuidedFinder | None, rows: Callable[[int], Iterable[int]]) -> None:
        self._flow, self._guided, self._rows = flow, guided, rows

    def __call__(self, reference: int, pixels: Floats) -> Iterator[Found]:
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
