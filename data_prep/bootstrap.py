"""Sequence → SfM training data: a first Structure from Motion, from nothing but the frames."""

if __name__ == "__main__":
    from pipeline.command.interruption import watch_signals

    watch_signals()


import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import tyro

from data_prep.calibration.unknown_camera import (
    MappingCamera,
    find_camera,
    known_camera,
    likely_camera,
    undistort_with_models,
)
from descriptor.flow.flow_finder import FlowFinder
from descriptor.flow.follow import (
    Correspondences,
    check_keyframes,
    choose_keyframes,
    follow_points,
    keyframe_directions,
)
from descriptor.flow.working_frames import WorkingFrames
from pipeline.color_consistency import mean_colors
from pipeline.command.config import from_mapping, save_config, to_mapping
from pipeline.command.run_command import run_command
from pipeline.data.tracks import Integers, Tracks
from pipeline.errors import LumenError, NoReconstruction, require
from pipeline.manifest import Manifest, Stage, fingerprint_path
from pipeline.outputs.files import read_yaml, write_json
from pipeline.outputs.folders import WorkFolder, joined_output, work_folder
from pipeline.outputs.record import remove_own
from pipeline.paths import BootstrapPaths, TrainingPaths
from pipeline.report import StageReport
from sfm.input_video import InputVideo
from sfm.mapping.clean_models import CleaningRules, clean_models
from sfm.mapping.sift import match_sift
from sfm.mapping.track_model import TrackModel
from sfm.mapping.video import VideoModels, map_video, without_points
from sfm.models import figures_of, sample_colors, write_model
from sfm.output.overview import draw_overview
from sfm.output.summary import describe_models, list_unregistered, summary_line

Floats = npt.NDArray[np.float64]

FORMAT_VERSION = 2
_UNREADABLE = "its image cannot be read"
# Settings that the outputs do not depend on.
_NOT_RECORDED = ("sequence", "name", "overwrite", "calibration")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BootstrapConfig:
    """Reconstruct a sequence for the first time: camera poses, a sparse cloud and visibility, as training data."""

    sequence: tyro.conf.Positional[Path]
    """Folder of a sequence, as extract.py makes it."""
    method: Literal["tracks", "sift"] = "tracks"
    """Where correspondences come from: points followed by optical flow, or SIFT."""
    name: str | None = None
    """Title of the overview; by default the first digits of the video's SHA-256."""
    overwrite: bool = False
    """Replace the models that an earlier run made."""
    points: int = 1000
    """Points to begin in each keyframe, with --method tracks."""
    camera_model: Literal["auto", "SIMPLE_RADIAL", "OPENCV_FISHEYE"] = "auto"
    """Camera to estimate if the sequence is not calibrated; auto takes what explains more."""
    calibration: Path | None = None
    """Camera of the frames as recorded, if the sequence is not calibrated: it is used as it is, none is estimated.
    Usually the calibration.yaml of another sequence of the same video."""
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
        require(self.seed >= 0, f"--seed {self.seed}: choose 0 or more")
        # It checks what it is given.
        _ = self.cleaning

    @property
    def cleaning(self) -> CleaningRules:
        """The part of the settings that says which points stay."""
        return CleaningRules(self.min_views, self.max_depth_uncertainty, self.inlier_percentage)


def run(config: BootstrapConfig, estimate: MappingCamera | None = None) -> list[Path]:
    """Reconstruct, and write `colmap/` in the sequence's folder; an uncalibrated sequence is undistorted, too.

    Args:
        config: the settings.
        estimate: an estimate of the camera of the frames as recorded, if there is one and the camera is not known.

    Returns:
        The best model's folder and the overview picture.

    Raises:
        NoReconstruction: if there is none; what was found is put in place then.
        LumenError: if the sequence cannot be read or the output cannot be written.
    """
    report = StageReport("bootstrap")
    video = InputVideo.read(config.sequence)
    camera = known_camera(video, config.calibration) or estimate
    with _work(config, video) as work:
        paths = BootstrapPaths(work.path)
        _keep_mapping_of(camera, paths)
        try:
            found = _reconstruct(config, video, camera, paths, report)
        except NoReconstruction as error:
            kept = _keep_for_inspection(error, work, report)
            raise NoReconstruction(f"{error}; what was found is kept in {kept}") from error
        with report.timed("write"):
            if video.camera is None:
                # The frames will be those of another camera.
                work.remove_output()
            _write(config, video, found, paths, report)
        remove_own(paths.correspondences, paths.mapping)
        report.save(paths.report)
        work.publish()
    return [TrainingPaths(video.paths.root).model, BootstrapPaths.of(video.paths).overview]


@contextmanager
def _work(config: BootstrapConfig, video: InputVideo) -> Iterator[WorkFolder]:
    """The hidden folder, with what a killed run of the same settings left there."""
    replaceable = config.overwrite or not TrainingPaths(video.paths.root).motion.exists()
    output = BootstrapPaths.of(video.paths).root
    with joined_output(video.paths.root), work_folder(output, "bootstrap.py", overwrite=replaceable) as work:
        _resume_or_clear(config, video, work)
        yield work


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
    stage = _stage(config, video)
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
    save_config(stage.config, paths.config)
    Manifest.load(path).complete(stage, [paths.config])


