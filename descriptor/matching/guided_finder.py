"""Finds points in any other frame: descriptors locate them to within a few pixels, and optical flow refines them to a
fraction of a pixel.

Descriptors distinguish places that flow confuses (large motion, changed light, a later revisit), but on a grid coarser
than the frame. Flow has the resolution of the frame, but needs an initial position close to the true one. Both are
checked forward and backward.
"""

import itertools
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from descriptor.base import DescriptorMap
from descriptor.flow.checked_flow import PointSearch
from descriptor.flow.working_frames import WorkingFrames
from descriptor.matching.described_frames import DescribedFrames
from descriptor.matching.engines.search import SearchEngine
from descriptor.matching.matcher import SearchableFrame
from pipeline.arrays import Bools, Float32s, Float64s, Ints

# Match every N-th cell in both directions: neighbouring cells are redundant.
_STEP = 2
# A cell is found if its reverse match ends within this distance, cells.
_RETURN_CELLS = 2.0
# Random matches can pass the reverse check, but neighbours then disagree. At least this many found neighbours, and this
# share of them, must have the same motion to within a distance in cells.
_AROUND = 2
_SAME_MOTION_CELLS = 3.0
_MIN_AGREEING, _MIN_AGREEING_SHARE = 3, 0.3
# Two frames overlap if this share of the matched cells is found.
_MIN_FOUND_SHARE = 0.05
# Radii over which the motion is averaged, in steps; the first with enough found cells is used.
_RADII = (1.0, 2.5, 7.0, 20.0)
_ENOUGH_CELLS = 1.5


@dataclass(frozen=True)
class CellMotion:
    """Motion of the cells of one frame to another, for every `_STEP`-th cell in both directions.

    Attributes:
        moved: (h, w, 2) float32, displacement in columns and rows of cells; 0 where not found.
        found: (h, w) bool, whether the reverse match ends near the start and the neighbours agree.
        found_share: share of the tissue cells that are found, 0..1.
    """

    moved: Float32s
    found: Bools
    found_share: float


def cell_motion(engine: SearchEngine, first: SearchableFrame, second: SearchableFrame) -> CellMotion:
    """Compute the motion of the cells of one frame to another.

    Args:
        engine: engine that prepared both frames.
        first, second: frames of the same size.
    """
    described = first.described
    height, width = described.mask.shape
    place = np.stack(np.meshgrid(np.arange(0, width, _STEP), np.arange(0, height, _STEP)), axis=-1)
    own = place[..., 1] * width + place[..., 0]
    tissue = described.mask.flatten().cpu().numpy()[own]
    there = np.full(own.shape, -1, np.int64)
    there[tissue] = _best(engine, described, own[tissue], second)
    known = there >= 0
    returned = np.full(own.shape, -1, np.int64)
    returned[known] = _best(engine, second.described, there[known], first)
    found = known & (np.linalg.norm(_place(returned, width) - place, axis=-1) <= _RETURN_CELLS)
    moved = (_place(there, width) - place).astype(np.float32)
    found = _moves_with_others(moved, found)
    return CellMotion(np.where(found[..., None], moved, 0), found, float(found.sum() / max(1, tissue.sum())))


def _best(engine: SearchEngine, described: DescriptorMap, cells: Ints, target: SearchableFrame) -> Ints:
    """The best target cells of cells (N,) of a map."""
    wanted = described.values.flatten(1).T[torch.from_numpy(cells).to(described.values.device)]
    return np.asarray(engine.best(wanted, target.prepared).cell.cpu().numpy())


