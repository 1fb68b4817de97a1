"""Sparse model of a video: poses of the frames, and a point for each track that agrees with them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pycolmap

from pipeline.arrays import Bools, Float64s
from pipeline.data.tracks import Tracks
from sfm.mapping.incremental import colmap_log, frame_name
from sfm.mapping.triangulation import Limits, bearing_vectors, camera_centers, reprojection_errors, triangulate

MIN_FRAME_POINTS = 30
_MIN_POSE_INLIER_SHARE = 0.25
_ADJUSTMENT_ITERATIONS = 12


@dataclass(frozen=True)
class TrackModel:
    """Poses and points of one connected part of a video with F frames, T tracks and O observations.

    Attributes:
        camera: camera of all frames.
        cam_from_world: (F, 3, 4) float64, NaN for frames without a pose.
        points: (T, 3) float64, NaN for tracks without a point.
        used: (O,) bool, observations that agree with their point.
    """

    camera: pycolmap.Camera
    cam_from_world: Float64s
    points: Float64s
    used: Bools

    @property
    def registered(self) -> Bools:
        """(F,) bool, frames with a pose."""
        return np.isfinite(self.cam_from_world[:, 0, 0])

    @property
    def point_count(self) -> int:
        return int(np.isfinite(self.points[:, 0]).sum())


def model_from_keyframes(
    reconstruction: pycolmap.Reconstruction, rows: dict[str, int], tracks: Tracks, limits: Limits
) -> TrackModel:
    """Triangulate the tracks with the camera and poses of a COLMAP model of some of the frames.

    Args:
        reconstruction: COLMAP model with one camera.
        rows: image name → row of the frame in `tracks.frame_index`.
        tracks: tracks of the whole video.
        limits: acceptance limits of points.
    """
    poses = np.full((len(tracks.frame_index), 3, 4), np.nan)
    for image_id in reconstruction.reg_image_ids():
        image = reconstruction.images[image_id]
        poses[rows[image.name]] = image.cam_from_world().matrix()
    camera = next(iter(reconstruction.cameras.values()))
    return triangulate_all(camera, poses, tracks, limits)


def register_frames(
    model: TrackModel, tracks: Tracks, rows: Iterable[int], max_error_px: float, seed: int
) -> tuple[TrackModel, dict[int, str]]:
    """Estimate the poses of frames from the points they observe (EPnP, Lepetit et al., IJCV 2009, in LO-RANSAC).

    Args:
        model: model with points.
        tracks: tracks of the whole video.
        rows: rows of the frames to register.
        max_error_px: largest reprojection error of an inlier.
        seed: random seed.

    Returns:
        The model with the new poses, and the reason for each frame of `rows` that has none.
    """
    poses = model.cam_from_world.copy()
    options = pycolmap.AbsolutePoseEstimationOptions()
    options.ransac.max_error = max_error_px
    options.ransac.random_seed = seed
    reasons = {}
    for row in rows:
        part = tracks.in_frame(row)
        points = model.points[tracks.track[part]]
        known = np.isfinite(points[:, 0])
        if known.sum() < MIN_FRAME_POINTS:
            reasons[row] = f"observes only {known.sum()} points of the model; {MIN_FRAME_POINTS} are needed"
            continue
        found = pycolmap.estimate_and_refine_absolute_pose(
            tracks.pixels[part][known].astype(np.float64), points[known], model.camera, options
        )
        inliers = found["num_inliers"] if found else 0
        if found and inliers >= max(MIN_FRAME_POINTS, _MIN_POSE_INLIER_SHARE * known.sum()):
            poses[row] = found["cam_from_world"].matrix()
        else:
            reasons[row] = f"only {inliers} of its {known.sum()} points agree on a pose"
    return replace(model, cam_from_world=poses), reasons


def refine(model: TrackModel, tracks: Tracks, limits: Limits, log: Path, *, refine_camera: bool = False) -> TrackModel:
    """Triangulate all tracks, run bundle adjustment, and remove observations, points and frames that do not agree.

    Args:
        model: model whose camera and poses are used.
        tracks: tracks of the whole video.
        limits: acceptance limits of points.
        log: file to which pycolmap's log is appended.
        refine_camera: also refine focal length and distortion.

    Returns:
        The refined model; frames that observe fewer than `MIN_FRAME_POINTS` points lose their pose.
    """
    model = triangulate_all(model.camera, model.cam_from_world, tracks, limits)
    if not model.point_count:
        return without_poor_frames(model, tracks)
    reconstruction, point_ids, frame_ids = reconstruction_from(model, tracks)
    _adjust(reconstruction, log, refine_camera)
    poses = model.cam_from_world.copy()
    for row, image_id in frame_ids.items():
        poses[row] = reconstruction.images[image_id].cam_from_world().matrix()
    points = model.points.copy()
    for track, point_id in point_ids.items():
        points[track] = reconstruction.points3D[point_id].xyz
    camera = next(iter(reconstruction.cameras.values()))
    model = TrackModel(camera, poses, points, model.used)
    error_px = reprojection_errors(tracks, points, camera, poses)
    model = replace(model, used=model.used & (error_px < limits.error_px))
    views = np.bincount(tracks.track[model.used], minlength=tracks.track_count)
    model = keep_points(model, tracks, views >= limits.views)
    return without_poor_frames(model, tracks)


def _adjust(reconstruction: pycolmap.Reconstruction, log: Path, refine_camera: bool) -> None:
    options = pycolmap.BundleAdjustmentOptions()
    options.refine_focal_length = refine_camera
    options.refine_extra_params = refine_camera
    options.print_summary = False
    options.ceres.loss_function_type = pycolmap.LossFunctionType.SOFT_L1
    options.ceres.solver_options.max_num_iterations = _ADJUSTMENT_ITERATIONS
    # Equivalent to pycolmap.bundle_adjustment, which always logs to the terminal.
    problem = pycolmap.BundleAdjustmentConfig()
    for image_id in reconstruction.reg_image_ids():
        problem.add_image(image_id)
    problem.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    with colmap_log(log):
        pycolmap.create_default_bundle_adjuster(options, problem, reconstruction).solve()


def without_poor_frames(model: TrackModel, tracks: Tracks) -> TrackModel:
    """Remove the poses of frames that observe fewer than `MIN_FRAME_POINTS` points."""
    seen = np.bincount(tracks.frame[model.used], minlength=len(tracks.frame_index))
    poses = np.where((seen < MIN_FRAME_POINTS)[:, None, None], np.nan, model.cam_from_world)
    return replace(model, cam_from_world=poses, used=model.used & np.isfinite(poses[tracks.frame, 0, 0]))


def keep_points(model: TrackModel, tracks: Tracks, kept: Bools) -> TrackModel:
    """Remove all points except those of the tracks in `kept`, (T,) bool."""
    return replace(model, points=np.where(kept[:, None], model.points, np.nan), used=model.used & kept[tracks.track])


def reconstruction_from(
    model: TrackModel, tracks: Tracks
) -> tuple[pycolmap.Reconstruction, dict[int, int], dict[int, int]]:
    """Convert a model to COLMAP: the frames with a pose, and the points with the observations that agree.

    Returns:
        The COLMAP model; track → point ID; frame row → image ID.
    """
    reconstruction = pycolmap.Reconstruction()
    camera = pycolmap.Camera(model.camera.todict())
    camera.camera_id = 1
    reconstruction.add_camera_with_trivial_rig(camera)
    used = model.used
    frame, track, pixels = tracks.frame[used], tracks.track[used], tracks.pixels[used]
    starts = np.searchsorted(frame, np.arange(len(tracks.frame_index) + 1))
    place = np.arange(len(frame)) - starts[frame]
    image_ids = {}
    for row in np.flatnonzero(model.registered).tolist():
        image = pycolmap.Image(
            name=frame_name(int(tracks.frame_index[row])),
            camera_id=1,
            image_id=row + 1,
            keypoints=pixels[starts[row] : starts[row + 1]].astype(np.float64),
        )
        reconstruction.add_image_with_trivial_frame(image, pycolmap.Rigid3d(model.cam_from_world[row]))
        image_ids[row] = row + 1
    by_track = np.argsort(track, kind="stable")
    numbers, firsts = np.unique(track[by_track], return_index=True)
    bounds = [*firsts.tolist(), len(track)]
    elements = list(zip((frame[by_track] + 1).tolist(), place[by_track].tolist(), strict=True))
    point_ids = {}
    for number, first, end in zip(numbers.tolist(), bounds, bounds[1:], strict=False):
        seen = pycolmap.Track([pycolmap.TrackElement(image_id, index) for image_id, index in elements[first:end]])
        point_ids[number] = reconstruction.add_point3D(model.points[number], seen)
    return reconstruction, point_ids, image_ids


def in_first_camera(model: TrackModel, tracks: Tracks) -> TrackModel:
    """Transform a model to a canonical world: the first registered camera is at the origin, looks along +z with y down,
    and the median distance of the observed points from their cameras is 1."""
    if not model.used.any():
        return model
    first = model.cam_from_world[np.flatnonzero(model.registered)[0]]
    centers = camera_centers(model.cam_from_world)[tracks.frame[model.used]]
    distance = np.median(np.linalg.norm(model.points[tracks.track[model.used]] - centers, axis=1))
    points = (model.points @ first[:, :3].T + first[:, 3]) / distance
    rotations = model.cam_from_world[:, :, :3] @ first[:, :3].T
    shifts = (model.cam_from_world[:, :, 3] - rotations @ first[:, 3]) / distance
    return replace(model, points=points, cam_from_world=np.concatenate([rotations, shifts[..., None]], axis=2))


def colored_reconstruction(model: TrackModel, tracks: Tracks, colors: Float64s) -> pycolmap.Reconstruction:
    """Convert a model to COLMAP, with colours and errors of the points.

    Args:
        model: model to convert.
        tracks: tracks of the whole video.
        colors: (T, 3) colour of each track, 0..255; NaN where unknown, which becomes black.
    """
    reconstruction, point_ids, _ = reconstruction_from(model, tracks)
    rounded = np.round(np.nan_to_num(colors)).astype(np.uint8)
    for track, point_id in point_ids.items():
        reconstruction.points3D[point_id].color = rounded[track]
    reconstruction.update_point_3d_errors()
    return reconstruction


def triangulate_all(camera: pycolmap.Camera, poses: Float64s, tracks: Tracks, limits: Limits) -> TrackModel:
    """Triangulate all tracks with poses (F, 3, 4), and keep the points within the limits."""
    rays = bearing_vectors(camera, tracks.pixels)
    points, used = triangulate(tracks, rays, camera, poses, limits)
    return TrackModel(camera, poses, points, used)
