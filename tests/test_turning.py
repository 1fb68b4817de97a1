"""A camera that only turns is told from one that moves, whatever its lens."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import NoReconstruction
from pipeline.tracks import Tracks
from sfm.self_calibration import estimate_camera
from sfm.triangulation import Limits
from sfm.turning import turning_share
from synthetic_video import HEIGHT, WIDTH, make_camera, make_video

FRAMES = 24
KEYFRAMES = np.arange(0, FRAMES, 2)
LIMITS = Limits(error_px=1.5, views=3, angle_deg=1.5)


@pytest.mark.parametrize("model", ["PINHOLE", "SIMPLE_RADIAL", "OPENCV_FISHEYE"])
def test_an_unknown_camera_that_only_turns_gives_no_model(tmp_path: Path, model: str) -> None:
    video = make_video(FRAMES, model=model, noise_px=0.4, outlier_share=0.05, moving=False)
    box = (0, 0, WIDTH, HEIGHT)
    with pytest.raises(NoReconstruction, match="only turns explains [6-9].%"):
        estimate_camera(video.tracks, KEYFRAMES, box[2:], box, ["SIMPLE_RADIAL"], LIMITS, tmp_path, tmp_path / "log", 0)


@pytest.mark.parametrize("model", ["PINHOLE", "SIMPLE_RADIAL", "OPENCV_FISHEYE"])
@pytest.mark.parametrize(("moving", "low", "high"), [(False, 0.9, 1.0), (True, 0.0, 0.1)])
def test_rotations_explain_nearly_all_or_nearly_nothing(model: str, moving: bool, low: float, high: float) -> None:
    video = make_video(FRAMES, model=model, noise_px=0.2, moving=moving)
    assert low <= turning_share(video.tracks, KEYFRAMES, [video.camera], 1.5) <= high


def test_keyframes_that_share_nothing_are_explained_by_nothing() -> None:
    video = make_video(FRAMES, moving=False)
    alone = Tracks(
        video.tracks.frame_index, video.tracks.frame, np.arange(len(video.tracks.frame)), video.tracks.pixels
    )
    assert turning_share(alone, KEYFRAMES, [make_camera()], 1.5) == 0
    assert turning_share(video.tracks, KEYFRAMES[:2], [make_camera()], 1.5) == 0


def test_too_few_keyframes_are_said_to_be_the_reason_before_any_camera_is_tried(tmp_path: Path) -> None:
    video = make_video(FRAMES, moving=False)
    box = (0, 0, WIDTH, HEIGHT)
    with pytest.raises(NoReconstruction, match="only 2 keyframes: the camera has to move"):
        estimate_camera(
            video.tracks, KEYFRAMES[:2], box[2:], box, ["SIMPLE_RADIAL"], LIMITS, tmp_path, tmp_path / "log", 0
        )
