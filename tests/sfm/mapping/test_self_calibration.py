"""Self-calibration converges from distant initial focal lengths and chooses the right camera model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest

import sfm.mapping.self_calibration
from pipeline.data.tracks import Tracks
from pipeline.errors import LumenError
from sfm.mapping.initialization import Start
from sfm.mapping.self_calibration import CameraEstimate, CameraModel, estimate_camera, starting_camera
from sfm.mapping.track_model import TrackModel
from sfm.mapping.triangulation import Limits
from synthetic_video import HEIGHT, WIDTH, SyntheticVideo, make_video, make_video_with_turns

FRAMES = 16
LIMITS = Limits(error_px=2.0, views=3, angle_deg=1.5)
SIZE = (WIDTH, HEIGHT)
BOX = (0, 0, WIDTH, HEIGHT)


def estimate(video: SyntheticVideo, models: list[CameraModel], folder: Path) -> CameraEstimate:
    keyframes = np.arange(0, FRAMES, 2)
    return estimate_camera(video.tracks, keyframes, SIZE, BOX, models, LIMITS, folder / "work", folder / "log", 0)


def angle_for(focal_px: float) -> float:
    return float(np.rad2deg(2 * np.arctan(WIDTH / 2 / focal_px)))


def attempt(model: CameraModel, focal_px: float, explained: float) -> Start:
    camera = pycolmap.Camera.create_from_model_name(0, model, focal_px, *SIZE)
    nothing = np.zeros((0, 3))
    return Start(
        np.arange(12),
        Path(),
        Path(),
        TrackModel(camera, np.zeros((0, 3, 4)), nothing, np.zeros(0, np.bool_)),
        explained,
    )


def chosen(*attempts: tuple[CameraModel, float, float]) -> tuple[str, float, tuple[float, float]]:
    found = sfm.mapping.self_calibration._choose([[attempt(*each) for each in attempts]])
    return found.camera.model_name, found.camera.mean_focal_length(), found.focal_range_px


def test_the_focal_length_is_recovered_from_40_percent_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = make_video(FRAMES, points_per_frame=150, model="SIMPLE_RADIAL", noise_px=0.3)
    focal_px = video.camera.params[0]
    starts = (angle_for(0.6 * focal_px), angle_for(1.4 * focal_px))
    monkeypatch.setitem(sfm.mapping.self_calibration._STARTS_DEG, "SIMPLE_RADIAL", starts)
    found = estimate(video, ["SIMPLE_RADIAL"], tmp_path)
    assert found.camera.model_name == "SIMPLE_RADIAL"
    assert found.camera.params[0] == pytest.approx(focal_px, rel=0.03)
    np.testing.assert_array_equal(found.camera.params[1:3], [WIDTH / 2, HEIGHT / 2])
    assert found.camera.params[3] == pytest.approx(video.camera.params[3], abs=0.02)
    low, high = found.focal_range_px
    assert low <= found.camera.params[0] <= high < 1.01 * low


@pytest.mark.parametrize("model", ["SIMPLE_RADIAL", "OPENCV_FISHEYE"])
def test_the_true_camera_model_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    video = make_video(FRAMES, points_per_frame=150, model=model, noise_px=0.3)
    monkeypatch.setattr(
        sfm.mapping.self_calibration, "_STARTS_DEG", {"SIMPLE_RADIAL": (80.0,), "OPENCV_FISHEYE": (125.0,)}
    )
    found = estimate(video, ["SIMPLE_RADIAL", "OPENCV_FISHEYE"], tmp_path)
    assert found.camera.model_name == model
    assert found.camera.mean_focal_length() == pytest.approx(video.camera.mean_focal_length(), rel=0.03)


@pytest.mark.parametrize("turning", [14, 30])
def test_the_camera_is_estimated_despite_pure_rotation_in_the_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turning: int
) -> None:
    monkeypatch.setitem(sfm.mapping.self_calibration._STARTS_DEG, "SIMPLE_RADIAL", (80.0,))
    video = make_video_with_turns([20, 20], turning, points_per_frame=120, model="SIMPLE_RADIAL")
    keyframes = np.arange(0, 40 + turning, 2)
    found = estimate_camera(
        video.tracks, keyframes, SIZE, BOX, ["SIMPLE_RADIAL"], LIMITS, tmp_path, tmp_path / "log", 0
    )
    assert found.camera.params[0] == pytest.approx(video.camera.params[0], rel=0.03)
    low, high = found.focal_range_px
    assert low <= found.camera.params[0] <= high < 1.1 * low


@pytest.mark.parametrize(("first", "focal_range_px"), [(1.3, (400.0, 400.0)), (1.69, (400.0, 700.0))])
def test_if_windows_disagree_the_camera_that_explains_most_in_all_windows_is_chosen(
    first: float, focal_range_px: tuple[float, float]
) -> None:
    windows = [[attempt("SIMPLE_RADIAL", focal_px, share)] for focal_px, share in ((700.0, 0.95), (400.0, 0.9))]
    assert not sfm.mapping.self_calibration._agree(windows)
    in_all = {700.0: first, 400.0: 1.7}
    found = sfm.mapping.self_calibration._choose(windows, lambda start: in_all[start.model.camera.mean_focal_length()])
    assert found.camera.mean_focal_length() == 400.0
    assert found.focal_range_px == focal_range_px


def test_a_model_whose_cameras_explain_only_their_own_windows_is_not_chosen() -> None:
    """In each single window, the fisheye explains 10 % more than a radial camera that fits all windows."""
    windows = [
        [attempt("SIMPLE_RADIAL", focal_px, 0.85), attempt("OPENCV_FISHEYE", focal_px + 50, 0.95)]
        for focal_px in (400.0, 440.0, 480.0)
    ]

    def explained(start: Start) -> float:
        return 2.5 if start.model.camera.model_name == "SIMPLE_RADIAL" else 0.95

    assert sfm.mapping.self_calibration._choose(windows).camera.model_name == "OPENCV_FISHEYE"
    assert sfm.mapping.self_calibration._choose(windows, explained).camera.model_name == "SIMPLE_RADIAL"


def test_a_misleading_window_is_outvoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the first window, all attempts converge to twice the focal length and explain everything."""
    monkeypatch.setitem(sfm.mapping.self_calibration._STARTS_DEG, "SIMPLE_RADIAL", (80.0,))
    video = make_video_with_turns([20, 20], 14, points_per_frame=120, model="SIMPLE_RADIAL")
    original = sfm.mapping.self_calibration._attempt
    misled: list[np.ndarray] = []

    def mislead(tracks: Tracks, window: np.ndarray, *arguments: Any, held: bool = False) -> Start | None:
        found = original(tracks, window, *arguments, held=held)
        if misled and not np.array_equal(misled[0], window) or held or found is None:
            return found
        misled.append(window)
        camera = pycolmap.Camera(found.model.camera.todict())
        camera.params = [2 * camera.params[0], *camera.params[1:]]
        return replace(found, model=replace(found.model, camera=camera), explained=1.0)

    monkeypatch.setattr(sfm.mapping.self_calibration, "_attempt", mislead)
    found = estimate_camera(
        video.tracks, np.arange(0, 54, 2), SIZE, BOX, ["SIMPLE_RADIAL"], LIMITS, tmp_path, tmp_path / "log", 0
    )
    assert misled
    assert found.camera.params[0] == pytest.approx(video.camera.params[0], rel=0.03)
    assert found.focal_range_px[1] < 1.1 * video.camera.params[0]


