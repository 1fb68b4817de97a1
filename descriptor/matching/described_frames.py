"""Described frames of a video, computed on demand and cached around the current frame."""

from collections.abc import Sequence

import cv2
import numpy as np

from descriptor.base import Descriptor
from descriptor.matching.engines.search import SearchEngine
from descriptor.matching.matcher import SearchableFrame
from pipeline.arrays import Bytes
from pipeline.data.sequence_images import read_frame
from pipeline.paths import SequencePaths

_MOST_BYTES = 10**9


class DescribedFrames:
    """Described frames by row, with bounded memory for videos of any length.

    Frames farthest from the current frame are dropped first, because nearby frames are used repeatedly.

    Args:
        descriptor: describes the frames.
        engine: engine that searches the frames.
        paths: paths of the sequence.
        frame_index: frame indices of the rows.
        mask: (H, W) uint8 content area, 255 = tissue.
        most_bytes: approximate size of the cache, which holds at least two frames.
    """

    def __init__(
        self,
        descriptor: Descriptor,
        engine: SearchEngine,
        paths: SequencePaths,
        frame_index: Sequence[int],
        mask: Bytes,
        most_bytes: int = _MOST_BYTES,
    ) -> None:
        self.engine = engine
        self._descriptor, self._paths, self._frame_index, self._mask = descriptor, paths, frame_index, mask
        self._most_bytes = most_bytes
        self._held: dict[int, SearchableFrame | None] = {}
        self._near = 0

    @property
    def length(self) -> int:
        """C, the length of a descriptor."""
        return self._descriptor.length

    def work_on(self, row: int) -> None:
        """Set the current frame; the cache keeps frames near it."""
        self._near = row

    def __getitem__(self, row: int) -> SearchableFrame | None:
        """A frame; None if it cannot be read.

        Raises:
            LumenError: if its size differs from the content area.
        """
        if row in self._held:
            return self._held[row]
        self._held[row] = found = self._describe(row)
        values = None if found is None else found.described.values
        # The engine's representation takes as much again.
        size = 1 if values is None else 2 * values.numel() * values.element_size()
        while len(self._held) > max(2, self._most_bytes // size):
            del self._held[max(self._held.keys() - {row}, key=lambda each: abs(each - self._near))]
        return found

    def _describe(self, row: int) -> SearchableFrame | None:
        height, width = self._mask.shape
        image = read_frame(self._paths, self._frame_index[row], (width, height))
        if image is None:
            return None
        rgb = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
        return SearchableFrame.of(self._descriptor.describe(rgb, self._mask), self.engine)
