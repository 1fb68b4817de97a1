"""Draws groups of frames to train on together, with their shared points; determined by seed, step and number."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from descriptor.clips.clip import Clip, PointPairs
from pipeline.arrays import Bools, Bytes, Ints

# Attempts to draw frames with common points before giving up.
_ATTEMPTS = 100


@dataclass(frozen=True)
class Group:
    """Frames of one stretch of video, and the points shared by pairs of them.

    Attributes:
        images: (N, H, W, 3) uint8 RGB.
        masks: (N, H, W) bool, pixels that show tissue.
        pairs: (source, target), indices of frames of the group → their shared points; each pair once.
    """

    images: Bytes
    masks: Bools
    pairs: dict[tuple[int, int], PointPairs]


class GroupSampler:
    """Draws groups.

    Args:
        clips: clips to draw from, weighted by their number of rows.
        rows: rows of each clip to draw from, ascending.
        adjacent_range: smallest and largest distance between the frames of a pair, in frames of the video.
        frames: N, the number of frames of a group.
        points: maximum number of points per pair.
        seed: seed of all random choices.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        rows: Sequence[Ints],
        adjacent_range: tuple[int, int],
        frames: int,
        points: int,
        seed: int,
    ) -> None:
        self._clips, self._rows = clips, rows
        self._adjacent_range, self._frames, self._points, self._seed = adjacent_range, frames, points, seed
        weights = np.array([len(each) for each in rows], float)
        self._weights = weights / weights.sum()

    def draw(self, step: int, number: int) -> Group | None:
        """Draw one group of a step; None if no pair with common points is found."""
        random = np.random.default_rng([self._seed, step, number])
        for _ in range(_ATTEMPTS):
            which = int(random.choice(len(self._clips), p=self._weights))
            rows = self._stretch(which, random)
            pairs = self._pairs(self._clips[which], rows, random)
            if pairs:
                clip = self._clips[which]
                masks = np.repeat(clip.mask[None], len(rows), axis=0)
                return Group(np.asarray(clip.images[rows]), masks, pairs)
        return None

    def _stretch(self, which: int, random: np.random.Generator) -> Ints:
        """Random rows within the largest distance of each other."""
        rows, index = self._rows[which], self._clips[which].frame_index[self._rows[which]]
        highest = self._adjacent_range[1]
        # A stretch may start before the first frame, so that frames at both ends are drawn as often as others.
        first = int(random.integers(index[0] - highest // 2, index[-1] - highest // 2 + 1))
        inside = rows[(index >= first) & (index <= first + highest)]
        return np.sort(random.choice(inside, min(self._frames, len(inside)), replace=False))

    def _pairs(self, clip: Clip, rows: Ints, random: np.random.Generator) -> dict[tuple[int, int], PointPairs]:
        low, high = self._adjacent_range
        pairs = {}
        for target in range(len(rows)):
            for source in range(target):
                if low <= clip.frame_index[rows[target]] - clip.frame_index[rows[source]] <= high:
                    found = clip.correspondence.between(int(rows[source]), int(rows[target]))
                    if len(found):
                        pairs[source, target] = found.take(self._points, random)
        return pairs
