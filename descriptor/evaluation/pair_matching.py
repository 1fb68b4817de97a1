"""Methods that match points of one frame to another, in pixels of the recorded frames."""

from typing import Protocol

import numpy as np

from descriptor.base import Descriptor
from descriptor.clips.clip import Clip
from descriptor.clips.clip_frames import Remembered, read_recorded
from descriptor.matching.engines.torch_search import TorchSearch
from descriptor.matching.matcher import SearchableFrame, summit
from pipeline.arrays import Float64s
from pipeline.conventions import colmap_from_index

_DESCRIBED_FRAMES = 16


class PairMatcher(Protocol):
    """A matching method.

    Attributes:
        name: name in tables.
    """

    name: str

    def match(self, clip: Clip, source: int, target: int, points: Float64s) -> Float64s:
        """Match points (K, 2) of the recorded frame at row `source` to the frame at row `target`: (K, 2) px.

        NaN for points without a match.
        """


class DescriptorMatcher:
    """Matches each point to the target's tissue cell with the most similar descriptor.

    Args:
        descriptor: any backend.
        name: name in tables; default: the backend's name.
    """

    def __init__(self, descriptor: Descriptor, name: str = "") -> None:
        self.name = name or descriptor.name
        self._descriptor, self._engine = descriptor, TorchSearch()
        self._describe = Remembered(self._searchable, _DESCRIBED_FRAMES)

    def match(self, clip: Clip, source: int, target: int, points: Float64s) -> Float64s:
        """See `PairMatcher.match`."""
        wanted = self._describe(clip, source).described.at(points)
        searched = self._describe(clip, target)
        best = self._engine.best(wanted, searched.prepared)
        found = summit(wanted, searched.described, best.cell)
        return searched.described.frame.image_from_network(found)

    def _searchable(self, clip: Clip, row: int) -> SearchableFrame:
        return SearchableFrame.of(self._descriptor.describe(read_recorded(clip, row), clip.content), self._engine)


class RandomMatcher:
    """Matches each point to a random tissue pixel: the level of chance.

    Args:
        seed: seed of the random choice.
    """

    name = "random"

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def match(self, clip: Clip, source: int, target: int, points: Float64s) -> Float64s:
        """See `PairMatcher.match`."""
        row, column = np.nonzero(clip.content)
        chosen = self._random.integers(0, len(row), len(points))
        return colmap_from_index(np.stack([column[chosen], row[chosen]], axis=1))
