"""Tracks of a video → models: map the keyframes, register all frames, repeat for the rest, join overlapping models."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pycolmap

from pipeline.arrays import Bools, Ints
from pipeline.data.tracks import Tracks
from pipeline.errors import NoReconstruction
from sfm.mapping.incremental import frame_names, has_verified_pairs, map_images, write_keyframes
from sfm.mapping.initialization import MIN_KEYFRAMES, Start, choose_start, too_few_keyframes, windows_in
from sfm.mapping.join_models import join_models
from sfm.mapping.pure_rotation import covisible_neighbours, moving_runs, rotation_shares
from sfm.mapping.track_model import (
    MIN_FRAME_POINTS,
    TrackModel,
    model_from_keyframes,
    refine,
    register_frames,
)
from sfm.mapping.triangulation import Limits

# The first triangulation uses poses before bundle adjustment.
_ROUGH_FACTOR = 2.0
_REGISTRATION_FACTOR = 4.0
# Keyframes of earlier models that a further model also uses, so that the models share frames.
_OVERLAP_KEYFRAMES = 5
_KEYFRAME_VIEWS = 3

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoModels:
    """Models of a video.

    Attributes:
        models: the largest first; no two of them share enough frames to be joined.
        reasons: row of each frame that could not be registered in the first model → reason.
    """

    models: list[TrackModel]
    reasons: dict[int, str]

    def missing(self, tracks: Tracks) -> dict[int, str]:
        """Row of each frame that is in no model → reason."""
        return _missing(self.models, tracks, self.reasons)


def map_video(
    tracks: Tracks,
    keyframes: Ints,
    camera: pycolmap.Camera,
    limits: Limits,
    folder: Path,
    log: Path,
    seed: int,
    *,
    refine_camera: bool,
) -> VideoModels:
    """Reconstruct all parts of a video.

    Args:
        tracks: tracks of the whole video.
        keyframes: (K,) rows of `tracks.frame_index`.
        camera: camera of all frames.
        limits: acceptance limits of points.
        folder: folder for databases and snapshots, from which an interrupted run resumes.
        log: file to which pycolmap's log is appended.
        seed: random seed.
        refine_camera: refine the camera with the first model; further models use the refined camera.

    Raises:
        NoReconstruction: if there is no model.
    """
    models: list[TrackModel] = []
    reasons: dict[int, str] = {}
    failures: list[str] = []
    given_up = np.zeros(len(tracks.frame_index), np.bool_)
    to_map = keyframes
    attempts = 0
    while len(to_map) >= MIN_KEYFRAMES:
        attempts += 1
        place = folder / f"attempt_{attempts}_{to_map[0]}_{to_map[-1]}"
        start = model = None
        with _collecting(failures):
            start = _start(tracks, to_map, _covered(models) | given_up, camera, limits, place, log, seed)
            model = _map_from(start, tracks, to_map, limits, place, log, seed)
        if model is not None:
            first = not models
            model, missing = _extend(model, tracks, limits, log, seed, refine_camera=refine_camera and first)
            if first:
                camera, reasons = model.camera, missing
        if model is None or not (model.registered & ~_covered(models)).any():
            # Other parts of the video may still be mapped.
            given_up[to_map if start is None else start.window] = True
        else:
            models.append(model)
            facts = (len(models) - 1, model.registered.sum(), len(tracks.frame_index), model.point_count)
            logger.info("model %d: %d of %d frames, %d points", *facts)
        to_map = _uncovered_keyframes(keyframes, _covered(models) | given_up)
    if not models:
        why = failures[0] if failures else too_few_keyframes(keyframes)
        raise NoReconstruction(f"no reconstruction: {why}")
    return VideoModels(join_models(models, tracks, limits, log), reasons)


def _start(
    tracks: Tracks,
    keyframes: Ints,
    done: Bools,
    camera: pycolmap.Camera,
    limits: Limits,
    folder: Path,
    log: Path,
    seed: int,
) -> Start:
    """Find an initial model of a window of keyframes that are not all done.

    Args:
        tracks: tracks of the whole video.
        keyframes: (K,) rows of `tracks.frame_index`; the database holds all of them.
        done: (F,) bool, frames that are mapped or given up.
        camera: camera of all frames.
        limits: acceptance limits of points.
        folder: folder for the database and the models.
        log: file to which pycolmap's log is appended.
        seed: random seed.

    Raises:
        NoReconstruction: if there is none; the message is the bare reason.
    """
    database = write_keyframes(tracks, keyframes, camera, folder, log, seed)
    if database is None or not has_verified_pairs(database):
        raise NoReconstruction(
            "neighbouring keyframes share too few points, or no camera motion explains them: the frames hardly overlap "
            "(extract more frames per second), or the tissue itself moves"
        )
    shares = rotation_shares(tracks, keyframes, [camera], limits.error_px)
    runs = moving_runs(shares, covisible_neighbours(tracks, keyframes))
    windows = [keyframes[window] for window in windows_in(runs) or windows_in([range(len(keyframes))])]
    windows = [window for window in windows if not done[window].all()]
    start = choose_start(tracks, windows, database, limits, log, seed)
    if start is None:
        raise NoReconstruction(
            "no two keyframes have enough parallax: the camera only rotates or hardly moves, or the calibration is "
            "wrong"
        )
    return start


def _map_from(
    start: Start, tracks: Tracks, keyframes: Ints, limits: Limits, folder: Path, log: Path, seed: int
) -> TrackModel:
    """Map all keyframes from an initial model.

    Raises:
        NoReconstruction: if this fails; the message is the bare reason.
    """
    names = frame_names(tracks, keyframes)
    found = map_images(start.database, names, folder, log, seed, initial_model=start.model_folder)
    if found is None:
        raise NoReconstruction("mapping registered no keyframe beyond the initial model; see the log of pycolmap")
    rows = dict(zip(names, keyframes.tolist(), strict=True))
    # A point may have fewer observations in keyframes than the limit for the whole video requires.
    some = replace(_wider(limits, _ROUGH_FACTOR), views=min(limits.views, _KEYFRAME_VIEWS))
    model = model_from_keyframes(pycolmap.Reconstruction(found), rows, tracks, some)
    if model.point_count < MIN_FRAME_POINTS:
        raise NoReconstruction(f"the keyframes agree on only {model.point_count} points; {MIN_FRAME_POINTS} are needed")
    return model


@contextmanager
def _collecting(failures: list[str]) -> Iterator[None]:
    """Suppress NoReconstruction, and append its message to `failures`."""
    try:
        yield
    except NoReconstruction as error:
        failures.append(str(error))


def _extend(
    model: TrackModel, tracks: Tracks, limits: Limits, log: Path, seed: int, *, refine_camera: bool
) -> tuple[TrackModel, dict[int, str]]:
    """Register frames and refine the model until no more frames can be registered."""
    limit = _wider(limits, _ROUGH_FACTOR)
    while True:
        before = int(model.registered.sum())
        missing = np.flatnonzero(~model.registered).tolist()
        model, reasons = register_frames(model, tracks, missing, _REGISTRATION_FACTOR * limits.error_px, seed)
        model = refine(model, tracks, limit, log, refine_camera=refine_camera)
        # Counted after refinement, which may remove the same frame each time it is registered.
        grown = int(model.registered.sum()) > before
        if not grown and limit == limits:
            return model, reasons
        limit = limits


def _covered(models: list[TrackModel]) -> Bools:
    return np.any([model.registered for model in models], axis=0) if models else np.zeros(1, np.bool_)


def _uncovered_keyframes(keyframes: Ints, covered: Bools) -> Ints:
    """The longest run of keyframes without a pose, extended by some registered keyframes on both sides."""
    missing = np.flatnonzero(~covered[keyframes])
    if len(missing) < MIN_KEYFRAMES:
        return keyframes[:0]
    runs = np.split(missing, np.flatnonzero(np.diff(missing) > 1) + 1)
    longest = max(runs, key=len)
    if len(longest) < MIN_KEYFRAMES:
        return keyframes[:0]
    first = max(0, int(longest[0]) - _OVERLAP_KEYFRAMES)
    return keyframes[first : int(longest[-1]) + _OVERLAP_KEYFRAMES + 1]


def without_points(tracks: Tracks) -> dict[int, str]:
    """Row of each frame without observations → reason why it cannot be registered."""
    seen = np.bincount(tracks.frame, minlength=len(tracks.frame_index))
    return dict.fromkeys(np.flatnonzero(seen == 0).tolist(), "no point of another frame was matched in it")


def _missing(models: list[TrackModel], tracks: Tracks, reasons: dict[int, str]) -> dict[int, str]:
    unseen = without_points(tracks)
    result = {}
    for row in np.flatnonzero(~_covered(models)).tolist():
        if row in unseen:
            result[row] = unseen[row]
        else:
            result[row] = reasons.get(row, f"fewer than {MIN_FRAME_POINTS} of its points agree after bundle adjustment")
    return result


def _wider(limits: Limits, factor: float) -> Limits:
    return replace(limits, error_px=factor * limits.error_px)
