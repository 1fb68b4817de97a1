"""Dense points from known poses: one point for every image cell that is matched in other frames.

The centres of the free cells of a reference frame are matched in neighbouring frames; matches that agree with the poses
are triangulated. A cell of a frame holds at most one observation, so that a surface patch seen by several references
yields one point: taken cells are not matched again, and a new point keeps only its observations in free cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pycolmap

from pipeline.arrays import Bools, Float32s, Float64s, Ints
from pipeline.data.tracks import Tracks
from pipeline.finder import Finder, Found
from sfm.mapping.cleaning import depth_uncertainty
from sfm.mapping.track_model import TrackModel, keep_points, triangulate_all
from sfm.mapping.triangulation import Limits, bearing_vectors, camera_centers, reprojection_errors

# An observation may be off by this many times the largest error from the point at the median depth.
_NEAR = 4.0


@dataclass(frozen=True)
class DenseLimits:
    """Acceptance limits of dense points.

    Attributes:
        points: limits of reprojection error, views and triangulation angle.
        depth_uncertainty: largest standard deviation of the depth, as a share of the distance.
    """

    points: Limits
    depth_uncertainty: float


class Lattice:
    """Square cells of all frames of a video, each free or taken by one observation.

    Args:
        usable: (H, W) bool, pixels that show tissue in every frame.
        frames: number of frames F.
        cell_px: side of a cell, px.
    """

    def __init__(self, usable: Bools, frames: int, cell_px: int) -> None:
        height, width = usable.shape
        self._cell_px = cell_px
        self._shape = -(-height // cell_px), -(-width // cell_px)
        rows, columns = np.indices(self._shape).reshape(2, -1)
        middles = np.column_stack([columns, rows]) * cell_px + cell_px / 2
        index = np.minimum(middles.astype(np.int64), [width - 1, height - 1])
        self._middles = middles.astype(np.float32)
        self._usable = usable[index[:, 1], index[:, 0]]
        self._taken = np.zeros((frames, len(middles)), bool)
        self._covered = np.zeros(frames, np.int64)

    def free(self, row: int, usable: Bools | None = None) -> Float32s:
        """Centres of the free usable cells of a frame: (N, 2) px.

        Args:
            row: row of the frame.
            usable: (H, W) bool, usable pixels of this frame; restricts those of all frames further.
        """
        kept = self._usable & ~self._taken[row]
        if usable is not None:
            index = np.minimum(self._middles.astype(np.int64), np.array(usable.shape[::-1]) - 1)
            kept = kept & usable[index[:, 1], index[:, 0]]
        return self._middles[kept]

    def admit(self, frame: Ints, pixels: Float32s, order: Ints) -> Bools:
        """Which observations may take their cell: (O,) bool, the first in `order` for each free cell."""
        place = self._place(frame, pixels)
        admitted = np.zeros(len(frame), bool)
        # np.unique returns the first of equal values.
        first = order[np.unique(place[order], return_index=True)[1]]
        admitted[first] = ~self._taken.reshape(-1)[place[first]]
        return admitted

    def take(self, frame: Ints, pixels: Float32s) -> None:
        """Mark the cells of observations as taken."""
        place = np.unique(self._place(frame, pixels))
        place = place[~self._taken.reshape(-1)[place]]
        self._taken.reshape(-1)[place] = True
        row, cell = np.divmod(place, len(self._middles))
        self._covered += np.bincount(row[self._usable[cell]], minlength=len(self._covered))

    @property
    def usable_cells(self) -> int:
        """Number of cells that show tissue in every frame."""
        return int(self._usable.sum())

    def coverage(self) -> Float64s:
        """(F,) share of the usable cells of each frame that are taken, 0..1."""
        return self._covered / max(1, self.usable_cells)

    def _place(self, frame: Ints, pixels: Float32s) -> Ints:
        column, row = np.floor(pixels / self._cell_px).astype(np.int64).T
        rows, columns = self._shape
        cell = np.clip(row, 0, rows - 1) * columns + np.clip(column, 0, columns - 1)
        return np.asarray(frame * len(self._middles) + cell, np.int64)


def densify_from(
    reference: int,
    find: Finder,
    lattice: Lattice,
    camera: pycolmap.Camera,
    cam_from_world: Float64s,
    limits: DenseLimits,
    usable: Bools | None = None,
) -> tuple[Tracks, Float64s]:
    """Reconstruct the points of one reference frame, and mark the cells of their observations as taken.

    Args:
        reference: row of the reference frame.
        find: finds pixels of a frame in other frames.
        lattice: cells of the video.
        camera: camera of all frames.
        cam_from_world: (F, 3, 4), NaN for frames without a pose.
        limits: acceptance limits of points.
        usable: (H, W) bool, usable pixels of the reference frame.

    Returns:
        Tracks of T points with all their observations, and the points (T, 3).
    """
    pixels = lattice.free(reference, usable)
    tracks = _tracks([(reference, np.arange(len(pixels)), pixels), *find(reference, pixels)], len(cam_from_world))
    tracks = tracks.select(_agree_on_depth(tracks, reference, pixels, camera, cam_from_world, limits.points.error_px))
    model = triangulate_all(camera, cam_from_world, tracks, limits.points)
    model = keep_points(model, tracks, depth_uncertainty(model, tracks) <= limits.depth_uncertainty)
    model = _in_free_cells(model, tracks, lattice, limits.points)
    lattice.take(tracks.frame[model.used], tracks.pixels[model.used])
    kept = tracks.select(model.used)
    numbers, renumbered = np.unique(kept.track, return_inverse=True)
    return Tracks(kept.frame_index, kept.frame, renumbered.astype(np.int64), kept.pixels), model.points[numbers]


def joined(parts: Sequence[tuple[Tracks, Float64s]], frame_index: Ints) -> tuple[Tracks, Float64s]:
    """Concatenate the points of several references: tracks sorted by frame, and points (T, 3)."""
    firsts = np.cumsum([0, *(tracks.track_count for tracks, _ in parts)])
    frame = np.concatenate([tracks.frame for tracks, _ in parts])
    track = np.concatenate([tracks.track + first for (tracks, _), first in zip(parts, firsts, strict=False)])
    pixels = np.concatenate([tracks.pixels for tracks, _ in parts])
    order = np.argsort(frame, kind="stable")
    points = np.concatenate([points for _, points in parts])
    return Tracks(frame_index, frame[order], track[order], pixels[order], len(points)), points


def _tracks(found: Sequence[Found], frames: int) -> Tracks:
    rows, points, pixels = zip(*found, strict=True)
    frame = np.repeat(np.array(rows, np.int64), [len(each) for each in points])
    order = np.argsort(frame, kind="stable")
    track, places = np.concatenate(points)[order], np.concatenate(pixels)[order]
    return Tracks(np.arange(frames), frame[order], track.astype(np.int64), places.astype(np.float32))


def _agree_on_depth(
    tracks: Tracks,
    reference: int,
    pixels: Float32s,
    camera: pycolmap.Camera,
    cam_from_world: Float64s,
    error_px: float,
) -> Bools:
    """Which observations (O,) are close to the point at the median depth along its ray in the reference.

    Each other view gives one depth along the ray, the more accurate the larger the angle between the two rays. The
    median of these depths, weighted by the sine of the angle, tolerates nearly half of the views being wrong;
    a triangulation from all views does not.
    """
    centers = camera_centers(cam_from_world)
    to_world = cam_from_world[:, :, :3].transpose(0, 2, 1)
    ahead = bearing_vectors(camera, pixels) @ to_world[reference].T
    rays = np.einsum("nij,nj->ni", to_world[tracks.frame], bearing_vectors(camera, tracks.pixels))
    baseline = centers[tracks.frame] - centers[reference]
    own = ahead[tracks.track]
    # Component of the reference ray orthogonal to the other ray.
    own_across = own - (own * rays).sum(axis=1, keepdims=True) * rays
    squared = (own_across**2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = (own_across * baseline).sum(axis=1) / squared
    tells = (tracks.frame != reference) & np.isfinite(depth) & (depth > 0)
    median = _weighted_median(tracks.track[tells], depth[tells], np.sqrt(squared[tells]), len(pixels))
    points = centers[reference] + median[:, None] * ahead
    near = reprojection_errors(tracks, points, camera, cam_from_world) < _NEAR * error_px
    return near | ((tracks.frame == reference) & np.isfinite(median)[tracks.track])


def _weighted_median(track: Ints, values: Float64s, weights: Float64s, count: int) -> Float64s:
    """(count,) weighted median of the values of each track; NaN for a track without values."""
    order = np.lexsort((values, track))
    track, values = track[order], values[order]
    total = np.bincount(track, weights[order], count)
    before = np.cumsum(total) - total
    below = np.cumsum(weights[order]) - before[track] < 0.5 * total[track]
    place = np.searchsorted(track, np.arange(count)) + np.bincount(track[below], minlength=count)
    result = np.full(count, np.nan)
    known = total > 0
    result[known] = values[np.minimum(place[known], len(values) - 1)]
    return result


def _in_free_cells(model: TrackModel, tracks: Tracks, lattice: Lattice, limits: Limits) -> TrackModel:
    """Remove observations in taken cells, and points that are left with too few views."""
    error_px = reprojection_errors(tracks, model.points, model.camera, model.cam_from_world)
    used = np.flatnonzero(model.used)
    order = np.argsort(error_px[used], kind="stable")
    admitted = np.zeros(len(model.used), bool)
    admitted[used] = lattice.admit(tracks.frame[used], tracks.pixels[used], order)
    views = np.bincount(tracks.track[admitted], minlength=tracks.track_count)
    model = TrackModel(model.camera, model.cam_from_world, model.points, admitted)
    return keep_points(model, tracks, views >= limits.views)