def reason_to_run(config: BootstrapConfig) -> str | None:
    """Why a sequence's first SfM has to be made, or made again; None if there is one of these settings and frames.

    Raises:
        LumenError: if the sequence cannot be read.
    """
    video = InputVideo.read(config.sequence)
    if not TrainingPaths(video.paths.root).motion.exists():
        return "not run yet"
    try:
        return Manifest.load(BootstrapPaths.of(video.paths).manifest).reason_to_run(_stage(config, video))
    except LumenError as error:
        return str(error)


def _keep_mapping_of(camera: MappingCamera | None, paths: BootstrapPaths) -> None:
    """Keep what a killed run mapped with the same camera, and nothing else."""
    stage = Stage("camera", {"camera": None if camera is None else camera.in_words}, after=["bootstrap"])
    manifest = Manifest.load(paths.manifest)
    if manifest.reason_to_run(stage) is not None:
        remove_own(paths.mapping)
        manifest.complete(stage, [])


def _stage(config: BootstrapConfig, video: InputVideo) -> Stage:
    """Everything that the outputs depend on."""
    settings = {name: value for name, value in to_mapping(config).items() if name not in _NOT_RECORDED}
    inputs = {
        "images": fingerprint_path(video.source.images),
        "mask": fingerprint_path(video.source.mask),
        "sequence": fingerprint_path(video.source.sequence),
    }
    if video.source.frame_masks.exists():
        inputs["masks"] = fingerprint_path(video.source.frame_masks)
    return Stage("bootstrap", settings, inputs, format_version=FORMAT_VERSION)


def follow(config: BootstrapConfig) -> tuple[InputVideo, Correspondences]:
    """Find the correspondences of a sequence. `run` with the same settings goes on from there.

    Raises:
        NoReconstruction: if there is nothing to follow.
        LumenError: see `run`.
    """
    video = InputVideo.read(config.sequence)
    with _work(config, video) as work:
        return video, _correspond(config, video, BootstrapPaths(work.path), StageReport("bootstrap"))


def followed_before(sequence: Path, points: int) -> Correspondences | None:
    """What the first SfM of a sequence has followed by optical flow, so many points from each keyframe.

    None if there is no such, if frames have changed since, or if they were undistorted after it.
    """
    with suppress(LumenError):
        video = InputVideo.read(sequence)
        paths = BootstrapPaths.of(video.paths)
        settings = read_yaml(paths.config)
        if not isinstance(settings, dict):
            return None
        config = from_mapping(BootstrapConfig, settings | {"sequence": str(sequence)}, str(paths.config))
        fits = video.camera is not None and (config.method, config.points) == ("tracks", points)
        if fits and Manifest.load(paths.manifest).reason_to_run(_stage(config, video)) is None:
            tracks = Tracks.load(paths.tracks)
            return None if tracks.begun is None else Correspondences(tracks, *_read_keyframes(paths))
    return None


@dataclass(frozen=True)
class _Reconstruction:
    """What is written: models, the best first, of the tracks with their colours.

    Attributes:
        missing: index of each frame that is in no model → why.
    """

    models: list[TrackModel]
    missing: dict[int, str]
    tracks: Tracks
    colors: Floats


def _reconstruct(
    config: BootstrapConfig,
    video: InputVideo,
    camera: MappingCamera | None,
    paths: BootstrapPaths,
    report: StageReport,
) -> _Reconstruction:
    correspondences = _correspond(config, video, paths, report)
    tracks = correspondences.tracks
    # Listed as soon as it is known, because what comes next may find no reconstruction.
    list_unregistered(_missing(correspondences), paths)
    found = _map(config, video, correspondences, camera, paths, report)
    list_unregistered(_missing(correspondences, found), paths)
    with report.timed("clean"):
        colors = sample_colors(video.source, tracks, video.size)
        found = clean_models(found, tracks, colors, config.cleaning, report)
    return _Reconstruction(found.models, _missing(correspondences, found), tracks, colors)


def _correspond(
    config: BootstrapConfig, video: InputVideo, paths: BootstrapPaths, report: StageReport
) -> Correspondences:
    frames = WorkingFrames(video.source, video.frame_index, video.mask)
    with report.timed("keyframes"):
        keyframes, unreadable = _keyframes(frames, paths)
    _check_frames(video, keyframes, unreadable, paths, report)
    with report.timed("correspondences"):
        if not paths.found_tracks.exists():
            _find_tracks(config, video, frames, keyframes, unreadable, paths).save(paths.found_tracks)
        tracks = Tracks.load(paths.found_tracks)
    length = len(tracks.frame) / max(1, tracks.track_count)
    report.counts |= {
        "frames": len(video.frame_index),
        "unreadable": len(unreadable),
        "keyframes": len(keyframes),
        "tracks": tracks.track_count,
        "track_observations": len(tracks.frame),
    }
    logger.info("%d tracks, each in %.1f frames", tracks.track_count, length)
    return Correspondences(tracks, keyframes, unreadable)


