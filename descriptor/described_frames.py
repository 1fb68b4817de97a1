"""A video's frames as an engine searches them: described when needed, and kept for a while."""

from collections import OrderedDict
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from descriptor.base import Descriptor
from descriptor.matching.matcher import SearchableFrame
from descriptor.matching.search import SearchEngine
from pipeline.paths import SequencePaths
from pipeline.sequence_images import read_frame

Bytes = npt.NDArray[np.uint8]


class DescribedFrames:
    """Described frames by row; memory goes with how many are held, not with the video's length.

    Args:
        descriptor: describes them.
        engine: that will search them.
        paths: the sequence.
        frame_index: its frames.
        mask: (H, W) uint8 content area, 255 = tissue.
        held: how many to keep.
    """

    def __init__(
        self,
        descriptor: Descriptor,
        engine: SearchEngine,
        paths: SequencePaths,
        frame_index: Sequence[int],
        mask: Bytes,
        held: int,
    ) -> None:
        self.engine = engine
        self._descriptor, self._paths, self._frame_index, self._mask = descriptor, paths, frame_index, mask
        self._most = held
        self._held: OrderedDict[int, SearchableFrame | None] = OrderedDict()

    def __getitem__(self, row: int) -> SearchableFrame | None:
        """A frame; None if it cannot be read.

        Raises:
            LumenError: if it is of another size than the content area.
        """
        if row not in self._held:
            self._held[row] = self._describe(row)
            while len(self._held) > self._most:
                self._held.popitem(last=False)
        self._held.move_to_end(row)
        return self._held[row]

    def _describe(self, row: int) -> SearchableFrame | None:
        height, width = self._mask.shape
        image = read_frame(self._paths, self._frame_index[row], (width, height))
        if image is None:
            return None
        rgb = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
        return SearchableFrame.of(self._descriptor.describe(rgb, self._mask), self.engine)
