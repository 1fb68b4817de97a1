"""Sequence → SfM training data: a first Structure from Motion, from nothing but the frames."""

if __name__ == "__main__":
    from pipeline.command.interruption import watch_signals

    watch_signals()


import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from data_prep.calibration.unknown_camera import find_camera, known_camera, likely_camera, undistort_with_models
from descriptor.flow.flow_finder import FlowFinder
from descriptor.flow.follow import (
    DEFAULT_POINTS,
    PointCount,
    check_keyframes,
    choose_keyframes,
    follow_points,
    keyframe_directions,
    report_tracks,
)
from descriptor.flow.working_frames import WorkingFrames
from pipeline.arrays import Ints
from pipeline.color_consistency import mean_colors
from pipeline.command.bounds import NonNegativeInt, Settings
from pipeline.command.config import Flat, from_mapping, save_config, to_mapping
from pipeline.command.run_command import run_command
from pipeline.data.tracks import Correspondences, Tracks
from pipeline.errors import LumenError, NoReconstruction
from pipeline.manifest import Manifest, Stage, fingerprint_path
from pipeline.outputs.files import read_yaml, write_json
from pipeline.outputs.folders import WorkFolder, joined_output, work_folder
from pipeline.outputs.owned_files import remove_own
from pipeline.paths import BootstrapPaths, TrainingPaths
from pipeline.report import StageReport
from sfm.input_video import InputVideo
from sfm.map_stage import (
    UNREADABLE,
    MappingCamera,
    SparseModels,
    map_tracks,
    missing_frames,
    read_correspondences,
    read_keyframes,
)
from sfm.mapping.config import MapConfig
from sfm.mapping.sift import match_sift
from sfm.models import figures_of, write_model
from sfm.output.overview import draw_overview
from sfm.output.summary import list_unregistered, report_models, summary_line

FORMAT_VERSION = 2
# Settings that the outputs do not depend on.
_NOT_RECORDED = ("sequence", "name", "overwrite", "calibration")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BootstrapConfig(Settings):
    """Reconstruct a sequence for the first time: camera poses, a sparse cloud and visibility, as training data."""

    sequence: tyro.conf.Positional[Path]
    """Folder of a sequence, as extract.py makes it."""
    method: Literal["tracks", "sift"] = "tracks"
    """Where correspondences come from: points followed by optical flow, or SIFT."""
    name: str | None = None
    """Title of the overview; by default the first digits of the video's SHA-256."""
    overwrite: bool = False
    """Replace the models that an earlier run made."""
    points: PointCount = DEFAULT_POINTS
    """Points seeded in each keyframe, with --method tracks."""
    camera_model: Literal["auto", "SIMPLE_RADIAL", "OPENCV_FISHEYE"] = "auto"
    """Camera model to estimate if the sequence is not calibrated; auto takes the one that explains more."""
    calibration: Path | None = None
    """Camera of the frames as recorded, if the sequence is not calibrated: it is used as it is. Usually the
    calibration.yaml of another sequence of the same video."""
    map: Flat[MapConfig] = field(default_factory=MapConfig)
    seed: NonNegativeInt = 0
    """Seed of the random choices."""


def run(config: BootstrapConfig, estimate: MappingCamera | None = None) -> list[Path]:
    """Reconstruct, and write `colmap/` in the sequence's folder; an uncalibrated sequence is undistorted, too.

    Args:
        config: the settings.
        estimate: an estimate of the camera of the frames as recorded, if there is one and the camera is not known.

    Returns:
        The best model's folder and the overview plot.

    Raises:
        NoReconstruction: if there is none; what was found is put in place then.
        LumenError: if the sequence cannot be read or the output cannot be written.
    """
    report = StageReport("bootstrap")
    video = InputVideo.read(config.sequence)
    video.limits(config.map)
    camera = known_camera(video, config.calibration) or estimate
    with _work(config, video) as work:
        paths = BootstrapPaths(work.path)
        _keep_mapping_of(camera, paths)
        try:
            found = _map(config, video, camera, paths, report)
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
            logger.info("resuming an interrupted run")
            return
        if path.exists():
            logger.warning("an interrupted run cannot be resumed and is started again: %s", reason)
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
    """Find the correspondences of a sequence. `run` with the same settings resumes from them.

    Raises:
        NoReconstruction: if there is nothing to follow.
        LumenError: see `run`.
    """
    video = InputVideo.read(config.sequence)
    video.limits(config.map)
    with _work(config, video) as work:
        return video, _match(config, video, BootstrapPaths(work.path), StageReport("bootstrap"))


