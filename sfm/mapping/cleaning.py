"""Removing points of a sparse cloud that are not to be trusted."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.color_consistency import color_inconsistency
from pipeline.data.tracks import Tracks
from sfm.mapping.track_model import TrackModel, keep_points
from sfm.mapping.triangulation import bearing_vectors, camera_centers, reprojection_errors, sum_by_track

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Cleaning:
    """How many points went, and why.

    Attributes:
        model: what is left.
        uncertain: points whose depth is too uncertain.
        inconsistent: points whose colour differs too much from view to view.
    """

    model: TrackModel
    uncertain: int
    inconsistent: int


def clean(
    model: TrackModel, tracks: Tracks, colors: Floats, max_depth_uncertainty: float, inlier_percentage: float
) -> Cleaning:
    """Remove points of uncertain depth, and then the share whose colour is the least consistent; poses stay.

    Args:
        model: adjusted.
        tracks: of the whole video.
        colors: (O, 3) of each observation, 0..255; NaN where unknown.
        max_depth_uncertainty: largest standard deviation of a point, as a share of its distance.
        inlier_percentage: share of the points to keep by colour, 0..1; DDL's name for it.
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


def depth_uncertainty(model: TrackModel, tracks: Tracks) -> Floats:
    """(T,) standard deviation of each point along its most uncertain direction, as a share of its mean distance.

    From the inverse of the normal matrix of its rays (Hartley & Zisserman, Multiple View Geometry, section 5.2), with
    the residuals of the whole model as the noise. Infinite where there is no point.
    """
    used = model.used
    if not used.any():
        return np.full(tracks.track_count, np.inf)
    track = tracks.track[used]
    error_px = reprojection_errors(tracks, model.points, model.camera, model.cam_from_world)[used]
    # An error is the length of two independent components.
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
