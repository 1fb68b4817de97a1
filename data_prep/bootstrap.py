"""Sequence → SfM training data: a first Structure from Motion, from nothing but the frames."""

import logging
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pycolmap
import tyro

from data_prep.bootstrap_input import MIN_FRAMES, InputVideo
from data_prep.bootstrap_models import ModelFigures, figures_of, into_pinhole, sample_colors, write_model
from data_prep.bootstrap_overview import draw_overview
from data_prep.point_tracking import choose_keyframes, follow_points
from data_prep.sequence_undistortion import undistort_sequence
from data_prep.working_frames import WORKING_SIZE_PX, WorkingFrames
from pipeline import __version__
from pipeline.color_consistency import mean_colors
from pipeline.command import run_command
from pipeline.config import save_config, to_mapping
from pipeline.errors import LumenError, NoReconstruction, require
from pipeline.files import read_yaml, write_bytes, write_json
from pipeline.manifest import Manifest, Stage, fingerprint_path
from pipeline.outputs import WorkFolder, work_folder
from pipeline.paths import BootstrapPaths, TrainingPaths
from pipeline.report import StageReport
from pipeline.tracks import Integers, Tracks
from pipeline.training_files import read_mask
from sfm.cleaning import clean
from sfm.self_calibration import CameraEstimate, CameraModel, estimate_camera, starting_camera
from sfm.sift import match_sift
from sfm.track_model import MIN_FRAME_POINTS, TrackModel
from sfm.triangulation import Limits
from sfm.video_mapping import VideoModels, map_video

Floats = npt.NDArray[np.float64]

FORMAT_VERSION = 1
_ERROR_PX = 1.5
_FOCAL_SPREAD_WARNED = 1.1
_EXPLAINED_WARNED = 0.6
# Only for the epipolar check of SIFT matches, which is loose then.
_SIFT_ANGLE_DEG = 80.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BootstrapConfig:
    """Reconstruct a sequence for the first time: camera poses, a sparse cloud and visibility, as training data."""

    sequence: tyro.conf.Positional[Path]
    """Folder of a sequence, as extract.py makes it."""
    method: Literal["tracks", "sift"] = "tracks"
    """Where correspondences come from: points followed by optical flow, or SIFT."""
    overwrite: bool = False
    """Replace the models that an earlier run made."""
    points: int = 1000
    """Points to begin in each keyframe, with --method tracks."""
    camera_model: Literal["auto", "SIMPLE_RADIAL", "OPENCV_FISHEYE"] = "auto"
    """Camera to estimate if the sequence is not calibrated; auto takes what explains more."""
    max_error_px: float | None = None
    """Largest reprojection error of an observation; by default 1.5 px per 540 px of the content area."""
    min_angle_deg: float = 1.5
    """Smallest angle between the rays of a point."""
    min_views: int = 4
    """Fewest frames in which a point is observed."""
    max_depth_uncertainty: float = 0.02
    """Points whose depth is less certain than this share of it (one standard deviation) are removed."""
    inlier_percentage: float = 0.99
    """Share of the points to keep by how consistent their colour is from view to view, 0 to 1."""
    seed: int = 0
    """Of the random choices."""

    def __post_init__(self) -> None:
        require(self.points >= 50, f"--points {self.points}: choose 50 or more")
        require(self.max_error_px is None or self.max_error_px > 0, f"--max_error_px {self.max_error_px}: above 0")
        require(0 < self.min_angle_deg < 90, f"--min_angle_deg {self.min_angle_deg:g}: choose between 0 and 90")
        require(self.min_views >= 2, f"--min_views {self.min_views}: choose 2 or more")
        require(self.max_depth_uncertainty > 0, f"--max_depth_uncertainty {self.max_depth_uncertainty:g}: above 0")
        require(0 < self.inlier_percentage <= 1, f"--inlier_percentage {self.inlier_percentage:g}: above 0, at most 1")
        require(self.seed >= 0, f"--seed {self.seed}: choose 0 or more")


