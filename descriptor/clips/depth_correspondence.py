"""Dense correspondences between frames from depth maps of phantoms, CT or sensors."""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from descriptor.clips.clip import PointPairs
from descriptor.clips.sparse_correspondence import on_tissue
from descriptor.network_frame import NetworkFrame
from pipeline.arrays import Bools, Float32s, Float64s, Ints
from pipeline.conventions import colmap_from_index, index_from_colmap, opencv_from_colmap
from pipeline.data.depth_files import Steps, read_depth, read_depth_scale
from pipeline.data.training_data import TrainingData, project
from pipeline.errors import LumenError
from pipeline.paths import TrainingPaths

# Maximum distance of a point from the visible surface, as a share of the depth; one step of the depth map is added.
_DEPTH_TOLERANCE = 0.005
# Adjacent pixels lie on one surface if the slope of inverse depth changes by at most this share of the inverse depth:
# interpolation is then within the tolerance. Otherwise there is an edge.
_BEND = 0.04
# Between pixel centres, an occluding rim may be nearer than at the centres by this share of its depth.
_RIM = 0.02
# Memory for depth maps; at least two are cached.
_CACHE_BYTES = 128 * 2**20


class DepthCorrespondence:
    """Projects pixels of one frame into another by depth, and compares them with the depth there.

    Args:
        data: the model; depth is in its world units.
        sequence: folder of the sequence.
        frame: position of the network's frame in the recorded frames.
        mask: (H, W) bool, pixels of the network's frame that show tissue.
        stride: use every N-th pixel of the network's frame, in both directions.

    Raises:
        LumenError: if the sequence has no depth, or its `depth/scale.yaml` is missing or damaged.
    """

    def __init__(self, data: TrainingData, sequence: Path, frame: NetworkFrame, mask: Bools, stride: int = 1) -> None:
        paths = TrainingPaths.with_depth(sequence)
        if paths is None:
            raise LumenError(f"{sequence} has no depth maps ({TrainingPaths(sequence).depths.name}/)")
        self._data, self._frame, self._mask = data, frame, mask
        self._unit = read_depth_scale(paths.depth_scale)
        self._maps = _DepthMaps(paths, (data.width, data.height))
        self._source_index = _recorded_pixels(frame, mask, stride)

    @staticmethod
    def is_known_for(sequence: Path) -> bool:
        """Whether the best model of a sequence's folder has depth maps."""
        return TrainingPaths.with_depth(sequence) is not None

    def between(self, source: int, target: int) -> PointPairs:
        """Points that are visible and on tissue in both rows.

        Source positions are centres of the recorded pixels nearest to those of the network's frame, where depth is
        exact.

        Raises:
            LumenError: if a depth map is missing, damaged, or of another size or type.
        """
        seen = [self._maps.of(int(self._data.frame_index[row])) for row in (source, target)]
        column, row = self._source_index.T
        depth = seen[0].steps[row, column] * self._unit
        known = depth > 0
        recorded = colmap_from_index(self._source_index[known])
        moved, target_depth = self._carry(recorded, depth[known], source, target)
        in_source, in_target = (self._frame.network_from_image(pixels) for pixels in (recorded, moved))
        kept = on_tissue(in_target, self._mask) & (target_depth > 0)
        kept[kept] = self._is_visible(moved[kept], target_depth[kept], seen[1])
        return PointPairs(in_source[kept], in_target[kept])

    def _carry(self, pixels: Float64s, depth: Float64s, source: int, target: int) -> tuple[Float64s, Float64s]:
        """Project pixels (N, 2) of the recorded source frame into the target: (N, 2) px, and depth (N,)."""
        fx, fy, cx, cy = self._data.pinhole[source]
        points = np.column_stack([(pixels - [cx, cy]) / [fx, fy], np.ones(len(pixels))]) * depth[:, None]
        source_from_world, target_from_world = self._data.cam_from_world[[source, target]]
        rotation = target_from_world[:, :3] @ source_from_world[:, :3].T
        target_from_source = np.column_stack([rotation, target_from_world[:, 3] - rotation @ source_from_world[:, 3]])
        count = len(points)
        return project(
            points,
            np.broadcast_to(target_from_source, (count, 3, 4)),
            np.broadcast_to(self._data.pinhole[target], (count, 4)),
        )

    def _is_visible(self, pixels: Float64s, depth: Float64s, seen: "_DepthMap") -> Bools:
        """Whether points at pixels (N, 2) of the recorded frame, with depth (N,), lie on its visible surface."""
        height, width = seen.steps.shape
        exact = opencv_from_colmap(pixels)
        first = np.clip(np.floor(exact), 0, [width - 2, height - 2])
        right, down = np.clip(exact - first, 0, 1).T
        column, row = first.astype(np.int64).T
        corner, flat = row * width + column, seen.steps.ravel()
        corners = np.stack([flat[corner + offset] for offset in (0, 1, width, width + 1)]) * self._unit
        nearest = corners.min(axis=0)
        inverse = 1 / np.where(corners > 0, corners, np.inf)
        upper = inverse[0] + right * (inverse[1] - inverse[0])
        lower = inverse[2] + right * (inverse[3] - inverse[2])
        tolerance = _DEPTH_TOLERANCE * depth + self._unit
        with np.errstate(divide="ignore"):
            on_surface = np.abs(depth - 1 / (upper + down * (lower - upper))) <= tolerance
        # Beside an edge, only points in front of all surrounding pixels are certainly visible.
        in_front = (depth <= nearest + tolerance) & (depth >= (1 - _RIM) * nearest)
        return np.where(seen.is_smooth[row, column], on_surface, in_front)


