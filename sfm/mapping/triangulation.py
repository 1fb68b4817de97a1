"""Points from tracks and known poses, all at once.

The linear solution for many views: the point nearest to all rays in the least-squares sense, weighted by the inverse
square of its depth so that the error is measured in the images (Hartley & Sturm, CVIU 1997, discuss both).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pycolmap

from pipeline.data.tracks import Tracks

Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]

_MIN_DETERMINANT = 1e-12
# Residuals are cut at these multiples of the limit in turn, so that a few bad observations do not take the good ones of
# their track with them.
_LIMIT_FACTORS = (4.0, 2.0, 1.0, 1.0)


@dataclass(frozen=True)
class Limits:
    """What a point and its observations have to satisfy.

    Attributes:
        error_px: largest reprojection error of an observation.
        views: fewest observations of a point.
        angle_deg: smallest angle between some two of its rays.
    """

    error_px: float
    views: int
    angle_deg: float


def bearing_vectors(camera: pycolmap.Camera, pixels: npt.NDArray) -> Floats:
    """Pixels (N, 2) → unit rays (N, 3) in the camera's frame."""
    rays: Floats = np.asarray(camera.cam_ray_from_img(np.ascontiguousarray(pixels, np.float64)))
    return rays


def triangulate(
    tracks: Tracks, rays: Floats, camera: pycolmap.Camera, cam_from_world: Floats, limits: Limits
) -> tuple[Floats, Booleans]:
    """Triangulate every track from the frames that have a pose.

    Args:
        tracks: T tracks with O observations in F frames.
        rays: (O, 3) bearing vectors of the observations.
        camera: of all frames.
        cam_from_world: (F, 3, 4), NaN for frames without a pose.
        limits: what to accept.

    Returns:
        (T, 3) points, NaN where there is none, and (O,) which observations agree with them.
    """
    usable = np.isfinite(cam_from_world[tracks.frame, 0, 0]) & np.isfinite(rays).all(axis=1)
    used = usable
    directions, centers = _world_rays(tracks, rays, cam_from_world)
    points = np.full((tracks.track_count, 3), np.nan)
    for factor in _LIMIT_FACTORS:
        points = _nearest_to_rays(tracks, directions, centers, used, points)
        error_px = reprojection_errors(tracks, points, camera, cam_from_world)
        # What a bad observation put out comes back once that one is gone.
        used = usable & (error_px < factor * limits.error_px)
        used &= np.bincount(tracks.track[used], minlength=tracks.track_count)[tracks.track] >= limits.views
    used &= parallax_deg(tracks, points, centers, used)[tracks.track] >= limits.angle_deg
    points[np.bincount(tracks.track[used], minlength=len(points)) == 0] = np.nan
    return points, used


def reprojection_errors(tracks: Tracks, points: Floats, camera: pycolmap.Camera, cam_from_world: Floats) -> Floats:
    """(O,) px; infinite where the track has no point, the frame no pose, or the point is not in front of the camera."""
    poses = cam_from_world[tracks.frame]
    in_camera = np.einsum("nij,nj->ni", poses[:, :, :3], points[tracks.track]) + poses[:, :, 3]
    known = np.isfinite(in_camera).all(axis=1) & (in_camera[:, 2] > 0)
    error_px = np.full(len(known), np.inf)
    projected = np.asarray(camera.img_from_cam(np.ascontiguousarray(in_camera[known])))
    error_px[known] = np.linalg.norm(projected - tracks.pixels[known], axis=1)
    return np.where(np.isfinite(error_px), error_px, np.inf)


def parallax_deg(tracks: Tracks, points: Floats, centers: Floats, used: Booleans) -> Floats:
    """(T,) the angle from a point's ray that is farthest from the mean to the one farthest from that; 0 without rays.

    That is the largest angle between two of its rays where the camera moves along a line.

    Args:
        centers: (O, 3) the camera's centre of each observation.
        used: (O,) which observations count.
    """
    track = tracks.track[used]
    rays = points[track] - centers[used]
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    mean = sum_by_track(track, rays, tracks.track_count)
    mean /= np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
    # The last of each track in this order is farthest from the mean.
    order = np.lexsort((-_cosine(rays, mean[track]), track))
    last = np.append(np.flatnonzero(np.diff(track[order])), len(track) - 1)[: len(track)]
    outermost = np.zeros((tracks.track_count, 3))
    outermost[track[order[last]]] = rays[order[last]]
    largest = np.zeros(tracks.track_count)
    np.maximum.at(largest, track, np.nan_to_num(np.arccos(_cosine(rays, outermost[track]))))
    return np.rad2deg(largest)


def _cosine(rays: Floats, others: Floats) -> Floats:
    cosine: Floats = np.clip((rays * others).sum(axis=1), -1, 1)
    return cosine


def camera_centers(cam_from_world: Floats) -> Floats:
    """(F, 3, 4) poses → (F, 3) centres in the world; NaN where there is no pose."""
    centers: Floats = -np.einsum("nji,nj->ni", cam_from_world[:, :, :3], cam_from_world[:, :, 3])
    return centers


def _world_rays(tracks: Tracks, rays: Floats, cam_from_world: Floats) -> tuple[Floats, Floats]:
    rotations = cam_from_world[tracks.frame, :, :3]
    return np.einsum("nji,nj->ni", rotations, rays), camera_centers(cam_from_world)[tracks.frame]


def _nearest_to_rays(tracks: Tracks, directions: Floats, centers: Floats, used: Booleans, points: Floats) -> Floats:
    """(T, 3): the points that minimise the sum of w |(I - d d^T)(x - c)|^2, w = 1 / depth^2 where one is known."""
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


def sum_by_track(track: npt.NDArray[np.int64], values: Floats, count: int) -> Floats:
    """Add up the rows (N, C) of each track: (T, C)."""
    return np.stack([np.bincount(track, column, count) for column in values.T], axis=1).astype(np.float64)