def run(config: BootstrapConfig) -> list[Path]:
    """Reconstruct, and write `colmap/` in the sequence's folder; an uncalibrated sequence is undistorted, too.

    The work is done in a hidden folder and moved into place as a whole; a killed run goes on from there.

    Returns:
        The best model's folder and the overview picture.

    Raises:
        NoReconstruction: if there is none; what was found is put in place then.
        LumenError: if the sequence cannot be read or the output cannot be written.
    """
    report = StageReport("bootstrap")
    video = InputVideo.read(config.sequence)
    output = BootstrapPaths.of(video.paths).root
    replaceable = config.overwrite or not TrainingPaths(video.paths.root).motion.exists()
    with work_folder(output, is_ours=_is_ours, overwrite=replaceable) as work:
        paths = BootstrapPaths(work.path)
        _resume_or_clear(config, video, work)
        try:
            correspondences = _correspond(config, video, paths, report)
            tracks = correspondences.tracks
            found = _map(config, video, correspondences, paths, report)
            with report.timed("clean"):
                colors = sample_colors(video.source, tracks, video.size)
                found = _clean(config, found, tracks, colors, report)
        except NoReconstruction as error:
            kept = _keep_for_inspection(error, work, report)
            raise NoReconstruction(f"{video.paths.root}: {error}; what was found is kept in {kept}") from error
        with report.timed("write"):
            missing = _missing(found, correspondences)
            if video.camera is None:
                # The frames will be those of another camera.
                work.remove_output()
            _write(video, missing, found.models, tracks, colors, paths, report)
        for folder in (paths.correspondences, paths.mapping):
            shutil.rmtree(folder, ignore_errors=True)
        report.save(paths.report)
        work.publish()
    final = BootstrapPaths(output)
    return [TrainingPaths(video.paths.root).model, final.overview]


def _is_ours(folder: Path) -> bool:
    return BootstrapPaths(folder).report.exists()


def _keep_for_inspection(error: NoReconstruction, work: WorkFolder, report: StageReport) -> Path:
    """Put what was found in its place, or beside it if an earlier reconstruction is there."""
    report.warnings.append(str(error))
    report.save(BootstrapPaths(work.path).report)
    earlier = TrainingPaths(work.output.parent).motion.exists()
    place = BootstrapPaths(work.output).failed if earlier else work.output
    work.publish(place)
    return place


def _resume_or_clear(config: BootstrapConfig, video: InputVideo, work: WorkFolder) -> None:
    """Keep what a killed run of the same settings on the same frames left, and nothing else."""
    hidden = ("sequence", "overwrite")
    settings = {name: value for name, value in to_mapping(config).items() if name not in hidden}
    inputs = {
        "images": fingerprint_path(video.source.images),
        "mask": fingerprint_path(video.source.mask),
        "sequence": fingerprint_path(video.source.sequence),
        "version": __version__,
    }
    if video.source.frame_masks.exists():
        inputs["masks"] = fingerprint_path(video.source.frame_masks)
    stage = Stage("bootstrap", settings, inputs, format_version=FORMAT_VERSION)
    path = BootstrapPaths(work.path).manifest
    with suppress(LumenError):
        reason = Manifest.load(path).reason_to_run(stage)
        if reason is None:
            logger.info("going on from an interrupted run")
            return
        if path.exists():
            logger.warning("an interrupted run is given up and begun anew: %s", reason)
    work.clear()
    paths = BootstrapPaths(work.path)
    save_config(settings, paths.config)
    Manifest.load(path).complete(stage, [paths.config])


def _limits(config: BootstrapConfig, video: InputVideo) -> Limits:
    left, top, right, bottom = video.content_box
    scale = max(1.0, max(right - left, bottom - top) / WORKING_SIZE_PX)
    error_px = _ERROR_PX * scale if config.max_error_px is None else config.max_error_px
    return Limits(error_px, config.min_views, config.min_angle_deg)


@dataclass(frozen=True)
class _Correspondences:
    """What mapping starts from; rows are those of `tracks.frame_index`."""

    tracks: Tracks
    keyframes: Integers
    unreadable: list[int]


