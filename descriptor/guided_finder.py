"""Points found in any other frame, near or far: descriptors say where, to a few pixels, and optical flow that starts
there says it to a fraction of one.

A descriptor tells places apart that flow confuses (large motion, another light, a visit long after), but on a grid that
is coarser than the frame; flow is as fine as the frame, but has to begin near to the truth. Both ways are checked by
going back.
"""

import itertools
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from descriptor.described_frames import DescribedFrames
from descriptor.matching.matcher import SearchableFrame
from descriptor.matching.search import SearchEngine
from pipeline.point_search import Floats, PointSearch
from pipeline.working_frames import WorkingFrames

# A cell is found if the way there and back ends this near to it, cells.
_RETURN_CELLS = 2.0
# Chance gives a way back, too, but not to neighbours together: so many cells around, up to this far, have to move the
# same way to within a distance, and this share of those that were found.
_AROUND_CELLS = 2
_SAME_MOTION_CELLS = 2.0
_MIN_AGREEING, _MIN_AGREEING_SHARE = 3, 0.3
# Two frames show the same if this share of the cells that show tissue is found.
_MIN_FOUND_SHARE = 0.05
# Radii over which the motion is averaged, cells: the first that holds enough found cells counts.
_RADII_CELLS = (1.5, 4.0, 12.0, 36.0)
_ENOUGH_CELLS = 2.0

Booleans = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class CellMotion:
    """Where the cells of one frame are in another.

    Attributes:
        moved: (H, W, 2) float32, columns and rows that each cell has moved by; 0 where it was not found.
        found: (H, W) bool, whether the way there and back ends where it began, and those around move alike.
        found_share: of the cells that show tissue, 0..1.
    """

    moved: Floats
    found: Booleans
    found_share: float


def cell_motions(
    engine: SearchEngine, first: SearchableFrame, second: SearchableFrame
) -> tuple[CellMotion, CellMotion]:
    """The motion of every cell of two frames to the other one, each the proof of the other.

    Args:
        engine: that prepared both.
        first, second: of one size.
    """
    there, back = (_best_cells(engine, *pair) for pair in ((first, second), (second, first)))
    return _motion(there, back, first), _motion(back, there, second)


def _best_cells(engine: SearchEngine, source: SearchableFrame, target: SearchableFrame) -> npt.NDArray[np.int64]:
    """(H * W,) the best cell of the target for each of the source's; -1 where the source shows no tissue."""
    mask = source.described.mask.flatten().cpu()
    cells = mask.nonzero()[:, 0]
    wanted = source.described.values.flatten(1).T[cells.to(source.described.values.device)]
    best = np.full(len(mask), -1, np.int64)
    best[cells.numpy()] = engine.best(wanted, target.prepared).cell.cpu().numpy()
    return best


def _motion(there: npt.NDArray[np.int64], back: npt.NDArray[np.int64], frame: SearchableFrame) -> CellMotion:
    height, width = frame.described.mask.shape
    own = np.indices((height, width))[::-1].reshape(2, -1).T
    returned = back[there]
    known = (there >= 0) & (returned >= 0)
    gap = np.linalg.norm(_place(returned, width) - own, axis=1)
    found = known & (gap <= _RETURN_CELLS)
    moved = (_place(there, width) - own).astype(np.float32).reshape(height, width, 2)
    found = _moves_with_others(moved, found.reshape(height, width))
    tissue = int(frame.described.mask.sum())
    return CellMotion(np.where(found[..., None], moved, 0), found, float(found.sum() / max(1, tissue)))


