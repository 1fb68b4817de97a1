"""All sequences of one video → a first SfM of each, with one camera."""

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_prep import bootstrap
from data_prep.bootstrap import BootstrapConfig
from data_prep.calibration.unknown_camera import find_camera
from pipeline.data.tracks import Correspondences, Tracks
from pipeline.errors import LumenError
from pipeline.paths import BootstrapPaths, TrainingPaths
from sfm.input_video import InputVideo
from sfm.map_stage import MappingCamera

logger = logging.getLogger(__name__)


def bootstrap_video(configs: Sequence[BootstrapConfig]) -> dict[Path, list[Path] | LumenError]:
    """Reconstruct each sequence of a video for the first time; all that are not calibrated get the same camera.

    The camera is estimated from windows of all of them, adjusted with the longest one that can be reconstructed, and
    held for the others. A sequence that has a model already keeps it unless `overwrite` is set, and the others get its
    camera; so they do after a kill.

    Args:
        configs: the settings for each sequence; equal but for the sequence.

    Returns:
        For each sequence, in the order of `configs`, what `bootstrap.run` returned or raised: a sequence that fails
        does not stop the others.
    """
    outcomes: dict[Path, list[Path] | LumenError] = {}
    waiting: list[tuple[BootstrapConfig, InputVideo]] = []
    calibration: Path | None = None
    for config in configs:
        try:
            video = InputVideo.read(config.sequence)
        except LumenError as error:
            outcomes[config.sequence] = error
            continue
        model = TrainingPaths(config.sequence)
        if config.overwrite or not model.motion.exists():
            waiting.append((config, video))
            continue
        outcomes[config.sequence] = [model.model, BootstrapPaths.of(video.paths).overview]
        if video.camera is None and calibration is None:
            calibration = video.paths.calibration
    waiting.sort(key=lambda each: len(each[1].frame_index), reverse=True)
    outcomes |= _run_with_one_camera(waiting, calibration)
    return {config.sequence: outcomes[config.sequence] for config in configs}


def _run_with_one_camera(
    waiting: Sequence[tuple[BootstrapConfig, InputVideo]], calibration: Path | None
) -> dict[Path, list[Path] | LumenError]:
    outcomes: dict[Path, list[Path] | LumenError] = {}
    uncalibrated = [config for config, video in waiting if video.camera is None and config.calibration is None]
    estimate = _estimate(uncalibrated) if calibration is None and len(uncalibrated) > 1 else None
    for config, video in waiting:
        shares_camera = config in uncalibrated
        try:
            own = replace(config, calibration=calibration) if shares_camera else config
            outcomes[config.sequence] = bootstrap.run(own, estimate)
        except LumenError as error:
            outcomes[config.sequence] = error
            continue
        if shares_camera and calibration is None:
            calibration = video.paths.calibration
    return outcomes


def _estimate(configs: Sequence[BootstrapConfig]) -> MappingCamera | None:
    """The camera from windows of all sequences, the longest of which is the first; None if no window gives one."""
    followed: list[Correspondences] = []
    longest: tuple[BootstrapConfig, InputVideo] | None = None
    for config in configs:
        try:
            video, correspondences = bootstrap.follow(config)
        except LumenError as error:
            # Its own run fails for the same reason and reports it.
            logger.info("camera: %s is left out: %s", config.sequence, error)
            continue
        followed.append(correspondences)
        longest = longest or (config, video)
    if longest is None:
        return None
    config, video = longest
    together = _together(followed)
    with tempfile.TemporaryDirectory(prefix="lumen_camera_") as folder:
        place = BootstrapPaths(Path(folder))
        try:
            limits = video.limits(config.map)
            return find_camera(
                video, together.tracks, together.keyframes, config.camera_model, limits, place, config.seed
            )
        except LumenError as error:
            logger.info("camera: %s", error)
            return None


def _together(parts: Sequence[Correspondences]) -> Correspondences:
    """Correspondences of several sequences as those of one in which nothing goes from one part to another."""
    first_row = np.cumsum([0, *(len(part.tracks.frame_index) for part in parts)])
    first_track = np.cumsum([0, *(part.tracks.track_count for part in parts)])
    shifted = list(zip(parts, first_row.tolist(), first_track.tolist(), strict=False))
    tracks = Tracks(
        np.arange(first_row[-1]),
        np.concatenate([part.tracks.frame + row for part, row, _ in shifted]),
        np.concatenate([part.tracks.track + track for part, _, track in shifted]),
        np.concatenate([part.tracks.pixels for part in parts]),
        int(first_track[-1]),
    )
    return Correspondences(tracks, np.concatenate([part.keyframes + row for part, row, _ in shifted]), [])