def _recorded_pixels(frame: NetworkFrame, mask: Bools, stride: int) -> Ints:
    """Columns and rows (K, 2) of the recorded pixels that contain the centres of a lattice of network pixels."""
    lattice = np.zeros_like(mask)
    lattice[stride // 2 :: stride, stride // 2 :: stride] = True
    rows, columns = np.nonzero(lattice & mask)
    centres = frame.image_from_network(colmap_from_index(np.column_stack([columns, rows])))
    width, height = frame.image_size
    index = np.clip(index_from_colmap(centres), 0, [width - 1, height - 1])
    # A network frame with a higher resolution than the recorded one contains a recorded pixel several times.
    index = np.unique(index[:, ::-1], axis=0)[:, ::-1]
    return index[on_tissue(frame.network_from_image(colmap_from_index(index)), mask)]


@dataclass(frozen=True)
class _DepthMap:
    """The depth of a frame.

    Attributes:
        steps: (H, W) uint16; 0 = unknown.
        is_smooth: (H - 1, W - 1) bool, whether a pixel and its right, lower and lower-right neighbours lie on one
            surface.
    """

    steps: Steps
    is_smooth: Bools

    @classmethod
    def of(cls, steps: Steps) -> "_DepthMap":
        with np.errstate(divide="ignore"):
            # For a plane, inverse depth is linear in the image; depth is not.
            inverse = np.where(steps > 0, np.reciprocal(steps, dtype=np.float32), np.float32(0))
        along, down = _is_continuous(inverse), _is_continuous(inverse.T).T
        return cls(steps, along[:-1] & along[1:] & down[:, :-1] & down[:, 1:])


def _is_continuous(inverse: Float32s) -> Bools:
    """Whether each pixel and the next in its row lie on one surface: (H, W - 1), from (H, W) inverse depth."""
    slope = np.diff(inverse, axis=1)
    bend = np.abs(np.diff(slope, axis=1))
    least = np.full(slope.shape, np.inf, np.float32)
    # Beside an edge, the slope is continuous on one side only.
    least[:, 1:] = bend
    least[:, :-1] = np.minimum(least[:, :-1], bend)
    return least <= _BEND * np.minimum(inverse[:, 1:], inverse[:, :-1])


class _DepthMaps:
    """Depth maps of a sequence with a least-recently-used cache. Thread-safe."""

    def __init__(self, paths: TrainingPaths, size: tuple[int, int]) -> None:
        self._paths, self._size = paths, size
        self._most = max(2, _CACHE_BYTES // (3 * size[0] * size[1]))
        self._kept: OrderedDict[int, _DepthMap] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, frame_index: int) -> _DepthMap:
        """The depth map of a frame, by its index in the video."""
        with self._lock:
            if frame_index in self._kept:
                self._kept.move_to_end(frame_index)
                return self._kept[frame_index]
        found = _DepthMap.of(read_depth(self._paths.depth(frame_index), self._size))
        with self._lock:
            self._kept[frame_index] = found
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return found
