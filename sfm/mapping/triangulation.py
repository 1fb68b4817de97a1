"""Triangulation of all tracks at once from known poses.

The linear multi-view solution: the point closest to all rays in the least-squares sense, weighted by the inverse square
of its depth so that it approximates the reprojection error (Hartley & Sturm, CVIU 1997, discuss both).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pycolmap

from pipeline.arrays import Bools, Float64s, Ints
from pipeline.data.tracks import Tracks

_MIN_DETERMINANT = 1e-12
# The error limit decreases by these factors in turn, so that a few outliers do not remove the inliers of their track.
_LIMIT_FACTORS = (4.0, 2.0, 1.0, 1.0)


@dataclass(frozen=True)
class Limits:
    """Acceptance limits of a point and its observations.

    Attributes:
        error_px: largest reprojection error of an observation.
        views: smallest number of observations of a point.
        angle_deg: smallest triangulation angle: the largest angle between two rays of a point.
    """

    error_px: float
    views: int
    angle_deg: float


def bearing_vectors(camera: pycolmap.Camera, pixels: npt.NDArray) -> Float64s:
    """Pixels (N, 2) → unit rays (N, 3) in camera coordinates."""
    rays: Float64s = np.asarray(camera.cam_ray_from_img(np.ascontiguousarray(pixels, np.float64)))
    return rays


def triangulate(
    tracks: Tracks, rays: Float64s, camera: pycolmap.Camera, cam_from_world: Float64s, limits: Limits
) -> tuple[Float64s, Bools]:
    """Triangulate every track from the frames that have a pose.

    Args:
        tracks: T tracks with O observations in F frames.
        rays: (O, 3) bearing vectors of the observations.
        camera: camera of all frames.
        cam_from_world: (F, 3, 4), NaN for frames without a pose.
        limits: acceptance limits.

    Returns:
        (T, 3) points, NaN for tracks without one, and (O,) bool, the observations that agree with their point.
    """
    usable = np.isfinite(cam_from_world[tracks.frame, 0, 0]) & np.isfinite(rays).all(axis=1)
    used = usable
    directions, centers = _world_rays(tracks, rays, cam_from_world)
    points = np.full((tracks.track_count, 3), np.nan)
    for factor in _LIMIT_FACTORS:
        points = _nearest_to_rays(tracks, directions, centers, used, points)
        error_px = reprojection_errors(tracks, points, camera, cam_from_world)
        # Restart from all usable observations: inliers that an outlier displaced become inliers again.
        used = usable & (error_px < factor * limits.error_px)
        used &= np.bincount(tracks.track[used], minlength=tracks.track_count)[tracks.track] >= limits.views
    used &= parallax_deg(tracks, points, centers, used)[tracks.track] >= limits.angle_deg
    points[np.bincount(tracks.track[used], minlength=len(points)) == 0] = np.nan
    return points, used


def reprojection_errors(
    tracks: Tracks, points: Float64s, camera: pycolmap.Camera, cam_from_world: Float64s
) -> Float64s:
    """Compute reprojection errors (O,) px.

    The error is infinite if the track has no point, the frame has no pose, or the point is not in front of the camera.
    """
    poses = cam_from_world[tracks.frame]
    in_camera = np.einsum("nij,nj->ni", poses[:, :, :3], points[tracks.track]) + poses[:, :, 3]
    known = np.isfinite(in_camera).all(axis=1) & (in_camera[:, 2] > 0)
    error_px = np.full(len(known), np.inf)
    projected = np.asarray(camera.img_from_cam(np.ascontiguousarray(in_camera[known])))
    error_px[known] = np.linalg.norm(projected - tracks.pixels[known], axis=1)
    return np.where(np.isfinite(error_px), error_px, np.inf)


def parallax_deg(tracks: Tracks, points: Float64s, centers: Float64s, used: Bools) -> Float64s:
    """Compute the triangulation angle of each point.

    It is the largest angle to the ray that is farthest from the mean ray: the largest angle between two rays if the
    camera moves along a line, and a lower bound of it otherwise.

    Args:
        tracks: T tracks with O observations.
        points: (T, 3).
        centers: (O, 3) camera centre of each observation.
        used: (O,) bool, observations to use.

    Returns:
        (T,) degrees; 0 for tracks without used observations.
    """
    track = tracks.track[used]
    rays = points[track] - centers[used]
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    mean = sum_by_track(track, rays, tracks.track_count)
    mean /= np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
    # The last ray of each track in this order is farthest from the mean.
    order = np.lexsort((-_cosine(rays, mean[track]), track))
    last = np.append(np.flatnonzero(np.diff(track[order])), len(track) - 1)[: len(track)]
    outermost = np.zeros((tracks.track_count, 3))
    outermost[track[order[last]]] = rays[order[last]]
    largest = np.zeros(tracks.track_count)
    np.maximum.at(largest, track, np.nan_to_num(np.arccos(_cosine(rays, outermost[track]))))
    return np.rad2deg(largest)


def _cosine(rays: Float64s, others: Float64s) -> Float64s:
    cosine: Float64s = np.clip((rays * others).sum(axis=1), -1, 1)
    return cosine


def camera_centers(cam_from_world: Float64s) -> Float64s:
    """Poses (F, 3, 4) → camera centres (F, 3) in the world; NaN for frames without a pose."""
    centers: Float64s = -np.einsum("nji,nj->ni", cam_from_world[:, :, :3], cam_from_world[:, :, 3])
    return centers


def _world_rays(tracks: Tracks, rays: Float64s, cam_from_world: Float64s) -> tuple[Float64s, Float64s]:
    rotations = cam_from_world[tracks.frame, :, :3]
    return np.einsum("nji,nj->ni", rotations, rays), camera_centers(cam_from_world)[tracks.frame]


def _nearest_to_rays(
    tracks: Tracks, directions: Float64s, centers: Float64s, used: Bools, points: Float64s
) -> Float64s:
    """(T, 3) points that minimise the sum of w |(I - d d^T)(x - c)|^2; w = 1 / depth^2 if known, otherwise 1."""
    track, directions, centers = tracks.track[used], directions[used], centers[used]
    distance = np.linalg.norm(points[track] - centers, axis=1)
    weight = np.where(np.isfinite(distance) & (distance > 0), 1 / np.maximum(distance, 1e-12) ** 2, 1.0)
    scale = sum_by_track(track, weight[:, None], tracks.track_count)[:, 0]
    weight = weight / scale[track]
    across = (np.eye(3) - directions[:, :, None] * directions[:, None, :]) * weight[:, None, None]
    normal = sum_by_track(track, across.reshape(-1, 9), tracks.track_count).reshape(-1, 3, 3)
    right = sum_by_track(track, np.einsum("nij,nj->ni", across, centers), tracks.track_count)
    solvable = np.linalg.det(normal) > _MIN_DETERMINANT
    solution = np.full((tracks.track_count, 3), np.nan)
    solution[solvable] = np.linalg.solve(normal[solvable], right[solvable][..., None])[..., 0]
    return solution


def sum_by_track(track: Ints, values: Float64s, count: int) -> Float64s:
    """Sum the rows (N, C) of each track: (T, C)."""
    return np.stack([np.bincount(track, column, count) for column in values.T], axis=1).astype(np.float64)
