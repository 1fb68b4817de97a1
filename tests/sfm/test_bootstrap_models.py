"""Tracks → model files: colours, undistortion of observations, and the limits from the config."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from data_prep import bootstrap
from data_prep.bootstrap import BootstrapConfig
from data_prep.calibration import unknown_camera
from data_prep.calibration.unknown_camera import known_camera
from pipeline.command.config import configure
from pipeline.data.tracks import Correspondences, Tracks
from pipeline.errors import NoReconstruction
from pipeline.paths import BootstrapPaths, SequencePaths
from pipeline.report import StageReport
from sfm.input_video import InputVideo
from sfm.mapping.track_model import TrackModel
from sfm.models import figures_of, into_pinhole, sample_colors
from synthetic_video import HEIGHT, WIDTH, SyntheticVideo, make_camera, make_video, project

RAMP_SIZE = (120, 90)
RAMP_BLUE = (30, 130, 200)
EVERYWHERE = np.full((HEIGHT, WIDTH), 255, np.uint8)


@pytest.fixture(scope="module")
def video() -> SyntheticVideo:
    return make_video(12, points_per_frame=120, model="SIMPLE_RADIAL")


@pytest.fixture
def ramps(tmp_path: Path) -> SequencePaths:
    """Three frames: red increases by 2 per column, green by 2 per row, and blue identifies the frame."""
    paths = SequencePaths(tmp_path)
    paths.images.mkdir()
    columns, rows = np.meshgrid(np.arange(RAMP_SIZE[0]), np.arange(RAMP_SIZE[1]))
    quality = [cv2.IMWRITE_JPEG_QUALITY, 100, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    for row, blue in enumerate(RAMP_BLUE):
        image = np.dstack([np.full_like(columns, blue), 2 * rows, 2 * columns]).astype(np.uint8)
        cv2.imwrite(str(paths.image(50 + 3 * row)), image, quality)
    return paths


def scattered_tracks(frames: int = 3, points: int = 200) -> Tracks:
    rng = np.random.default_rng(0)
    pixels = rng.uniform(1, np.array(RAMP_SIZE) - 1, (frames * points, 2)).astype(np.float32)
    frame = np.repeat(np.arange(frames), points)
    return Tracks(50 + 3 * np.arange(frames), frame, np.tile(np.arange(points), frames), pixels)


def model_of(video: SyntheticVideo) -> TrackModel:
    used = np.ones(len(video.tracks.frame), np.bool_)
    return TrackModel(video.camera, video.cam_from_world, video.points, used)


def seen_undistorted(video: SyntheticVideo) -> np.ndarray:
    """(O, 2) px projections of the points into a pinhole camera."""
    tracks = video.tracks
    return project(make_camera("PINHOLE"), video.cam_from_world[tracks.frame], video.points[tracks.track])


def in_frame(pixels: np.ndarray) -> np.ndarray:
    return ((pixels >= 0) & (pixels < [WIDTH, HEIGHT])).all(axis=1)


def test_colors_are_sampled_at_the_observation_in_its_frame(ramps: SequencePaths) -> None:
    tracks = scattered_tracks()
    colors = sample_colors(ramps, tracks, RAMP_SIZE)
    # The centre of a pixel is at half a pixel in COLMAP's convention.
    expected = np.column_stack([2 * (tracks.pixels - 0.5), np.array(RAMP_BLUE)[tracks.frame]])
    np.testing.assert_allclose(colors, expected, atol=3)
    np.testing.assert_allclose((colors - expected).mean(axis=0), 0, atol=0.3)


def test_frames_that_cannot_be_read_have_no_color(ramps: SequencePaths) -> None:
    tracks = scattered_tracks()
    ramps.image(53).unlink()
    colors = sample_colors(ramps, tracks, RAMP_SIZE)
    np.testing.assert_array_equal(np.isnan(colors).all(axis=1), tracks.frame == 1)
    np.testing.assert_array_equal(np.isnan(colors).any(axis=1), tracks.frame == 1)


def test_without_observations_there_are_no_colors(ramps: SequencePaths) -> None:
    tracks = scattered_tracks()
    nothing = tracks.select(np.zeros(len(tracks.frame), np.bool_))
    assert sample_colors(ramps, nothing, RAMP_SIZE).shape == (0, 3)


def test_observations_move_to_the_pinhole_projections_of_their_points(video: SyntheticVideo) -> None:
    moved, (model,), kept = into_pinhole(video.tracks, [model_of(video)], make_camera("PINHOLE"), EVERYWHERE)
    expected = seen_undistorted(video)
    np.testing.assert_array_equal(kept, in_frame(expected))
    assert 0.3 < kept.mean() < 1
    assert np.linalg.norm(expected - video.tracks.pixels, axis=1)[kept].max() > 10
    np.testing.assert_allclose(moved.pixels, expected[kept], atol=0.01)
    np.testing.assert_array_equal(moved.track, video.tracks.track[kept])
    np.testing.assert_array_equal(moved.frame, video.tracks.frame[kept])
    assert model.camera.model_name == "PINHOLE"
    assert figures_of(model, moved).mean_error_px < 0.01


def test_observations_outside_the_undistorted_mask_are_removed(video: SyntheticVideo) -> None:
    mask = EVERYWHERE.copy()
    mask[:, :240] = 0
    mask[300:] = 0
    moved, (model,), kept = into_pinhole(video.tracks, [model_of(video)], make_camera("PINHOLE"), mask)
    expected = seen_undistorted(video)
    inside = in_frame(expected) & (expected[:, 0] >= 240) & (expected[:, 1] < 300)
    np.testing.assert_array_equal(kept, inside)
    assert 0.1 < inside.mean() < 0.6
    assert len(moved.frame) == len(model.used) == inside.sum()


def test_points_with_fewer_than_two_observations_are_removed(video: SyntheticVideo) -> None:
    mask = EVERYWHERE.copy()
    mask[:, :240] = 0
    before = model_of(video)
    # Some observations do not agree with their point.
    before = replace(before, used=np.arange(len(before.used)) % 3 > 0)
    moved, (model,), kept = into_pinhole(video.tracks, [before], make_camera("PINHOLE"), mask)
    views = np.bincount(video.tracks.track[kept & before.used], minlength=len(video.points))
    assert (views == 1).any() and (views == 2).any()
    np.testing.assert_array_equal(np.isfinite(model.points[:, 0]), views >= 2)
    np.testing.assert_array_equal(model.points[views >= 2], video.points[views >= 2])
    np.testing.assert_array_equal(model.used, before.used[kept] & (views >= 2)[moved.track])


@pytest.mark.parametrize("calibrated", [True, False])
def test_mapping_uses_the_limits_of_the_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calibrated: bool
) -> None:
    asked = []

    def estimate(*arguments: Any) -> Any:
        asked.append(arguments[5])
        return SimpleNamespace(camera=make_camera("SIMPLE_RADIAL"), focal_range_px=(400.0, 401.0))

    def stop(*arguments: Any, **_: Any) -> Any:
        asked.append(arguments[3])
        raise NoReconstruction("stopped")

    given = Correspondences(make_video(9).tracks, np.arange(9), [])
    monkeypatch.setattr(unknown_camera, "estimate_camera", estimate)
    monkeypatch.setattr(bootstrap, "_match", lambda *_: given)
    monkeypatch.setattr("sfm.map_stage.map_video", stop)
    camera = make_camera() if calibrated else None
    content = np.zeros((1200, 2000), np.uint8)
    content[60:1140, 100:1720] = 255
    nothing: Any = None
    facts: Any = SimpleNamespace(frames=range(9))
    own = InputVideo(nothing, nothing, facts, content)
    video: Any = SimpleNamespace(camera=camera, size=(2000, 1200), limits=own.limits, content_box=own.content_box)
    for settings, error_px in (({}, 4.5), ({"max_error_px": 2.5}, 2.5)):
        config = configure(BootstrapConfig, tmp_path, min_views=7, min_angle_deg=3.25, **settings)
        known = known_camera(video, None)
        with pytest.raises(NoReconstruction, match="stopped"):
            bootstrap._map(config, video, known, BootstrapPaths(tmp_path), StageReport("bootstrap"))
        assert len(asked) == (1 if calibrated else 2)
        assert {(limits.error_px, limits.views, limits.angle_deg) for limits in asked} == {(error_px, 7, 3.25)}
        asked.clear()
