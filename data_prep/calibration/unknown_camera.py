"""The camera of a sequence without a calibration: estimated from its tracks; its frames made those of a pinhole."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pycolmap

from data_prep.calibration.files import read_calibration
from data_prep.calibration.undistort_sequence import undistort_sequence
from pipeline.arrays import Float64s, Ints
from pipeline.data.tracks import Tracks
from pipeline.data.training_data import Bytes
from pipeline.data.training_files import read_mask
from pipeline.errors import LumenError
from pipeline.paths import BootstrapPaths
from sfm.input_video import InputVideo
from sfm.map_stage import MappingCamera
from sfm.mapping.self_calibration import CameraModel, estimate_camera, starting_camera
from sfm.mapping.track_model import TrackModel
from sfm.mapping.triangulation import Limits
from sfm.models import into_pinhole

_LIKELY_ANGLE_DEG = 80.0


def likely_camera(video: InputVideo) -> pycolmap.Camera:
    """A camera as rigid scopes have it, for what only has to be about right."""
    return starting_camera("SIMPLE_RADIAL", _LIKELY_ANGLE_DEG, video.size, video.content_box)


def known_camera(video: InputVideo, calibration: Path | None) -> MappingCamera | None:
    """The camera of a sequence; None if it has to be estimated.

    Args:
        video: the sequence.
        calibration: file with the camera of an uncalibrated sequence.

    Raises:
        LumenError: if the sequence is calibrated and `calibration` is given, or this cannot be read or has another
            size.
    """
    if video.camera is not None and calibration is not None:
        raise LumenError(
            f"{video.paths.root} is calibrated already: leave out --calibration, or extract it again with this one"
        )
    if video.camera is not None:
        return MappingCamera(video.camera, held=True)
    return None if calibration is None else MappingCamera(read_calibration(calibration, video.size), held=True)


def find_camera(
    video: InputVideo,
    tracks: Tracks,
    keyframes: Ints,
    choice: Literal["auto"] | CameraModel,
    limits: Limits,
    paths: BootstrapPaths,
    seed: int,
) -> MappingCamera:
    """Estimate the camera of the frames as recorded.

    Args:
        video: the sequence.
        tracks: of the whole video.
        keyframes: (K,) rows of `tracks.frame_index`.
        choice: the camera's model; "auto" takes what explains more.
        limits: of points.
        paths: where databases and pycolmap's log go.
        seed: of the random choices.

    Raises:
        NoReconstruction: if no camera explains the tracks, or the camera only turns.
    """
    every: tuple[CameraModel, ...] = ("SIMPLE_RADIAL", "OPENCV_FISHEYE")
    models = every if choice == "auto" else (choice,)
    folder = paths.mapping / "camera"
    estimate = estimate_camera(
        tracks, keyframes, video.size, video.content_box, models, limits, folder, paths.log, seed
    )
    return MappingCamera(estimate.camera, held=False, focal_range_px=estimate.focal_range_px)


def undistort_with_models(
    video: InputVideo, tracks: Tracks, models: Sequence[TrackModel], colors: Float64s
) -> tuple[Tracks, list[TrackModel], Float64s, Bytes]:
    """Undistort the sequence in place, and take tracks and models over into its new pixels.

    Args:
        video: the sequence.
        tracks: in pixels of the frames as recorded.
        models: of these tracks; all with one camera.
        colors: (O, 3) of each observation.

    Returns:
        Tracks, models, colours, and the (H, W) content area of the undistorted frames.

    Raises:
        LumenError: see `undistort_sequence`.
    """
    undistortion = undistort_sequence(video.paths, models[0].camera)
    mask = read_mask(video.paths.mask)
    moved, inside, kept = into_pinhole(tracks, models, undistortion.camera, mask)
    return moved, inside, colors[kept], mask