def _keyframes(frames: WorkingFrames, paths: BootstrapPaths) -> tuple[Integers, list[int]]:
    if not paths.keyframes.exists():
        keyframes, unreadable = choose_keyframes(frames)
        write_json(paths.keyframes, {"keyframes": keyframes.tolist(), "unreadable": unreadable})
    return _read_keyframes(paths)


def _read_keyframes(paths: BootstrapPaths) -> tuple[Integers, list[int]]:
    known = read_yaml(paths.keyframes)
    try:
        return np.array(known["keyframes"], np.int64), list(known["unreadable"])
    except (KeyError, TypeError, ValueError) as error:
        raise LumenError(f"{paths.keyframes} is damaged: remove it, and run the same command again") from error


def _check_frames(
    video: InputVideo, keyframes: Integers, unreadable: list[int], paths: BootstrapPaths, report: StageReport
) -> None:
    list_unregistered({video.frame_index[row]: _UNREADABLE for row in unreadable}, paths)
    check_keyframes(len(video.frame_index), keyframes, unreadable)
    if unreadable:
        index = video.frame_index[unreadable[0]]
        report.warnings.append(f"{len(unreadable)} frames cannot be read, the first is frame {index}")
        logger.warning("%s, %s", report.warnings[-1], video.source.image(index))


def _find_tracks(
    config: BootstrapConfig,
    video: InputVideo,
    frames: WorkingFrames,
    keyframes: Integers,
    unreadable: list[int],
    paths: BootstrapPaths,
) -> Tracks:
    if config.method == "tracks":
        find = FlowFinder(frames, keyframe_directions(len(frames), keyframes))
        return follow_points(frames, video.frame_index, keyframes, find, config.points, paths.correspondences)
    return _match_sift(config, video, unreadable, paths)


def _match_sift(config: BootstrapConfig, video: InputVideo, unreadable: list[int], paths: BootstrapPaths) -> Tracks:
    # The epipolar check is loose where the camera is not calibrated.
    camera = video.camera or likely_camera(video)
    rows = np.setdiff1d(np.arange(len(video.frame_index)), unreadable)
    everyone = np.array(video.frame_index, np.int64)
    readable = everyone[rows].tolist()
    tracks = match_sift(video.source, readable, camera, paths.correspondences, paths.log, config.seed)
    return Tracks(everyone, rows[tracks.frame], tracks.track, tracks.pixels)


def _map(
    config: BootstrapConfig,
    video: InputVideo,
    correspondences: Correspondences,
    camera: MappingCamera | None,
    paths: BootstrapPaths,
    report: StageReport,
) -> VideoModels:
    limits = video.limits(config.max_error_px, config.min_views, config.min_angle_deg)
    tracks, keyframes = correspondences.tracks, correspondences.keyframes
    place, log, seed = paths.mapping, paths.log, config.seed
    with report.timed("camera"):
        if camera is None:
            camera = find_camera(video, tracks, keyframes, config.camera_model, limits, paths, seed)
        camera.report_spread(report)
    with report.timed("mapping"):
        return map_video(tracks, keyframes, camera.camera, limits, place, log, seed, refine_camera=not camera.held)


def _missing(correspondences: Correspondences, found: VideoModels | None = None) -> dict[int, str]:
    """Index of each frame that is in no model, or before there is one of each that cannot be in any → why."""
    tracks = correspondences.tracks
    reasons = without_points(tracks) if found is None else found.missing(tracks)
    reasons |= dict.fromkeys(correspondences.unreadable, _UNREADABLE)
    return {int(tracks.frame_index[row]): reason for row, reason in sorted(reasons.items())}


def _write(
    config: BootstrapConfig, video: InputVideo, found: _Reconstruction, paths: BootstrapPaths, report: StageReport
) -> None:
    mask, camera, tracks, models, colors = video.mask, found.models[0].camera, found.tracks, found.models, found.colors
    if video.camera is None:
        tracks, models, colors, mask = undistort_with_models(video, tracks, models, colors)
    tracks.save(paths.tracks)
    for number, model in enumerate(models):
        write_model(model, tracks, colors, mask, video.paths, os.path.abspath(paths.root), number)
    figures = figures_of(models[0], tracks)
    describe_models(video, models, figures, found.missing, camera, report)
    list_unregistered(found.missing, paths, even_none=True)
    shades = mean_colors(tracks.track[models[0].used], colors[models[0].used], tracks.track_count)
    title = f"{video.facts.title(config.name)}: {summary_line(report)}"
    draw_overview(paths.overview, title, models[0], figures, tracks, shades)


if __name__ == "__main__":
    sys.exit(run_command(BootstrapConfig, run))
