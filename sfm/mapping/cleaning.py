"""Removal of unreliable points from a sparse model."""

from dataclasses import dataclass

import numpy as np

from pipeline.arrays import Float64s
from pipeline.color_consistency import color_inconsistency
from pipeline.data.tracks import Tracks
from sfm.mapping.track_model import TrackModel, keep_points
from sfm.mapping.triangulation import bearing_vectors, camera_centers, reprojection_errors, sum_by_track


@dataclass(frozen=True)
class Cleaning:
    """A cleaned model and the number of points removed by each criterion.

    Attributes:
        model: the cleaned model.
        uncertain: number of points removed for the uncertainty of their depth.
        inconsistent: number of points removed because their colour varies too much between views.
    """

    model: TrackModel
    uncertain: int
    inconsistent: int


def clean(
    model: TrackModel, tracks: Tracks, colors: Float64s, max_depth_uncertainty: float, inlier_percentage: float
) -> Cleaning:
    """Remove points with uncertain depth, then the share of points with the least consistent colour; keep all poses.

    Args:
        model: model after bundle adjustment.
        tracks: tracks of the whole video.
        colors: (O, 3) colour of each observation, 0..255; NaN where unknown.
        max_depth_uncertainty: largest standard deviation of a point, as a share of its distance.
        inlier_percentage: share of the points with the most consistent colour to keep, 0..1; named as in DDL.
    """
    before = model.point_count
    certain = depth_uncertainty(model, tracks) <= max_depth_uncertainty
    model = keep_points(model, tracks, certain)
    left = model.point_count
    used = model.used
    inconsistency = color_inconsistency(tracks.track[used], colors[used], tracks.track_count)
    known = np.isfinite(inconsistency) & np.isfinite(model.points[:, 0])
    if known.any():
        limit = np.quantile(inconsistency[known], inlier_percentage)
        model = keep_points(model, tracks, ~(known & (inconsistency > limit)))
    return Cleaning(model, before - left, left - model.point_count)


def depth_uncertainty(model: TrackModel, tracks: Tracks) -> Float64s:
    """Compute the standard deviation of each point along its most uncertain direction.

    It follows from the inverse of the normal matrix of the rays of the point (Hartley & Zisserman, Multiple View
    Geometry, section 5.2), with the noise estimated from the residuals of the whole model.

    Returns:
        (T,) standard deviation as a share of the mean distance; infinite where there is no point.
    """
    used = model.used
    if not used.any():
        return np.full(tracks.track_count, np.inf)
    track = tracks.track[used]
    error_px = reprojection_errors(tracks, model.points, model.camera, model.cam_from_world)[used]
    # An error is the norm of two independent components.
    noise_rad = np.sqrt((error_px**2).mean() / 2) / model.camera.mean_focal_length()
    rotations = model.cam_from_world[tracks.frame[used], :, :3]
    rays = np.einsum("nji,nj->ni", rotations, bearing_vectors(model.camera, tracks.pixels[used]))
    centers = camera_centers(model.cam_from_world)[tracks.frame[used]]
    distance = np.linalg.norm(model.points[track] - centers, axis=1)
    across = (np.eye(3) - rays[:, :, None] * rays[:, None, :]) / distance[:, None, None] ** 2
    normal = sum_by_track(track, across.reshape(-1, 9), tracks.track_count).reshape(-1, 3, 3)
    count = np.bincount(track, minlength=tracks.track_count)
    mean_distance = np.bincount(track, distance, tracks.track_count) / np.maximum(count, 1)
    result = np.full(tracks.track_count, np.inf)
    least = np.linalg.eigvalsh(normal[count > 0])[:, 0]
    with np.errstate(divide="ignore"):
        result[count > 0] = noise_rad / np.sqrt(np.maximum(least, 0)) / mean_distance[count > 0]
    return result
