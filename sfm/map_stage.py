"""Mapping: tracks → sparse models. `bootstrap.py` and `reconstruct.py` share it."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pycolmap

from pipeline.arrays import Float64s, Ints
from pipeline.color_consistency import mean_colors
from pipeline.data.tracks import Correspondences, Tracks
from pipeline.data.training_files import read_training_data
from pipeline.errors import LumenError
from pipeline.outputs.files import read_yaml
from pipeline.paths import MappingPaths, TrainingPaths
from pipeline.reconstruction_paths import ReconstructionPaths
from pipeline.report import StageReport
from sfm.colmap.model import frame_number
from sfm.colmap.writing import write_binary_model
from sfm.input_video import InputVideo
from sfm.mapping.clean_models import clean_models
from sfm.mapping.config import MapConfig
from sfm.mapping.track_model import TrackModel, colored_reconstruction, in_first_camera, refine
from sfm.mapping.triangulation import Limits
from sfm.mapping.video import VideoModels, map_video, without_points
from sfm.models import sample_colors
from sfm.output.summary import list_unregistered, report_models

_FOCAL_SPREAD_WARNED = 1.1
# Known poses are kept if this share of the frames still has one after the adjustment.
_MIN_FITTING_SHARE = 0.95
UNREADABLE = "its image cannot be read"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MappingCamera:
    """The camera to map with.

    Attributes:
        camera: of the frames as they are read.
        held: whether it stays fixed; otherwise it is adjusted with the first model.
        focal_range_px: the focal lengths that explain the video about as well; None if it was not estimated.
    """

    camera: pycolmap.Camera
    held: bool
    focal_range_px: tuple[float, float] | None = None

    @property
    def in_words(self) -> str:
        """The same text for cameras that differ only by rounding."""
        numbers = ", ".join(f"{value:.6g}" for value in self.camera.params)
        return f"{self.camera.model_name} {numbers}, {'held' if self.held else 'adjusted'}"

    def report_spread(self, report: StageReport) -> None:
        """Report the range of focal lengths, and warn if the video hardly determines it."""
        if self.focal_range_px is None:
            return
        low, high = self.focal_range_px
        report.counts["focal_range_px"] = [round(low, 1), round(high, 1)]
        if high > _FOCAL_SPREAD_WARNED * low:
            report.warnings.append(
                f"the video hardly determines the focal length: {low:.0f} to {high:.0f} px explain it equally well; "
                "calibrate the camera if you can (data_prep/calibrate.py)"
            )
            logger.warning(report.warnings[-1])


@dataclass(frozen=True)
class SparseModels:
    """What mapping found.

    Attributes:
        models: the best first.
        tracks: that they explain.
        colors: (O, 3) of each observation, 0..255; NaN where unknown.
        missing: index of each frame that is in no model → why.
    """

    models: list[TrackModel]
    tracks: Tracks
    colors: Float64s
    missing: dict[int, str]


def map_tracks(
    config: MapConfig,
    video: InputVideo,
    given: Correspondences,
    camera: MappingCamera,
    paths: MappingPaths,
    seed: int,
    report: StageReport,
    *,
    poses: Float64s | None = None,
) -> SparseModels:
    """Map the tracks of a video, and remove the points that are not reliable.

    Args:
        config: which points stay.
        video: the sequence.
        given: tracks and keyframes.
        camera: of the frames of the tracks.
        paths: where databases, snapshots, the log and the list of frames without a pose go; a killed run resumes.
        seed: of the random choices.
        report: to fill in.
        poses: (F, 3, 4) cam_from_world if every frame has one already. They are adjusted; if they do not fit the
            tracks, mapping starts from nothing.

    Raises:
        NoReconstruction: if no model explains the tracks.
    """
    tracks, limits = given.tracks, video.limits(config)
    # Written before mapping, which may find no reconstruction.
    list_unregistered(missing_frames(given), paths)
    with report.timed("mapping"):
        found = None if poses is None else _adjusted(camera.camera, poses, tracks, limits, paths)
        if found is None:
            found = map_video(
                *(tracks, given.keyframes, camera.camera, limits, paths.mapping, paths.log, seed),
                refine_camera=not camera.held,
            )
    list_unregistered(missing_frames(given, found), paths)
    with report.timed("clean"):
        colors = sample_colors(video.source, tracks, video.size)
        found = clean_models(found, tracks, colors, config, report)
    return SparseModels(found.models, tracks, colors, missing_frames(given, found))


def map_stage(
    config: MapConfig, video: InputVideo, paths: ReconstructionPaths, seed: int, report: StageReport
) -> list[Path]:
    """Map the tracks of a reconstruction.

    Returns:
        The sparse models, the best first, and the list of frames that are in none.

    Raises:
        NoReconstruction: if no model explains the tracks.
    """
    if video.camera is None:
        raise LumenError(f"{video.paths.root} is not calibrated, and its first SfM has not estimated the camera")
    given = read_correspondences(paths)
    camera = MappingCamera(video.camera, held=True)
    found = map_tracks(config, video, given, camera, paths, seed, report, poses=_known_poses(video))
    models = [in_first_camera(model, found.tracks) for model in found.models]
    with report.timed("write"):
        for number, model in enumerate(models):
            _write_sparse(model, found, paths.of_model(number))
        report_models(video, models, found.tracks, found.missing, paths, report)
    return [*(paths.of_model(number).sparse for number in range(len(models))), paths.unregistered]


def read_correspondences(paths: MappingPaths) -> Correspondences:
    """Read what matching wrote.

    Raises:
        LumenError: if it is missing or damaged.
    """
    return Correspondences(Tracks.load(paths.tracks), *read_keyframes(paths))


def read_keyframes(paths: MappingPaths) -> tuple[Ints, list[int]]:
    """The rows of the keyframes, and of the frames that cannot be read; see `read_correspondences`."""
    known = read_yaml(paths.keyframes)
    try:
        return np.array(known["keyframes"], np.int64), list(known["unreadable"])
    except (KeyError, TypeError, ValueError) as error:
        raise LumenError(f"{paths.keyframes} is damaged: remove it, and run the same command again") from error


def model_numbers(paths: ReconstructionPaths) -> list[int]:
    """The numbers of the models in `sparse`, ascending."""
    folders = [file.parent for file in paths.sparse_models.glob("*/images.bin")]
    return sorted(int(folder.name) for folder in folders if folder.name.isdecimal())


def poses_of(model: pycolmap.Reconstruction, frame_index: Iterable[int]) -> Float64s:
    """(F, 3, 4) cam_from_world of frames, NaN for those without a pose in a model."""
    rows = {index: row for row, index in enumerate(frame_index)}
    poses = np.full((len(rows), 3, 4), np.nan)
    for image_id in model.reg_image_ids():
        image = model.images[image_id]
        poses[rows[frame_number(image.name)]] = image.cam_from_world().matrix()
    return poses


def _known_poses(video: InputVideo) -> Float64s | None:
    """(F, 3, 4) of the sequence's training data, if every frame has one there."""
    if not TrainingPaths(video.paths.root).motion.exists():
        return None
    data = read_training_data(video.paths.root)
    rows = {index: row for row, index in enumerate(video.frame_index)}
    if len(data.frame_index) < len(rows) or not set(data.frame_index.tolist()) <= set(rows):
        return None
    poses: Float64s = np.empty((len(rows), 3, 4))
    poses[[rows[int(index)] for index in data.frame_index]] = data.cam_from_world
    return poses


