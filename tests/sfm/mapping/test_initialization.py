"""The initial model is the one that explains most; one that explains nearly everything ends the search."""

from pathlib import Path

import numpy as np
import pycolmap
import pytest

import sfm.mapping.initialization
from sfm.evaluation.alignment import compare_paths
from sfm.mapping.incremental import frame_names, map_images, write_keyframes
from sfm.mapping.initialization import MIN_KEYFRAMES, WINDOW_KEYFRAMES, choose_start, windows_in
from sfm.mapping.triangulation import Limits
from synthetic_video import SyntheticVideo, make_video

FRAMES = 12
KEYFRAMES = np.arange(FRAMES)
LIMITS = Limits(error_px=2.0, views=4, angle_deg=1.5)


@pytest.fixture(scope="module")
def video() -> SyntheticVideo:
    return make_video(FRAMES, points_per_frame=120, noise_px=0.3)


@pytest.fixture
def database(video: SyntheticVideo, tmp_path: Path) -> Path:
    found = write_keyframes(video.tracks, KEYFRAMES, video.camera, tmp_path, tmp_path / "log", 0)
    assert found is not None
    return found


def test_a_start_that_explains_nearly_everything_ends_the_search(video: SyntheticVideo, database: Path) -> None:
    start = choose_start(video.tracks, [KEYFRAMES], database, LIMITS, database.with_name("log"), 0)
    assert start is not None
    assert 0.95 < start.explained <= 1
    assert sorted(path.name for path in database.parent.glob("start_*")) == ["start_0_6_8"]
    assert start.model_folder == database.parent / "start_0_6_8" / "model"
    assert start.database == database
    np.testing.assert_array_equal(start.window, KEYFRAMES)
    assert pycolmap.Reconstruction(start.model_folder).num_reg_images() == FRAMES
    difference = compare_paths(start.model.cam_from_world, video.cam_from_world)
    assert 0 < difference.ate < 0.005 * difference.path_length


def test_of_poor_starts_the_one_that_explains_most_is_chosen(
    video: SyntheticVideo, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = iter([0.5, 0.7, 0.6, 0.65])

    def score(*_: object, refine_camera: bool) -> tuple[None, float]:
        return None, next(shares)

    monkeypatch.setattr(sfm.mapping.initialization, "_score", score)
    start = choose_start(video.tracks, [KEYFRAMES], database, LIMITS, database.with_name("log"), 0)
    assert start is not None and start.explained == 0.7
    assert start.model_folder == database.parent / "start_0_6_10" / "model"
    assert next(shares, None) is None


def test_a_model_with_less_than_half_of_the_keyframes_is_rejected(video: SyntheticVideo, database: Path) -> None:
    log = database.with_name("log")
    for count, expected in ((5, False), (6, True)):
        names = frame_names(video.tracks, KEYFRAMES[:count])
        mapped = map_images(database, names, database.with_name(f"first_{count}"), log, 0)
        assert mapped is not None and pycolmap.Reconstruction(mapped).num_reg_images() == count
        scored = sfm.mapping.initialization._score(mapped, video.tracks, KEYFRAMES, LIMITS, log, refine_camera=False)
        assert (scored is not None) is expected


@pytest.mark.parametrize("lengths", [(3,), (12,), (13,), (100,), (40, 7, 2, 3)])
def test_windows_cover_exactly_the_runs_that_are_long_enough(lengths: tuple[int, ...]) -> None:
    ends = np.cumsum(lengths).tolist()
    runs = [range(end - length, end) for end, length in zip(ends, lengths, strict=True)]
    windows = windows_in(runs)
    assert {place for window in windows for place in window} == {
        place for run in runs if len(run) >= MIN_KEYFRAMES for place in run
    }
    assert all(len(window) <= WINDOW_KEYFRAMES and any(set(window) <= set(run) for run in runs) for window in windows)
    assert len(set(windows)) == len(windows)


def test_the_middles_of_the_runs_come_first_starting_with_the_longest_run() -> None:
    windows = windows_in([range(20, 60), range(8)])
    assert windows[:2] == [range(34, 46), range(8)]
    assert windows[2:4] == [range(24, 36), range(44, 56)]


def test_a_window_without_a_model_does_not_end_the_search(video: SyntheticVideo, database: Path) -> None:
    elsewhere = np.array([3, 4])
    start = choose_start(video.tracks, [elsewhere, KEYFRAMES], database, LIMITS, database.with_name("log"), 0)
    assert start is not None
    np.testing.assert_array_equal(start.window, KEYFRAMES)
