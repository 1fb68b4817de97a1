"""Self-calibration: estimate an unknown camera from the tracks.

Focal length and distortion diverge if they are refined from the first pair on, because two views of a tube hardly
determine them. So each of a few fields of view is fixed while some keyframes are mapped, and bundle adjustment then
refines it; different initial values converge to one camera. The camera model that explains clearly more observations is
chosen.

A single window of keyframes may mislead. So several windows are used, only where the camera translates, and the model
that explains the most in all of them is chosen. If their cameras differ, each camera is fixed while the other windows
are mapped, and the one that explains the most observations is chosen.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pycolmap

from pipeline.arrays import Ints
from pipeline.data.tracks import Tracks
from pipeline.errors import NoReconstruction
from sfm.mapping.incremental import write_keyframes
from sfm.mapping.initialization import MIN_KEYFRAMES, Start, choose_start, too_few_keyframes, windows_in
from sfm.mapping.pure_rotation import covisible_neighbours, moving_runs, rotation_share, rotation_shares
from sfm.mapping.triangulation import Limits

CameraModel = Literal["SIMPLE_RADIAL", "OPENCV_FISHEYE"]

# Initial fields of view across the longer side of the content area, the likeliest first: rigid scopes have 60 to 90
# degrees, flexible ones 100 to 140.
_STARTS_DEG: dict[CameraModel, tuple[float, ...]] = {
    "SIMPLE_RADIAL": (80.0, 60.0, 110.0),
    "OPENCV_FISHEYE": (125.0, 90.0),
}
# Cameras of the rotation test: a field of view every 5 %, with weak and strong distortion.
_ROTATION_TEST_DEG = np.geomspace(40.0, 140.0, 26)
_ROTATION_TEST_DISTORTIONS: dict[CameraModel, tuple[float, ...]] = {
    "SIMPLE_RADIAL": (0.0, -0.15),
    "OPENCV_FISHEYE": (0.0,),
}
# Number of windows to use; if the focal lengths of the first two agree within this factor, no third one is needed.
_WINDOWS = 3
_AGREEING = 1.03
# A later initial value, or a model with more parameters, is preferred if it explains this factor more observations.
_CLEARLY_MORE = 1.02

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CameraEstimate:
    """An estimated camera and its uncertainty.

    Attributes:
        camera: SIMPLE_RADIAL or OPENCV_FISHEYE camera.
        focal_range_px: smallest and largest focal length of the estimates, from all windows and initial values, that
            explain nearly as many observations.
    """

    camera: pycolmap.Camera
    focal_range_px: tuple[float, float]


def estimate_camera(
    tracks: Tracks,
    keyframes: Ints,
    size: tuple[int, int],
    content_box: tuple[int, int, int, int],
    models: Iterable[CameraModel],
    limits: Limits,
    folder: Path,
    log: Path,
    seed: int,
) -> CameraEstimate:
    """Estimate focal length and distortion; the principal point is the centre of the content area.

    Args:
        tracks: tracks of the whole video, in pixels of the frames as recorded.
        keyframes: (K,) rows of `tracks.frame_index`.
        size: width and height of the frames, px.
        content_box: first column, first row, end column, end row of the content area, px.
        models: camera models to try, the simplest first.
        limits: acceptance limits of points.
        folder: folder for databases and snapshots.
        log: file to which pycolmap's log is appended.
        seed: random seed.

    Raises:
        NoReconstruction: if no initial camera gives a model, or the camera only rotates.
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
            "no reconstruction: no camera that was tried explains the motion; calibrate the camera "
            "(data_prep/calibrate.py, then data_prep/extract.py --calibration)"
        )

    def explained(attempt: Start) -> float:
        others = [window[0].window for window in windows if window[0].window is not attempt.window]
        place = folder / f"held_{attempt.window[0]}_{attempt.window[-1]}"
        held = [_attempt(tracks, some, attempt.model.camera, limits, place, log, seed, held=True) for some in others]
        return attempt.explained + sum(each.explained for each in held if each is not None)

    return _choose(windows, None if _agree(windows) else explained)


def _moving_runs(
    tracks: Tracks, keyframes: Ints, size: tuple[int, int], content_box: tuple[int, int, int, int], limits: Limits
) -> list[range]:
    """Runs of keyframes in which the camera translates, long enough to map.

    Raises:
        NoReconstruction: if there are none.
    """
    shares = rotation_shares(tracks, keyframes, _rotation_test_cameras(size, content_box), limits.error_px)
    runs = [run for run in moving_runs(shares, covisible_neighbours(tracks, keyframes)) if len(run) >= MIN_KEYFRAMES]
    if not runs:
        raise NoReconstruction(
            f"no reconstruction: pure rotation explains {rotation_share(shares):.0%} of the points that keyframes "
            "share; the camera has to translate"
        )
    return runs


def _attempt(
    tracks: Tracks,
    window: Ints,
    camera: pycolmap.Camera,
    limits: Limits,
    folder: Path,
    log: Path,
    seed: int,
    *,
    held: bool = False,
) -> Start | None:
    """Map a window with a camera, then refine both, or only the model if the camera is held fixed."""
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
    """Initial values for the next window: one per model, as those of one model mostly converge to one camera."""
    by_model: dict[CameraModel, tuple[CameraModel, float]] = {}
    for start, attempt in found.items():
        best = by_model.setdefault(start[0], start)
        if attempt.explained > _CLEARLY_MORE * found[best].explained:
            by_model[start[0]] = start
    return list(by_model.values())


def _is_another(window: Ints, used: Ints) -> bool:
    """Whether a window adds information to a used one: at least half as long, and at least half of it is new."""
    return 2 * len(window) >= len(used) and 2 * np.isin(window, used).sum() <= len(window)


def _agree(windows: Sequence[Sequence[Start]]) -> bool:
    """Whether each window alone gives the same camera model and nearly the same focal length."""
    cameras = [_choose([window]).camera for window in windows]
    focal_px = [camera.mean_focal_length() for camera in cameras]
    return len({camera.model for camera in cameras}) == 1 and max(focal_px) < _AGREEING * min(focal_px)


def _choose(windows: Sequence[Sequence[Start]], explained: Callable[[Start], float] | None = None) -> CameraEstimate:
    """Choose the camera model that explains clearly more observations, and of its cameras the one that explains most.

    Args:
        windows: at least one window, each with its attempts in order of preference.
        explained: attempt → share of the observations in all windows that its camera explains, summed; by default,
            each window is scored with its own cameras.
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
        # The best camera of one window may not explain the others: a model with many parameters overfits a short one.
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
    """The model that explains most in all windows; an earlier one unless another is clearly better."""
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


def _rotation_test_cameras(size: tuple[int, int], content_box: tuple[int, int, int, int]) -> Iterator[pycolmap.Camera]:
    for model, distortions in _ROTATION_TEST_DISTORTIONS.items():
        for angle_deg in _ROTATION_TEST_DEG:
            for distortion in distortions:
                yield starting_camera(model, angle_deg, size, content_box, distortion)


def starting_camera(
    model: CameraModel,
    angle_deg: float,
    size: tuple[int, int],
    content_box: tuple[int, int, int, int],
    distortion: float = 0.0,
) -> pycolmap.Camera:
    """Create a camera from the field of view that it would have without distortion.

    Args:
        model: camera model.
        angle_deg: field of view across the longer side of the content area, degrees.
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