def test_windows_vote_for_the_model() -> None:
    """One window prefers the fisheye by 4 %, two prefer the pinhole by 2 % each."""
    windows = [
        [attempt("SIMPLE_RADIAL", 400.0, simple), attempt("OPENCV_FISHEYE", 300.0, fisheye)]
        for simple, fisheye in ((0.86, 0.90), (0.92, 0.90), (0.92, 0.90))
    ]
    assert sfm.mapping.self_calibration._choose(windows[:1]).camera.model_name == "OPENCV_FISHEYE"
    assert sfm.mapping.self_calibration._choose(windows).camera.model_name == "SIMPLE_RADIAL"


def test_motion_that_no_camera_explains_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sfm.mapping.self_calibration._STARTS_DEG, "SIMPLE_RADIAL", (80.0,))
    video = make_video(FRAMES, points_per_frame=100)
    monkeypatch.setattr(sfm.mapping.self_calibration, "choose_start", lambda *_, **__: None)
    with pytest.raises(LumenError, match="no reconstruction: no camera .* calibrate the camera"):
        estimate(video, ["SIMPLE_RADIAL"], tmp_path)


def test_of_equal_initial_values_the_first_is_chosen_and_all_count_in_the_range() -> None:
    attempts = (("SIMPLE_RADIAL", 400.0, 0.90), ("SIMPLE_RADIAL", 440.0, 0.91), ("SIMPLE_RADIAL", 390.0, 0.89))
    assert chosen(*attempts) == ("SIMPLE_RADIAL", 400.0, (390.0, 440.0))


def test_an_initial_value_that_explains_clearly_more_is_chosen() -> None:
    attempts = (("SIMPLE_RADIAL", 300.0, 0.60), ("SIMPLE_RADIAL", 400.0, 0.90), ("SIMPLE_RADIAL", 500.0, 0.88))
    assert chosen(*attempts) == ("SIMPLE_RADIAL", 400.0, (400.0, 400.0))


@pytest.mark.parametrize(("explained", "model"), [(0.917, "SIMPLE_RADIAL"), (0.919, "OPENCV_FISHEYE")])
def test_the_model_with_more_parameters_has_to_explain_two_percent_more(explained: float, model: str) -> None:
    found, focal_px, spread = chosen(("SIMPLE_RADIAL", 400.0, 0.90), ("OPENCV_FISHEYE", 300.0, explained))
    assert found == model
    assert spread == (focal_px, focal_px) == ((400.0, 400.0) if model == "SIMPLE_RADIAL" else (300.0, 300.0))


def test_a_starting_pinhole_camera_has_the_field_of_view_across_the_content_area() -> None:
    """The content area is 300 px wide and 200 px high, with its centre at (250, 150)."""
    camera = starting_camera("SIMPLE_RADIAL", 90.0, SIZE, (100, 50, 400, 250))
    assert (camera.width, camera.height) == SIZE and camera.model_name == "SIMPLE_RADIAL"
    np.testing.assert_allclose(camera.params, [150, 250, 150, 0], atol=1e-9)
    left, right = np.asarray(camera.cam_ray_from_img(np.array([[100.0, 150], [400.0, 150]])))
    assert np.rad2deg(np.arccos(left @ right)) == pytest.approx(90.0)


def test_a_starting_fisheye_camera_has_the_field_of_view_across_the_content_area() -> None:
    """The content area is higher than wide, and the field of view exceeds that of a pinhole camera."""
    camera = starting_camera("OPENCV_FISHEYE", 170.0, SIZE, (200, 100, 300, 400))
    np.testing.assert_allclose(camera.params[2:], [250, 250, 0, 0, 0, 0], atol=1e-9)
    top, bottom = np.asarray(camera.cam_ray_from_img(np.array([[250.0, 100], [250.0, 400]])))
    assert np.rad2deg(np.arccos(top @ bottom)) == pytest.approx(170.0)