def _correspond(
    config: BootstrapConfig, video: InputVideo, paths: BootstrapPaths, report: StageReport
) -> _Correspondences:
    frames = WorkingFrames(video.source, video.frame_index, video.mask)
    with report.timed("keyframes"):
        keyframes, unreadable = _keyframes(frames, paths)
    if len(video.frame_index) - len(unreadable) < MIN_FRAMES:
        raise NoReconstruction(
            f"no reconstruction: {len(unreadable)} of {len(video.frame_index)} frames cannot be read; extract again"
        )
    if not len(keyframes):
        raise NoReconstruction("no reconstruction: no frame shows any texture inside its mask")
    if unreadable:
        index = video.frame_index[unreadable[0]]
        report.warnings.append(f"{len(unreadable)} frames cannot be read, the first is {video.source.image(index)}")
        logger.warning(report.warnings[-1])
    with report.timed("correspondences"):
        if paths.found_tracks.exists():
            tracks = Tracks.load(paths.found_tracks)
        else:
            if config.method == "tracks":
                tracks = follow_points(frames, video.frame_index, keyframes, config.points, paths.correspondences)
            else:
                tracks = _match_sift(config, video, unreadable, paths)
            tracks.save(paths.found_tracks)
    length = len(tracks.frame) / max(1, tracks.track_count)
    report.counts |= {
        "frames": len(video.frame_index),
        "unreadable": len(unreadable),
        "keyframes": len(keyframes),
        "tracks": tracks.track_count,
        "track_observations": len(tracks.frame),
    }
    logger.info("%d tracks, each in %.1f frames", tracks.track_count, length)
    return _Correspondences(tracks, keyframes, unreadable)


def _keyframes(frames: WorkingFrames, paths: BootstrapPaths) -> tuple[Integers, list[int]]:
    if not paths.keyframes.exists():
        keyframes, unreadable = choose_keyframes(frames)
        write_json(paths.keyframes, {"keyframes": keyframes.tolist(), "unreadable": unreadable})
    known = read_yaml(paths.keyframes)
    return np.array(known["keyframes"], np.int64), known["unreadable"]


def _match_sift(config: BootstrapConfig, video: InputVideo, unreadable: list[int], paths: BootstrapPaths) -> Tracks:
    camera = video.camera or starting_camera("SIMPLE_RADIAL", _SIFT_ANGLE_DEG, video.size, video.content_box)
    rows = np.setdiff1d(np.arange(len(video.frame_index)), unreadable)
    everyone = np.array(video.frame_index, np.int64)
    readable = everyone[rows].tolist()
    tracks = match_sift(video.source, readable, camera, paths.correspondences, paths.log, config.seed)
    return Tracks(everyone, rows[tracks.frame], tracks.track, tracks.pixels)


def _map(
    config: BootstrapConfig,
    video: InputVideo,
    correspondences: _Correspondences,
    paths: BootstrapPaths,
    report: StageReport,
) -> VideoModels:
    limits = _limits(config, video)
    tracks, keyframes = correspondences.tracks, correspondences.keyframes
    camera = video.camera
    with report.timed("camera"):
        if camera is None:
            estimate = _estimate_camera(config, video, tracks, keyframes, limits, paths)
            _warn_of_spread(estimate, report)
            camera = estimate.camera
    with report.timed("mapping"):
        return map_video(
            tracks,
            keyframes,
            camera,
            limits,
            paths.mapping,
            paths.log,
            config.seed,
            refine_camera=video.camera is None,
        )


def _estimate_camera(
    config: BootstrapConfig,
    video: InputVideo,
    tracks: Tracks,
    keyframes: Integers,
    limits: Limits,
    paths: BootstrapPaths,
) -> CameraEstimate:
    every: tuple[CameraModel, ...] = ("SIMPLE_RADIAL", "OPENCV_FISHEYE")
    models = every if config.camera_model == "auto" else (config.camera_model,)
    folder = paths.mapping / "camera"
    return estimate_camera(
        tracks, keyframes, video.size, video.content_box, models, limits, folder, paths.log, config.seed
    )


def _warn_of_spread(estimate: CameraEstimate, report: StageReport) -> None:
    low, high = estimate.focal_range_px
    if high > _FOCAL_SPREAD_WARNED * low:
        report.warnings.append(
            f"the video hardly determines the focal length: from {low:.0f} to {high:.0f} px it explains some keyframes "
            "equally well; calibrate the camera if you can (data_prep/calibrate.py)"
        )
        logger.warning(report.warnings[-1])


