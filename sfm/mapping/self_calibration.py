"""Estimating an unknown camera from the tracks themselves.

Focal length and distortion run away when they are free from the first pair on: two views of a tube hardly determine
them. So each of a few fields of view is held while some keyframes are mapped, then all is adjusted together; the
starts agree in the end, and the camera model that explains clearly more observations is taken.

Any one window of keyframes may be misleading. So several windows are used, only where the camera moves; they vote for
the model. If their cameras differ, each is held while the other windows are mapped, and the one that explains most is
taken.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pycolmap

from pipeline.data.tracks import Integers, Tracks
from pipeline.errors import NoReconstruction
from sfm.mapping.incremental import write_keyframes
from sfm.mapping.initialization import MIN_KEYFRAMES, Start, choose_start, too_few_keyframes, windows_in
from sfm.mapping.triangulation import Limits
from sfm.mapping.turning import moving_runs, sharing_neighbours, turning_share, turning_shares

CameraModel = Literal["SIMPLE_RADIAL", "OPENCV_FISHEYE"]

# Angles across the longer side of the content area, from the likeliest on: rigid scopes have 60 to 90 degrees, flexible
# ones 100 to 140.
_STARTS_DEG: dict[CameraModel, tuple[float, ...]] = {
    "SIMPLE_RADIAL": (80.0, 60.0, 110.0),
    "OPENCV_FISHEYE": (125.0, 90.0),
}
# Cameras for the question whether it only turns: a field of view every 5 %, with little and with much distortion.
_TURNING_DEG = np.geomspace(40.0, 140.0, 26)
_TURNING_DISTORTIONS: dict[CameraModel, tuple[float, ...]] = {"SIMPLE_RADIAL": (0.0, -0.15), "OPENCV_FISHEYE": (0.0,)}
# Windows to use, and how far the focal lengths of the first two may differ if no further one is needed.
_WINDOWS = 3
_AGREEING = 1.03
# Another start, or the model with more parameters, has to explain so many times the observations to be preferred.
_CLEARLY_MORE = 1.02

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CameraEstimate:
    """A camera, and how well the video determines it.

    Attributes:
        camera: SIMPLE_RADIAL or OPENCV_FISHEYE.
        focal_range_px: the shortest and the longest focal length among the windows, and among the starts in a window
            that explain as much.
    """

    camera: pycolmap.Camera
    focal_range_px: tuple[float, float]


def estimate_camera(
    tracks: Tracks,
    keyframes: Integers,
    size: tuple[int, int],
    content_box: tuple[int, int, int, int],
    models: Iterable[CameraModel],
    limits: Limits,
    folder: Path,
    log: Path,
    seed: int,
) -> CameraEstimate:
    """Estimate focal length and distortion; the principal point is the middle of the content area.

    Args:
        tracks: of the whole video, in pixels of the frames as recorded.
        keyframes: (K,) rows of `tracks.frame_index`; windows of them are used.
        size: width and height of the frames, px.
        content_box: first column, first row, end column, end row of the content area, px.
        models: the camera models to try, the simplest first.
        limits: of points.
        folder: for databases and snapshots.
        log: file to which pycolmap's log is appended.
        seed: of the random choices.

    Raises:
        NoReconstruction: if no start gives one, or the camera only turns.
    """
    if len(keyframes) < MIN_KEYFRAMES:
        raise NoReconstruction(f"no reconstruction: {too_few_keyframes(keyframes)}")
    starts = [(model, angle_deg) for model in models for angle_deg in _STARTS_DEG[model]]
    windows: list[list[Start]] = []
    for window in windows_in(_moving_runs(tracks, keyframes, size, content_box, limits)):
        some = keyframes[window]
        if any(not _is_another(some, used[0].window) for used in windows):
            continue
        attempts = {}
        for start in starts:
            camera = starting_camera(*start, size, content_box)
            attempts[start] = _attempt(tracks, some, camera, limits, folder, log, seed)
        found = {start: attempt for start, attempt in attempts.items() if attempt is not None}
        if found:
            windows.append(list(found.values()))
            starts = _best_start_of_each_model(found)
        if len(windows) == _WINDOWS or (len(windows) == 2 and _agree(windows)):
            break
    if not windows:
        raise NoReconstruction(
            "no reconstruction, because no camera that was tried explains the motion: give a calibration "
            "(data_prep/calibrate.py, then extract.py --calibration)"
        )

    def explained(attempt: Start) -> float:
        others = [window[0].window for window in windows if window[0].window is not attempt.window]
        place = folder / f"held_{attempt.window[0]}_{attempt.window[-1]}"
        held = [_attempt(tracks, some, attempt.model.camera, limits, place, log, seed, held=True) for some in others]
        return attempt.explained + sum(each.explained for each in held if each is not None)

    return _choose(windows, None if _agree(windows) else explained)


def _moving_runs(
    tracks: Tracks, keyframes: Integers, size: tuple[int, int], content_box: tuple[int, int, int, int], limits: Limits
) -> list[range]:
    """Runs of keyframes in which the camera moves, long enough to map.

    Raises:
        NoReconstruction: if it only turns everywhere.
    """
    shares = turning_shares(tracks, keyframes, _turning_cameras(size, content_box), limits.error_px)
    runs = [run for run in moving_runs(shares, sharing_neighbours(tracks, keyframes)) if len(run) >= MIN_KEYFRAMES]
    if not runs:
        raise NoReconstruction(
            f"no reconstruction: a camera that only turns explains {turning_share(shares):.0%} of what its frames "
            "share; depth needs one that moves, too"
        )
    return runs


def _attempt(
    tracks: Tracks,
    window: Integers,
    camera: pycolmap.Camera,
    limits: Limits,
    folder: Path,
    log: Path,
    seed: int,
    *,
    held: bool = False,
) -> Start | None:
    """Map a window with a camera, then adjust both, or the window alone if the camera is held."""
    focal_px = camera.mean_focal_length()
    name = f"{camera.model_name} from {focal_px:.0f} px, keyframes {window[0]} to {window[-1]}"
    place = folder / f"{camera.model_name.lower()}_{focal_px:.0f}_{window[0]}_{window[-1]}"
    database = write_keyframes(tracks, window, camera, place, log, seed)
    found = None
    if database is not None:
        found = choose_start(tracks, [window], database, limits, log, seed, refine_camera=not held)
    if found is None:
        logger.info("camera: %s: no reconstruction", name)
        return None
    facts = (name, found.model.camera.mean_focal_length(), 100 * found.explained)
    logger.info("camera: %s: focal length %.1f px, explains %.1f %%", *facts)
    return found


def _best_start_of_each_model(found: Mapping[tuple[CameraModel, float], Start]) -> list[tuple[CameraModel, float]]:
    """For the next window, which needs no more: starts of one model mostly end at the same camera."""
    by_model: dict[CameraModel, tuple[CameraModel, float]] = {}
    for start, attempt in found.items():
        best = by_model.setdefault(start[0], start)
        if attempt.explained > _CLEARLY_MORE * found[best].explained:
            by_model[start[0]] = start
    return list(by_model.values())


def _is_another(window: Integers, used: Integers) -> bool:
    """Whether a window adds to one that was used: it is not much shorter, and most of its keyframes are others."""
    return 2 * len(window) >= len(used) and 2 * np.isin(window, used).sum() <= len(window)


def _agree(windows: Sequence[Sequence[Start]]) -> bool:
    """Whether the windows by themselves give the same camera model and nearly the same focal length."""
    cameras = [_choose([window]).camera for window in windows]
    focal_px = [camera.mean_focal_length() for camera in cameras]
    return len({camera.model for camera in cameras}) == 1 and max(focal_px) < _AGREEING * min(focal_px)


def _choose(windows: Sequence[Sequence[Start]], explained: Callable[[Start], float] | None = None) -> CameraEstimate:
    """The camera of the window whose camera explains most, of the model that explains clearly more.

    Args:
        windows: at least one with an attempt; a window's attempts in the order of preference.
        explained: how much the camera of an attempt explains in all windows; by default, each window is explained by
            its own cameras.
    """
    names = dict.fromkeys(attempt.model.camera.model_name for window in windows for attempt in window)
    of_model = {
        name: [[each for each in window if each.model.camera.model_name == name] for window in windows]
        for name in names
    }
    best = {name: [_first_of_the_best(window) for window in parts if window] for name, parts in of_model.items()}
    if explained is None:
        name = _choose_model(windows)
        chosen = max(best[name], key=lambda attempt: attempt.explained)
        as_good = [
            attempt
            for window, own in zip(filter(None, of_model[name]), best[name], strict=True)
            for attempt in window
            if attempt.explained * _CLEARLY_MORE > own.explained
        ]
    else:
        # The best camera of one window may explain no other: a lens of many coefficients fits a short window too well.
        scores = {name: [explained(attempt) for attempt in attempts] for name, attempts in best.items()}
        most = {name: max(values) for name, values in scores.items()}
        name = _first_of_the_most(most)
        chosen = best[name][scores[name].index(most[name])]
        as_good = [
            attempt
            for attempt, score in zip(best[name], scores[name], strict=True)
            if score * _CLEARLY_MORE > most[name]
        ]
    focal_px = [attempt.model.camera.mean_focal_length() for attempt in as_good]
    return CameraEstimate(chosen.model.camera, (min(focal_px), max(focal_px)))


def _choose_model(windows: Sequence[Sequence[Start]]) -> str:
    """The name of the model that explains most in all windows; an earlier one unless another is clearly better."""
    explained: dict[str, float] = {}
    for window in windows:
        for name in dict.fromkeys(attempt.model.camera.model_name for attempt in window):
            most = max(attempt.explained for attempt in window if attempt.model.camera.model_name == name)
            explained[name] = explained.get(name, 0.0) + most
    return _first_of_the_most(explained)


def _first_of_the_most(explained: Mapping[str, float]) -> str:
    """The model that explains most; an earlier one unless another is clearly better."""
    best, *others = explained
    for name in others:
        if explained[name] > _CLEARLY_MORE * explained[best]:
            best = name
    return best


def _first_of_the_best(attempts: Sequence[Start]) -> Start:
    best = attempts[0]
    for attempt in attempts[1:]:
        if attempt.explained > _CLEARLY_MORE * best.explained:
            best = attempt
    return best


def _turning_cameras(size: tuple[int, int], content_box: tuple[int, int, int, int]) -> Iterator[pycolmap.Camera]:
    for model, distortions in _TURNING_DISTORTIONS.items():
        for angle_deg in _TURNING_DEG:
            for distortion in distortions:
                yield starting_camera(model, angle_deg, size, content_box, distortion)


def starting_camera(
    model: CameraModel,
    angle_deg: float,
    size: tuple[int, int],
    content_box: tuple[int, int, int, int],
    distortion: float = 0.0,
) -> pycolmap.Camera:
    """Make a camera of the angle that it would see across the longer side of the content area without distortion.

    Args:
        model: of the camera.
        angle_deg: the angle.
        size: width and height of the frames, px.
        content_box: first column, first row, end column, end row of the content area, px.
        distortion: SIMPLE_RADIAL's k or OPENCV_FISHEYE's k1.
    """
    left, top, right, bottom = content_box
    half_px = max(right - left, bottom - top) / 2
    half_rad = np.deg2rad(angle_deg / 2)
    center = [(left + right) / 2, (top + bottom) / 2]
    if model == "OPENCV_FISHEYE":
        focal_px = half_px / half_rad
        params = [focal_px, focal_px, *center, distortion, 0.0, 0.0, 0.0]
    else:
        params = [half_px / np.tan(half_rad), *center, distortion]
    return pycolmap.Camera(model=model, width=size[0], height=size[1], params=params)
