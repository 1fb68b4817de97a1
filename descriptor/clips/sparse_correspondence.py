"""Sparse correspondences between frames from an SfM model, with DDL's rules of visibility and pruning."""

from typing import Self

import numpy as np

from descriptor.clips.clip import PointPairs
from descriptor.network_frame import NetworkFrame
from pipeline.arrays import Bools, Bytes, Float64s, Ints
from pipeline.color_consistency import color_inconsistency
from pipeline.data.training_data import TrainingData

# Points per block of the visibility computation, to bound memory.
_POINTS_AT_ONCE = 4096


class SparseCorrespondence:
    """Projections of an SfM model's points into the network's frames.

    A point counts as visible in a frame if it is observed in a frame at most `visibility_overlap` away.

    Args:
        data: the model.
        frame: position of the network's frame in the recorded frames.
        mask: (H, W) bool, pixels of the network's frame that show tissue.
        kept: (P,) bool, points to use.
        visibility_overlap: in frames of the video, before and after an observation.
    """

    def __init__(
        self, data: TrainingData, frame: NetworkFrame, mask: Bools, kept: Bools, visibility_overlap: int
    ) -> None:
        self._data, self._frame, self._mask = data, frame, mask
        self._visible = _visible_points(data, kept, visibility_overlap)

    @classmethod
    def pruned(
        cls,
        data: TrainingData,
        images: Bytes,
        frame: NetworkFrame,
        mask: Bools,
        visibility_overlap: int,
        inlier_percentage: float,
    ) -> Self:
        """Create correspondences without the points whose colour changes most between views.

        Args:
            data, frame, mask, visibility_overlap: as above.
            images: (V, H, W, 3) uint8, the network's frames.
            inlier_percentage: share of points to keep, 0..1.
        """
        kept = np.ones(len(data.points), bool)
        if inlier_percentage < 1:
            change = color_inconsistency(data.observation_point, _colors(data, images, frame), len(data.points))
            # Points of unknown colour are NaN and rank last.
            order = np.argsort(np.nan_to_num(change, nan=np.inf), kind="stable")
            kept[order[round(inlier_percentage * len(order)) :]] = False
        return cls(data, frame, mask, kept, visibility_overlap)

    def between(self, source: int, target: int) -> PointPairs:
        """Points that are visible and on tissue in both rows."""
        points = np.intersect1d(self._visible[source], self._visible[target], assume_unique=True)
        pixels, inside = zip(*(self._project(points, row) for row in (source, target)), strict=True)
        both = inside[0] & inside[1]
        return PointPairs(pixels[0][both], pixels[1][both])

    def _project(self, points: Ints, row: int) -> tuple[Float64s, Bools]:
        recorded, depth = self._data.project(points, np.full(len(points), row))
        pixels = self._frame.network_from_image(recorded)
        return pixels, on_tissue(pixels, self._mask) & (depth > 0)


def on_tissue(pixels: Float64s, mask: Bools) -> Bools:
    """Which pixels (N, 2) of the network's frame lie inside the frame and on its mask (H, W)."""
    height, width = mask.shape
    with np.errstate(invalid="ignore"):
        inside = (pixels >= 0).all(axis=1) & (pixels[:, 0] < width) & (pixels[:, 1] < height)
    column, row = np.floor(pixels[inside]).astype(np.int64).T
    inside[inside] = mask[row, column]
    return inside


def _visible_points(data: TrainingData, kept: Bools, overlap: int) -> list[Ints]:
    """The visible points of each view, ascending."""
    # An observation makes a point visible in a range of views: +1 at its start, -1 after its end.
    listed = data.frame_index[data.observation_view]
    begin = np.searchsorted(data.frame_index, listed - overlap)
    end = np.searchsorted(data.frame_index, listed + overlap, side="right")
    views = len(data.frame_index)
    found: list[list[Ints]] = [[] for _ in range(views)]
    for first in range(0, len(data.points), _POINTS_AT_ONCE):
        stop = min(first + _POINTS_AT_ONCE, len(data.points))
        part = slice(*np.searchsorted(data.observation_point, [first, stop]))
        change = np.zeros((stop - first, views + 1), np.int32)
        point = data.observation_point[part] - first
        np.add.at(change, (point, begin[part]), 1)
        np.add.at(change, (point, end[part]), -1)
        visible = (np.cumsum(change, axis=1)[:, :views] > 0) & kept[first:stop, None]
        for view, column in enumerate(visible.T):
            found[view].append(np.flatnonzero(column) + first)
    return [np.concatenate(parts) if parts else np.zeros(0, np.int64) for parts in found]


def _colors(data: TrainingData, images: Bytes, frame: NetworkFrame) -> Float64s:
    """The colour (O, 3) at each observation; NaN outside the network's frame."""
    pixels = frame.network_from_image(data.project(data.observation_point, data.observation_view)[0])
    colors = np.full((len(pixels), 3), np.nan)
    height, width = images.shape[1:3]
    inside = on_tissue(pixels, np.ones((height, width), bool))
    column, row = np.floor(pixels[inside]).astype(np.int64).T
    colors[inside] = images[data.observation_view[inside], row, column]
    return colors
