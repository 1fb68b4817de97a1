"""Frames for point tracking: cropped to the content area, downsampled, with evened lighting."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from cv2.typing import MatLike as Image

from descriptor.flow.even_light import even_out
from pipeline.arrays import Float32s
from pipeline.conventions import WORKING_SIZE_PX, colmap_from_opencv, opencv_from_colmap
from pipeline.data.sequence_images import read_frame, read_frame_mask
from pipeline.paths import SequencePaths

_LEAST_DEVIATION = 1.0
# Twice the number of frames that one keyframe searches.
_FRAMES_HELD = 160
# Corners at the edge of the content area or of a highlight are caused by the scope and its light, not by tissue.
_EDGE_MARGIN_PX = 3


@dataclass(frozen=True)
class WorkingFrame:
    """A frame for point tracking.

    Attributes:
        image: (h, w) uint8, green channel, normalised to a local mean of 128 and a constant local deviation.
        mask: (h, w) uint8, 255 where points are allowed.
    """

    image: Image
    mask: Image


class WorkingFrames:
    """Working frames of a sequence by row, read on demand and cached.

    Args:
        paths: paths of the sequence.
        frame_index: frame indices of the rows.
        content_mask: (H, W) uint8, 255 = tissue.
    """

    def __init__(self, paths: SequencePaths, frame_index: Sequence[int], content_mask: Image) -> None:
        self._paths, self._content_mask = paths, content_mask
        self.frame_index = list(frame_index)
        left, top, width, height = cv2.boundingRect(content_mask)
        self._box = (slice(top, top + height), slice(left, left + width))
        self._corner = np.array([left, top])
        factor = min(1.0, WORKING_SIZE_PX / max(width, height))
        self.size = (max(1, round(width * factor)), max(1, round(height * factor)))
        self._full_from_working = np.array([width, height]) / self.size
        self.content = (self._shrink(content_mask) == 255).astype(np.float32)
        self._held: OrderedDict[int, WorkingFrame | None] = OrderedDict()

    def file(self, row: int) -> Path:
        """The image of a frame."""
        return self._paths.image(self.frame_index[row])

    def __len__(self) -> int:
        return len(self.frame_index)

    def __getitem__(self, row: int) -> WorkingFrame | None:
        """A frame; None if it cannot be read.

        Raises:
            LumenError: if the frame or its mask has another size than the content area.
        """
        if row not in self._held:
            self._held[row] = self._read(row)
            while len(self._held) > _FRAMES_HELD:
                self._held.popitem(last=False)
        self._held.move_to_end(row)
        return self._held[row]

    def colmap_from_working(self, points: Float32s) -> Float32s:
        """OpenCV's pixels of a working frame (N, 2) → the sequence's pixels in COLMAP's convention."""
        full = colmap_from_opencv(points.astype(np.float64)) * self._full_from_working + self._corner
        return full.astype(np.float32)

    def working_from_colmap(self, pixels: Float32s) -> Float32s:
        """The inverse of `colmap_from_working`."""
        small = (pixels.astype(np.float64) - self._corner) / self._full_from_working
        return opencv_from_colmap(small).astype(np.float32)

    def _read(self, row: int) -> WorkingFrame | None:
        height, width = self._content_mask.shape
        index = self.frame_index[row]
        frame = read_frame(self._paths, index, (width, height))
        if frame is None:
            return None
        usable = read_frame_mask(self._paths, index, self._content_mask)
        mask = (self._shrink(usable) == 255).astype(np.uint8) * 255
        side = 2 * _EDGE_MARGIN_PX + 1
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
        mask = cv2.erode(mask, disc, borderType=cv2.BORDER_CONSTANT, borderValue=0)
        small = self._shrink(frame[..., 1])
        if float(small[self.content > 0].std()) < _LEAST_DEVIATION:
            # A black or overexposed frame: flow reports every point as found, at its initial position.
            mask[:] = 0
        return WorkingFrame(even_out(small, self.content), mask)

    def _shrink(self, image: Image) -> Image:
        return cv2.resize(image[self._box], self.size, interpolation=cv2.INTER_AREA)