def _place(cell: Ints, width: int) -> Ints:
    """Column and row (..., 2) of cell indices (...)."""
    return np.stack([cell % width, cell // width], axis=-1)


def _moves_with_others(moved: Float32s, found: Bools) -> Bools:
    """Which of the found cells (H, W) have the same motion as enough of the found cells around them."""
    around = range(-_AROUND, _AROUND + 1)
    agreeing, others = np.zeros(found.shape, np.int64), np.zeros(found.shape, np.int64)
    margin = ((_AROUND, _AROUND),) * 2
    padded, padded_found = np.pad(moved, (*margin, (0, 0))), np.pad(found, margin)
    for down, right in itertools.product(around, around):
        if (down, right) == (0, 0):
            continue
        rows = slice(_AROUND + down, _AROUND + down + found.shape[0])
        columns = slice(_AROUND + right, _AROUND + right + found.shape[1])
        is_found = padded_found[rows, columns]
        similar = ((padded[rows, columns] - moved) ** 2).sum(axis=2) <= _SAME_MOTION_CELLS**2
        others += is_found
        agreeing += is_found & similar
    return found & (agreeing >= _MIN_AGREEING) & (agreeing >= _MIN_AGREEING_SHARE * others)


def smooth_motion(motion: CellMotion) -> Float32s:
    """The motion (h, w, 2) of all cells, averaged over nearby found cells; fills gaps."""
    moved, found = motion.moved, motion.found
    weight = found.astype(np.float32)
    result = np.zeros_like(moved)
    missing = np.ones(found.shape, bool)
    for radius in _RADII:
        around = cv2.GaussianBlur(weight, (0, 0), radius, borderType=cv2.BORDER_CONSTANT)
        total = cv2.GaussianBlur(moved * weight[..., None], (0, 0), radius, borderType=cv2.BORDER_CONSTANT)
        # The blurred weight times the area of the Gaussian is the number of found cells.
        enough = around * 2 * np.pi * radius**2 >= _ENOUGH_CELLS
        chosen = missing & enough
        result[chosen] = total[chosen] / around[chosen, None]
        missing &= ~enough
    return result


class GuidedFinder:
    """Finds points of a frame in any other frame.

    Args:
        frames: working frames of the video, for optical flow.
        described: the same frames, described.
    """

    def __init__(self, frames: WorkingFrames, described: DescribedFrames) -> None:
        self._frames, self.described = frames, described
        self._grid: tuple[Float32s, Float64s] | None = None

    def find(self, row: int, pixels: Float32s, target: int) -> tuple[Bools, Float32s]:
        """Find points of one frame in another.

        Args:
            row: row of the frame with the points.
            pixels: (N, 2) px of the sequence's frames, COLMAP's convention.
            target: row of the other frame.

        Returns:
            (N,) bool, whether each point was found; and (N, 2) float32 px, its position.
        """
        self.described.work_on(row)
        frame, other = self._frames[row], self._frames[target]
        first, second = self.described[row], self.described[target]
        nothing = np.zeros(len(pixels), bool), pixels
        if frame is None or other is None or first is None or second is None or not len(pixels):
            return nothing
        motion = cell_motion(self.described.engine, first, second)
        if motion.found_share < _MIN_FOUND_SHARE:
            return nothing
        search = PointSearch(frame.image, self._frames.working_from_colmap(pixels))
        found, places = search.jump(other.image, other.mask, self._working_flow(motion, first))
        return found, self._frames.colmap_from_working(places)

    def _working_flow(self, motion: CellMotion, frame: SearchableFrame) -> Float32s:
        """The motion (h, w, 2) of every pixel of a working frame, interpolated from the cells."""
        if self._grid is None:
            self._grid = self._cells_of_working_pixels(frame)
        cells, working_px_per_cell = self._grid
        x, y = cells[..., 0], cells[..., 1]
        flow = cv2.remap(smooth_motion(motion), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(flow * working_px_per_cell, np.float32)

    def _cells_of_working_pixels(self, frame: SearchableFrame) -> tuple[Float32s, Float64s]:
        """Position (h, w, 2) of every working pixel on the grid of cells, and working pixels per cell of the map.

        All frames of a video share one content area and therefore one grid.
        """
        width, height = self._frames.size
        working = np.indices((height, width))[::-1].reshape(2, -1).T.astype(np.float32)
        image = self._frames.colmap_from_working(working)
        network = frame.described.frame.network_from_image(image.astype(np.float64))
        # The centre of the first cell is at (0.5, 0.5).
        cells = ((network - 0.5) / _STEP).astype(np.float32).reshape(height, width, 2)
        corners = self._frames.working_from_colmap(
            frame.described.frame.image_from_network(np.array([[0.0, 0.0], [1.0, 1.0]])).astype(np.float32)
        )
        return cells, (corners[1] - corners[0]).astype(np.float64)
