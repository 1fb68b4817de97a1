"""A purely rotating camera is distinguished from a translating one, for every camera model."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.data.tracks import Tracks
from pipeline.errors import NoReconstruction
from sfm.mapping.pure_rotation import covisible_neighbours, moving_runs, rotation_share, rotation_shares
from sfm.mapping.self_calibration import _rotation_test_cameras, estimate_camera
from sfm.mapping.triangulation import Limits
from synthetic_video import HEIGHT, WIDTH, make_camera, make_video, make_video_with_turns, split_tracks

FRAMES = 24
KEYFRAMES = np.arange(0, FRAMES, 2)
LIMITS = Limits(error_px=1.5, views=3, angle_deg=1.5)


@pytest.mark.parametrize("model", ["PINHOLE", "SIMPLE_RADIAL", "OPENCV_FISHEYE"])
def test_an_unknown_rotating_camera_gives_no_model(tmp_path: Path, model: str) -> None:
    video = make_video(FRAMES, model=model, noise_px=0.4, outlier_share=0.05, moving=False)
    box = (0, 0, WIDTH, HEIGHT)
    with pytest.raises(NoReconstruction, match="pure rotation explains [6-9].%"):
        estimate_camera(video.tracks, KEYFRAMES, box[2:], box, ["SIMPLE_RADIAL"], LIMITS, tmp_path, tmp_path / "log", 0)


@pytest.mark.parametrize("model", ["PINHOLE", "SIMPLE_RADIAL", "OPENCV_FISHEYE"])
@pytest.mark.parametrize(("moving", "low", "high"), [(False, 0.9, 1.0), (True, 0.0, 0.1)])
def test_a_rotation_explains_nearly_all_or_nearly_no_points(model: str, moving: bool, low: float, high: float) -> None:
    video = make_video(FRAMES, model=model, noise_px=0.2, moving=moving)
    assert low <= rotation_share(rotation_shares(video.tracks, KEYFRAMES, [video.camera], 1.5)) <= high


def test_keyframes_without_common_points_have_no_share() -> None:
    video = make_video(FRAMES, moving=False)
    alone = Tracks(
        video.tracks.frame_index, video.tracks.frame, np.arange(len(video.tracks.frame)), video.tracks.pixels
    )
    shares = rotation_shares(alone, KEYFRAMES, [make_camera()], 1.5)
    assert len(shares) == len(KEYFRAMES) - 3 and np.isnan(shares).all() and rotation_share(shares) == 0
    assert rotation_share(rotation_shares(video.tracks, KEYFRAMES[:2], [make_camera()], 1.5)) == 0


def test_runs_end_where_pure_rotation_starts() -> None:
    """The camera rotates in place through keyframes 6 to 10 of 16."""
    shares = np.full(13, 0.1)
    shares[[6, 7]] = 0.9
    shares[2] = np.nan
    assert moving_runs(shares, np.ones(15, np.bool_)) == [
        range(7),
        range(10, 16),
        range(7, 8),
        range(8, 9),
        range(9, 10),
    ]


def test_runs_end_at_a_cut() -> None:
    video = split_tracks(make_video(FRAMES), 10)
    sharing = covisible_neighbours(video.tracks, KEYFRAMES)
    assert np.flatnonzero(~sharing).tolist() == [4]
    shares = rotation_shares(video.tracks, KEYFRAMES, [video.camera], 1.5)
    assert moving_runs(shares, sharing) == [range(5, 12), range(5)]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_few_keyframes_are_one_run(count: int) -> None:
    assert moving_runs(np.full(max(0, count - 3), np.nan), np.ones(count - 1, np.bool_)) == [range(count)]


@pytest.mark.parametrize("model", ["PINHOLE", "SIMPLE_RADIAL", "OPENCV_FISHEYE"])
def test_rotation_between_translations_is_detected_for_an_unknown_camera(model: str) -> None:
    """The camera rotates in frames 20 to 34."""
    video = make_video_with_turns([20, 20], 15, model=model)
    keyframes = np.arange(len(video.tracks.frame_index))
    cameras = list(_rotation_test_cameras((WIDTH, HEIGHT), (0, 0, WIDTH, HEIGHT)))
    shares = rotation_shares(video.tracks, keyframes, cameras, 1.5)
    runs = moving_runs(shares, covisible_neighbours(video.tracks, keyframes))
    found = sorted((run[0], run[-1]) for run in runs if len(run) > 2)
    np.testing.assert_allclose(found, [(0, 19), (34, 54)], atol=2)


def test_too_few_keyframes_are_reported_before_any_camera_is_tried(tmp_path: Path) -> None:
    video = make_video(FRAMES, moving=False)
    box = (0, 0, WIDTH, HEIGHT)
    with pytest.raises(NoReconstruction, match="only 2 keyframes, .*: the camera has to translate"):
        estimate_camera(
            video.tracks, KEYFRAMES[:2], box[2:], box, ["SIMPLE_RADIAL"], LIMITS, tmp_path, tmp_path / "log", 0
        )