def _adjusted(
    camera: pycolmap.Camera, poses: Float64s, tracks: Tracks, limits: Limits, paths: MappingPaths
) -> VideoModels | None:
    """The model with these poses adjusted; None if they do not fit the tracks."""
    nothing = np.full((tracks.track_count, 3), np.nan)
    model = TrackModel(camera, poses, nothing, np.zeros(len(tracks.frame), bool))
    rough = replace(limits, error_px=2 * limits.error_px)
    model = refine(refine(model, tracks, rough, paths.log), tracks, limits, paths.log)
    if model.registered.sum() < _MIN_FITTING_SHARE * len(poses):
        logger.warning("the poses of the first SfM do not fit the tracks: mapping starts from nothing")
        return None
    logger.info("the poses of the first SfM adjusted: %d frames, %d points", model.registered.sum(), model.point_count)
    return VideoModels([model], {})


def missing_frames(given: Correspondences, found: VideoModels | None = None) -> dict[int, str]:
    """Index of each frame that is in no model → why; before mapping, of each that cannot be in any."""
    tracks = given.tracks
    reasons = without_points(tracks) | ({} if found is None else found.missing(tracks))
    reasons |= dict.fromkeys(given.unreadable, UNREADABLE)
    return {int(tracks.frame_index[row]): reason for row, reason in sorted(reasons.items())}


def _write_sparse(model: TrackModel, found: SparseModels, paths: ReconstructionPaths) -> None:
    """Write a model as COLMAP's."""
    tracks, colors = found.tracks, found.colors
    shades = mean_colors(tracks.track[model.used], colors[model.used], tracks.track_count)
    write_binary_model(colored_reconstruction(model, tracks, shades), paths.sparse)