def _clean(
    config: BootstrapConfig, found: VideoModels, tracks: Tracks, colors: Floats, report: StageReport
) -> VideoModels:
    before = found.models[0].point_count
    lengths = tracks.lengths()[tracks.track]
    explained = float(found.models[0].used.sum() / max(1, (lengths >= config.min_views).sum()))
    report.counts["explained_observations"] = round(explained, 3)
    if explained < _EXPLAINED_WARNED:
        report.warnings.append(
            f"the model explains only {explained:.0%} of what was followed: look whether its cloud makes sense before "
            "you use it"
        )
        logger.warning(report.warnings[-1])
    share, largest = config.inlier_percentage, config.max_depth_uncertainty
    cleaned = [clean(model, tracks, colors, largest, share) for model in found.models]
    enough = [each for each in cleaned if each.model.point_count >= MIN_FRAME_POINTS]
    best = enough[0] if enough else cleaned[0]
    report.counts |= {"points_of_uncertain_depth": best.uncertain, "points_of_inconsistent_color": best.inconsistent}
    if not enough:
        raise NoReconstruction(
            f"no reconstruction: of {before} points {best.model.point_count} are certain enough; the camera may hardly "
            "move, or loosen --max_depth_uncertainty"
        )
    facts = (best.model.point_count, best.uncertain, best.inconsistent)
    logger.info("%d points left; %d of uncertain depth and %d of inconsistent colour removed", *facts)
    return replace(found, models=[each.model for each in enough])


def _missing(found: VideoModels, correspondences: _Correspondences) -> dict[int, str]:
    """Index of each frame that the best model lacks → why."""
    tracks = correspondences.tracks
    reasons = found.missing(tracks) | dict.fromkeys(correspondences.unreadable, "its image cannot be read")
    return {int(tracks.frame_index[row]): reason for row, reason in sorted(reasons.items())}


def _write(
    video: InputVideo,
    missing: dict[int, str],
    models: list[TrackModel],
    tracks: Tracks,
    colors: Floats,
    paths: BootstrapPaths,
    report: StageReport,
) -> None:
    mask, camera = video.mask, models[0].camera
    if video.camera is None:
        undistortion = undistort_sequence(video.paths, camera)
        mask = read_mask(video.paths.mask)
        tracks, models, kept = into_pinhole(tracks, models, undistortion.camera, mask)
        colors = colors[kept]
    tracks.save(paths.tracks)
    for number, model in enumerate(models):
        write_model(model, tracks, colors, mask, video.paths, paths.root.name, number)
    figures = figures_of(models[0], tracks)
    _describe(video, models, figures, missing, camera, report)
    lines = [f"{index} {reason}\n" for index, reason in missing.items()]
    write_bytes(paths.unregistered, "".join(lines).encode())
    shades = mean_colors(tracks.track[models[0].used], colors[models[0].used], tracks.track_count)
    title = f"{video.paths.root.name}: {_summary(report)}"
    draw_overview(paths.overview, title, models[0], figures, tracks, shades)


def _describe(
    video: InputVideo,
    models: list[TrackModel],
    best: ModelFigures,
    missing: dict[int, str],
    camera: pycolmap.Camera,
    report: StageReport,
) -> None:
    report.counts |= {
        "registered": best.frames,
        "points": best.points,
        "observations": best.observations,
        "mean_track_length": round(best.mean_track_length, 2),
        "mean_reprojection_error_px": round(best.mean_error_px, 3),
        "models": [int(model.registered.sum()) for model in models],
        "camera": {"model": camera.model_name, "params": [float(value) for value in camera.params]},
    }
    logger.info("%s", _summary(report))
    if video.camera is None:
        facts = (camera.model_name, camera.mean_focal_length(), video.paths.calibration, video.paths.recorded.root)
        logger.info("camera: %s, focal length %.1f px (%s); frames as recorded are in %s", *facts)
    if missing:
        index, reason = next(iter(missing.items()))
        count = f"{len(missing)} of {len(video.frame_index)} frames have no pose"
        report.warnings.append(f"{count}; the first is frame {index}: {reason}")
        logger.warning("%s; each is listed in %s", report.warnings[-1], BootstrapPaths.of(video.paths).unregistered)


def _summary(report: StageReport) -> str:
    counts = report.counts
    length, error_px = counts["mean_track_length"], counts["mean_reprojection_error_px"]
    return (
        f"{counts['registered']} of {counts['frames']} frames, {counts['points']} points, each seen in {length:.1f} "
        f"frames, mean reprojection error {error_px:.2f} px"
    )


if __name__ == "__main__":
    sys.exit(run_command(BootstrapConfig, run))