def followed_before(sequence: Path, points: int) -> Correspondences | None:
    """The tracks that the first SfM of a sequence followed by optical flow from this many points of each keyframe.

    None if there are none, if frames have changed since, or if they were undistorted afterwards.
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
            found = read_correspondences(paths)
            return None if found.tracks.seed_frame is None else found
    return None


def _match(config: BootstrapConfig, video: InputVideo, paths: BootstrapPaths, report: StageReport) -> Correspondences:
    frames = WorkingFrames(video.source, video.frame_index, video.mask)
    with report.timed("keyframes"):
        keyframes, unreadable = _keyframes(video, frames, paths, report)
    with report.timed("match"):
        if not paths.found_tracks.exists():
            _find_tracks(config, video, frames, keyframes, unreadable, paths).save(paths.found_tracks)
        tracks = Tracks.load(paths.found_tracks)
    found = Correspondences(tracks, keyframes, unreadable)
    report_tracks(found, report)
    return found


def _keyframes(
    video: InputVideo, frames: WorkingFrames, paths: BootstrapPaths, report: StageReport
) -> tuple[Ints, list[int]]:
    """The keyframes and the frames that cannot be read; kept for a resumed run."""
    if not paths.keyframes.exists():
        chosen, unreadable = choose_keyframes(frames)
        write_json(paths.keyframes, {"keyframes": chosen.tolist(), "unreadable": unreadable})
    keyframes, unreadable = read_keyframes(paths)
    list_unregistered({video.frame_index[row]: UNREADABLE for row in unreadable}, paths)
    check_keyframes(frames, keyframes, unreadable, report)
    return keyframes, unreadable


def _find_tracks(
    config: BootstrapConfig,
    video: InputVideo,
    frames: WorkingFrames,
    keyframes: Ints,
    unreadable: list[int],
    paths: BootstrapPaths,
) -> Tracks:
    if config.method == "tracks":
        find = FlowFinder(frames, keyframe_directions(len(frames), keyframes))
        return follow_points(frames, keyframes, find, config.points, paths.correspondences)
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
    camera: MappingCamera | None,
    paths: BootstrapPaths,
    report: StageReport,
) -> SparseModels:
    given = _match(config, video, paths, report)
    # Written before the camera is estimated, which may find no reconstruction.
    list_unregistered(missing_frames(given), paths)
    with report.timed("camera"):
        if camera is None:
            limits = video.limits(config.map)
            camera = find_camera(video, given.tracks, given.keyframes, config.camera_model, limits, paths, config.seed)
        camera.report_spread(report)
    return map_tracks(config.map, video, given, camera, paths, config.seed, report)


def _write(
    config: BootstrapConfig, video: InputVideo, found: SparseModels, paths: BootstrapPaths, report: StageReport
) -> None:
    mask, camera, tracks, models, colors = video.mask, found.models[0].camera, found.tracks, found.models, found.colors
    if video.camera is None:
        tracks, models, colors, mask = undistort_with_models(video, tracks, models, colors)
        facts = (camera.model_name, camera.mean_focal_length(), video.paths.calibration, video.paths.recorded.root)
        logger.info("camera: %s, focal length %.1f px (%s); frames as recorded are in %s", *facts)
    tracks.save(paths.tracks)
    for number, model in enumerate(models):
        write_model(model, tracks, colors, mask, video.paths, os.path.abspath(paths.root), number)
    report.counts["camera"] = {"model": camera.model_name, "params": [float(value) for value in camera.params]}
    listed_in = BootstrapPaths.of(video.paths).unregistered
    report_models(video, models, tracks, found.missing, paths, report, listed_in=listed_in)
    shades = mean_colors(tracks.track[models[0].used], colors[models[0].used], tracks.track_count)
    title = f"{video.facts.title(config.name)}: {summary_line(report)}"
    draw_overview(paths.overview, title, models[0], figures_of(models[0], tracks), tracks, shades)


if __name__ == "__main__":
    sys.exit(run_command(BootstrapConfig, run))
