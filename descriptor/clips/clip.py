"""A sequence for training and evaluation: downsampled frames and point correspondences between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from descriptor.network_frame import NetworkFrame
from pipeline.arrays import Bools, Bytes, Float64s, Ints


@dataclass(frozen=True)
class PointPairs:
    """K corresponding points in two frames.

    Attributes:
        source, target: (K, 2) float64 px of the network's frame, COLMAP's convention.
    """

    source: Float64s
    target: Float64s

    def __len__(self) -> int:
        return len(self.source)

    def take(self, count: int, random: np.random.Generator) -> "PointPairs":
        """A random subset of at most `count` points."""
        if len(self) <= count:
            return self
        chosen = random.choice(len(self), count, replace=False)
        return PointPairs(self.source[chosen], self.target[chosen])

    def swapped(self) -> "PointPairs":
        return PointPairs(self.target, self.source)


class Correspondence(Protocol):
    """Point correspondences between frames, from an SfM model or from depth."""

    def between(self, source: int, target: int) -> PointPairs:
        """All known points that are visible in both rows and inside the content area of both."""


@dataclass(frozen=True)
class Clip:
    """One sequence at the network's size.

    Attributes:
        name: patient/sequence.
        frame_index: (V,) int64, frame index in the video of each row, ascending.
        images: (V, H, W, 3) uint8 RGB, memory-mapped.
        mask: (H, W) bool, pixels that show tissue.
        frame: position of the network's frame in the recorded frame.
        correspondence: correspondences between rows.
        image_paths: path of the recorded frame of each row.
        content: (H, W) uint8, content area of the recorded frames, 255 = tissue.
    """

    name: str
    frame_index: Ints
    images: Bytes
    mask: Bools
    frame: NetworkFrame
    correspondence: Correspondence
    image_paths: Sequence[Path]
    content: Bytes

    def rows_within(self, row: int, distances: tuple[int, int], rows: Ints | None = None) -> Ints:
        """Rows (of `rows`, or all) whose frames are `distances` (smallest, largest) before or after that of a row."""
        rows = np.arange(len(self.frame_index)) if rows is None else rows
        distance = np.abs(self.frame_index[rows] - self.frame_index[row])
        return rows[(distance >= distances[0]) & (distance <= distances[1])]
