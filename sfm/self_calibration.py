"""Estimating an unknown camera from the tracks themselves.

Focal length and distortion run away when they are free from the first pair on: two views of a tube hardly determine
them. So each of a few fields of view is held while some keyframes are mapped, then all is adjusted together; the
starts agree in the end, and the camera model that explains clearly more observations is taken.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pycolmap

from pipeline.errors import NoReconstruction
from pipeline.tracks import Integers, Tracks
from sfm.initialization import MIN_KEYFRAMES, WINDOW_KEYFRAMES, Start, choose_start, too_few_keyframes
from sfm.mapping import write_keyframes
from sfm.triangulation import Limits
from sfm.turning import turning_share

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
_MOST_BY_TURNING = 0.5
# Another start, or the model with more parameters, has to explain so many times the observations to be preferred.
_CLEARLY_MORE = 1.02

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CameraEstimate:
    """A camera, and how well the video determines it.

    Attributes:
        camera: SIMPLE_RADIAL or OPENCV_FISHEYE.
        focal_range_px: the shortest and the longest focal length among the starts that explain as much.
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
        keyframes: (K,) rows of `tracks.frame_index`; those around the middle are used.
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
    first = max(0, (len(keyframes) - WINDOW_KEYFRAMES) // 2)
    some = keyframes[first : first + WINDOW_KEYFRAMES]
    if len(keyframes) < MIN_KEYFRAMES:
        raise NoReconstruction(f"no reconstruction: {too_few_keyframes(keyframes)}")
    _require_motion(tracks, some, size, content_box, limits)
    attempts: list[Start] = []
    for model in models:
        for angle_deg in _STARTS_DEG[model]:
            start = starting_camera(model, angle_deg, size, content_box)
            place = folder / f"{model.lower()}_{angle_deg:.0f}"
            database = write_keyframes(tracks, some, start, place, log, seed)
            found = None
            if database is not None:
                found = choose_start(tracks, some, database, limits, log, seed, refine_camera=True)
            if found is None:
                logger.info("camera: %s from %.0f degrees: no reconstruction", model, angle_deg)
                continue
            attempts.append(found)
            facts = (model, angle_deg, found.model.camera.mean_focal_length(), 100 * found.explained)
            logger.info("camera: %s from %.0f degrees: focal length %.1f px, explains %.1f %%", *facts)
    if not attempts:
        raise NoReconstruction(
            "no reconstruction, because no camera that was tried explains the motion: give a calibration "
            "(data_prep/calibrate.py, then extract.py --calibration)"
        )
    return _choose(attempts)


def _require_motion(
    tracks: Tracks, keyframes: Integers, size: tuple[int, int], content_box: tuple[int, int, int, int], limits: Limits
) -> None:
    by_turning = turning_share(tracks, keyframes, _turning_cameras(size, content_box), limits.error_px)
    if by_turning > _MOST_BY_TURNING:
        raise NoReconstruction(
            f"no reconstruction: a camera that only turns explains {by_turning:.0%} of what its frames share; depth "
            "needs one that moves, too"
        )


def _choose(attempts: list[Start]) -> CameraEstimate:
    best = attempts[0]
    for attempt in attempts[1:]:
        if attempt.explained > _CLEARLY_MORE * best.explained:
            best = attempt
    as_good = [
        attempt.model.camera.mean_focal_length()
        for attempt in attempts
        if attempt.model.camera.model == best.model.camera.model and attempt.explained * _CLEARLY_MORE > best.explained
    ]
    return CameraEstimate(best.model.camera, (min(as_good), max(as_good)))


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