def _place(cell: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.int64]:
    return np.stack([cell % width, cell // width], axis=-1)


def _moves_with_others(moved: Floats, found: Booleans) -> Booleans:
    """Which of the found cells (H, W) move as enough of the found cells around them do."""
    around = range(-_AROUND_CELLS, _AROUND_CELLS + 1)
    agreeing, others = np.zeros(found.shape, np.int64), np.zeros(found.shape, np.int64)
    margin = ((_AROUND_CELLS, _AROUND_CELLS),) * 2
    padded, padded_found = np.pad(moved, (*margin, (0, 0))), np.pad(found, margin)
    for down, right in itertools.product(around, around):
        if (down, right) == (0, 0):
            continue
        rows = slice(_AROUND_CELLS + down, _AROUND_CELLS + down + found.shape[0])
        columns = slice(_AROUND_CELLS + right, _AROUND_CELLS + right + found.shape[1])
        is_found = padded_found[rows, columns]
        alike = ((padded[rows, columns] - moved) ** 2).sum(axis=2) <= _SAME_MOTION_CELLS**2
        others += is_found
        agreeing += is_found & alike
    return found & (agreeing >= _MIN_AGREEING) & (agreeing >= _MIN_AGREEING_SHARE * others)


def smooth_motion(motion: CellMotion) -> Floats:
    """The motion (H, W, 2) of all cells, from the found ones around each, also over gaps."""
    moved, found = motion.moved, motion.found
    weight = found.astype(np.float32)
    result = np.zeros_like(moved)
    missing = np.ones(found.shape, bool)
    for radius in _RADII_CELLS:
        around = cv2.GaussianBlur(weight, (0, 0), radius, borderType=cv2.BORDER_CONSTANT)
        total = cv2.GaussianBlur(moved * weight[..., None], (0, 0), radius, borderType=cv2.BORDER_CONSTANT)
        # The sum of the weights over the Gaussian's area, in cells.
        enough = around * 2 * np.pi * radius**2 >= _ENOUGH_CELLS
        chosen = missing & enough
        result[chosen] = total[chosen] / around[chosen, None]
        missing &= ~enough
    return result


class GuidedFinder:
    """Finds points of a frame in any other frames.

    Args:
        frames: of the video, in which flow is computed.
        described: the same frames.
    """

    def __init__(self, frames: WorkingFrames, described: DescribedFrames) -> None:
        self._frames, self._described = frames, described
        self._grid: tuple[Floats, npt.NDArray[np.float64]] | None = None

    def find(self, row: int, pixels: Floats, target: int) -> tuple[Booleans, Floats]:
        """Find points of one frame in another.

        Args:
            row: the frame of the points.
            pixels: (N, 2) px of the sequence's frames, COLMAP's convention.
            target: the row of the other frame.

        Returns:
            (N,) bool, which were found, and (N, 2) float32 px, where.
        """
        frame, other = self._frames[row], self._frames[target]
        first, second = self._described[row], self._described[target]
        nothing = np.zeros(len(pixels), bool), pixels
        if frame is None or other is None or first is None or second is None or not len(pixels):
            return nothing
        there, back = cell_motions(self._described.engine, first, second)
        if min(there.found_share, back.found_share) < _MIN_FOUND_SHARE:
            return nothing
        search = PointSearch(frame.image, self._frames.working_from_colmap(pixels))
        flows = (self._working_flow(motion, first) for motion in (there, back))
        found, places = search.jump(other.image, other.mask, *flows)
        return found, self._frames.colmap_from_working(places)

    def _working_flow(self, motion: CellMotion, frame: SearchableFrame) -> Floats:
        """The motion of every pixel (h, w, 2) of a working frame, from that of the cells."""
        if self._grid is None:
            self._grid = self._cells_of_working_pixels(frame)
        cells, working_px_per_cell = self._grid
        x, y = cells[..., 0], cells[..., 1]
        flow = cv2.remap(smooth_motion(motion), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(flow * working_px_per_cell, np.float32)

    def _cells_of_working_pixels(self, frame: SearchableFrame) -> tuple[Floats, npt.NDArray[np.float64]]:
        """The column and row (h, w, 2) of the map at every working pixel, and working pixels per cell.

        All frames of a video have one content area, and so one grid.
        """
        width, height = self._frames.size
        working = np.indices((height, width))[::-1].reshape(2, -1).T.astype(np.float32)
        image = self._frames.colmap_from_working(working)
        network = frame.described.frame.network_from_image(image.astype(np.float64))
        # The middle of the first cell is at (0.5, 0.5).
        cells = (network - 0.5).astype(np.float32).reshape(height, width, 2)
        corners = self._frames.working_from_colmap(
            frame.described.frame.image_from_network(np.array([[0.0, 0.0], [1.0, 1.0]])).astype(np.float32)
        )
        return cells, (corners[1] - corners[0]).astype(np.float64)
