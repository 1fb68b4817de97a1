"""The camera's path: the model that explains the correspondences."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pycolmap

from pipeline.color_consistency import mean_colors
from pipeline.data.tracks import Integers, Tracks
from pipeline.data.training_files import read_training_data
from pipeline.errors import LumenError
from pipeline.outputs.files import read_yaml, write_bytes
from pipeline.paths import TrainingPaths
from pipeline.reconstruction_paths import ReconstructionPaths
from pipeline.report import StageReport
from reconstruction.config import ReconstructConfig
from sfm.colmap.model import frame_number
from sfm.colmap.writing import write_binary_model
from sfm.input_video import InputVideo
from sfm.mapping.clean_models import clean_models
from sfm.mapping.track_model import TrackModel, colored_reconstruction, in_first_camera, refine
from sfm.mapping.triangulation import Limits
from sfm.mapping.video import VideoModels, map_video, without_points
from sfm.models import figures_of, sample_colors

Floats = npt.NDArray[np.float64]

# Poses fit if this share of the frames keeps one when they are adjusted.
_MIN_FITTING_SHARE = 0.95

logger = logging.getLogger(__name__)


def map_skeleton(config: ReconstructConfig, video: InputVideo, paths: ReconstructionPaths, report: StageReport) -> None:
    """Find the camera's path; writes the models of `sparse`, the best first, and lists frames without a pose.

    Poses of a first SfM of the sequence are adjusted if every frame has one; otherwise mapping starts anew.

    Raises:
        NoReconstruction: if no model explains the tracks.
    """
    tracks = Tracks.load(paths.tracks)
    known = read_yaml(paths.keyframes)
    if video.camera is None:
        raise LumenError(f"{video.paths.root} is not calibrated, and its first SfM has not estimated the camera")
    limits = video.limits(config.max_error_px, config.min_views, config.min_angle_deg)
    with report.timed("mapping"):
        poses = _known_poses(video)
        found = None if poses is None else _adjusted(video.camera, poses, tracks, limits, paths)
        if found is None:
            keyframes: Integers = np.array(known["keyframes"], np.int64)
            found = map_video(
                *(tracks, keyframes, video.camera, limits, paths.mapping, paths.log, config.seed), refine_camera=False
            )
    with report.timed("clean"):
        colors = sample_colors(video.source, tracks, video.size)
        found = clean_models(found, tracks, colors, config.cleaning, report)
    found = replace(found, models=[in_first_camera(model, tracks) for model in found.models])
    with report.timed("write"):
        for number, model in enumerate(found.models):
            write_sparse(model, tracks, colors, paths.of_model(number))
        _tell(video, found, tracks, known["unreadable"], paths, report)


def _known_poses(video: InputVideo) -> Floats | None:
    """(F, 3, 4) of the sequence's training data, if every frame has one there."""
    if not TrainingPaths(video.paths.root).motion.exists():
        return None
    data = read_training_data(video.paths.root)
    rows = {index: row for row, index in enumerate(video.frame_index)}
    if len(data.frame_index) < len(rows) or not set(data.frame_index.tolist()) <= set(rows):
        return None
    poses: Floats = np.empty((len(rows), 3, 4))
    poses[[rows[int(index)] for index in data.frame_index]] = data.cam_from_world
    return poses


def model_numbers(paths: ReconstructionPaths) -> list[int]:
    """The numbers of the models in `sparse`, ascending."""
    folders = [file.parent for file in paths.sparse_models.glob("*/images.bin")]
    return sorted(int(folder.name) for folder in folders if folder.name.isdecimal())


def poses_of(model: pycolmap.Reconstruction, frame_index: Iterable[int]) -> Floats:
    """(F, 3, 4) cam_from_world of frames, NaN for those without a pose in a model."""
    rows = {index: row for row, index in enumerate(frame_index)}
    poses = np.full((len(rows), 3, 4), np.nan)
    for image_id in model.reg_image_ids():
        image = model.images[image_id]
        poses[rows[frame_number(image.name)]] = image.cam_from_world().matrix()
    return poses


def _adjusted(
    camera: pycolmap.Camera, poses: Floats, tracks: Tracks, limits: Limits, paths: ReconstructionPaths
) -> VideoModels | None:
    """The model with these poses adjusted; None if they do not fit the tracks."""
    nothing = np.full((tracks.track_count, 3), np.nan)
    model = TrackModel(camera, poses, nothing, np.zeros(len(tracks.frame), bool))
    rough = replace(limits, error_px=2 * limits.error_px)
    model = refine(refine(model, tracks, rough, paths.log), tracks, limits, paths.log)
    if model.registered.sum() < _MIN_FITTING_SHARE * len(poses):
        logger.warning("the poses of the first SfM do not fit what was followed: mapping starts anew")
        return None
    logger.info("the poses of the first SfM adjusted: %d frames, %d points", model.registered.sum(), model.point_count)
    return VideoModels([model], {})


def write_sparse(model: TrackModel, tracks: Tracks, colors: Floats, paths: ReconstructionPaths) -> None:
    """Write a model as COLMAP's."""
    shades = mean_colors(tracks.track[model.used], colors[model.used], tracks.track_count)
    reconstruction = colored_reconstruction(model, tracks, shades)
    write_binary_model(reconstruction, paths.sparse)


def _tell(
    video: InputVideo,
    found: VideoModels,
    tracks: Tracks,
    unreadable: Sequence[int],
    paths: ReconstructionPaths,
    report: StageReport,
) -> None:
    reasons = found.missing(tracks) | without_points(tracks) | dict.fromkeys(unreadable, "its image cannot be read")
    missing = {video.frame_index[row]: reasons[row] for row in sorted(reasons)}
    write_bytes(paths.unregistered, "".join(f"{index} {reason}\n" for index, reason in missing.items()).encode())
    figures = figures_of(found.models[0], tracks)
    report.counts |= {
        "frames": len(video.frame_index),
        "registered": int(np.any([model.registered for model in found.models], axis=0).sum()),
        "points": figures.points,
        "observations": figures.observations,
        "mean_track_length": round(figures.mean_track_length, 2),
        "mean_reprojection_error_px": round(figures.mean_error_px, 3),
        "models": [int(model.registered.sum()) for model in found.models],
    }
    for number, model in enumerate(found.models):
        figures = figures_of(model, tracks)
        facts = (number, figures.frames, len(video.frame_index), figures.points, figures.mean_error_px)
        logger.info("model %d: %d of %d frames, %d points, mean reprojection error %.2f px", *facts)
    if missing:
        index, reason = next(iter(missing.items()))
        count = f"{len(missing)} of {len(video.frame_index)} frames are in no model"
        report.warnings.append(f"{count}; the first is frame {index}: {reason}")
        logger.warning("%s; %s lists them", report.warnings[-1], paths.unregistered)
