"""Tracks of a whole video → models: every frame is registered or has a reason why not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest

import sfm.mapping.video
from pipeline.data.tracks import Tracks
from pipeline.errors import LumenError, NoReconstruction
from sfm.evaluation.alignment import PathDifference, compare_paths
from sfm.mapping.initialization import Start
from sfm.mapping.join_models import join_models, joined_poses
from sfm.mapping.track_model import TrackModel, refine, triangulate_all
from sfm.mapping.triangulation import Limits
from sfm.mapping.video import VideoModels, map_video
from synthetic_video import SyntheticVideo, make_video, make_video_with_turns, split_tracks

FRAMES = 40
LIMITS = Limits(error_px=2.0, views=3, angle_deg=1.5)
NOISE_PX = 0.3
OTHER_WORLD = pycolmap.Sim3d(0.4, pycolmap.Rotation3d(np.array([0.3, -1.2, 0.7])), np.array([4.0, -5.0, 6.0]))


@pytest.fixture(scope="module")
def video() -> SyntheticVideo:
    """Frame 7 has no observations; frame 9, which is not a keyframe, has 20."""
    video = make_video(FRAMES, noise_px=NOISE_PX, outlier_share=0.03)
    place = np.arange(len(video.tracks.frame)) - np.searchsorted(video.tracks.frame, video.tracks.frame)
    kept = (video.tracks.frame != 7) & ((video.tracks.frame != 9) | (place < 20))
    return replace(video, tracks=video.tracks.select(kept), outliers=video.outliers[kept])


@pytest.fixture(scope="module")
def mapped(video: SyntheticVideo, tmp_path_factory: pytest.TempPathFactory) -> VideoModels:
    return map_all(video, tmp_path_factory.mktemp("mapped"))


def map_all(
    video: SyntheticVideo,
    folder: Path,
    *,
    step: int = 2,
    camera: pycolmap.Camera | None = None,
    refine_camera: bool = False,
) -> VideoModels:
    keyframes = np.arange(0, len(video.tracks.frame_index), step)
    return map_video(
        video.tracks,
        keyframes,
        camera or video.camera,
        LIMITS,
        folder / "work",
        folder / "log",
        0,
        refine_camera=refine_camera,
    )


def against_truth(model: TrackModel, video: SyntheticVideo) -> PathDifference:
    there = model.registered
    return compare_paths(model.cam_from_world[there], video.cam_from_world[there])


def rows_of(model: TrackModel) -> list[int]:
    return np.flatnonzero(model.registered).tolist()


def part_of(video: SyntheticVideo, rows: range) -> TrackModel:
    """A model with the true poses of some frames, and the points triangulated from them."""
    poses = np.full_like(video.cam_from_world, np.nan)
    poses[rows] = video.cam_from_world[rows]
    return triangulate_all(video.camera, poses, video.tracks, LIMITS)


def turning_rows(moving: list[int], turning: int, *, inverted: bool = False) -> np.ndarray:
    """Rows of the frames of `make_video_with_turns` in which the camera rotates; the others if inverted."""
    parts = [np.full(count, number % 2 == 1) for number, count in enumerate(interleaved(moving, turning))]
    return np.flatnonzero(np.concatenate(parts) != inverted)


def interleaved(moving: list[int], turning: int) -> list[int]:
    return [count for part in moving for count in (part, turning)][:-1]


def in_other_world(model: TrackModel) -> TrackModel:
    poses = model.cam_from_world.copy()
    for row in rows_of(model):
        poses[row] = OTHER_WORLD.transform_camera_world(pycolmap.Rigid3d(poses[row])).matrix()
    points = OTHER_WORLD.scale * model.points @ OTHER_WORLD.rotation.matrix().T + OTHER_WORLD.translation
    return replace(model, cam_from_world=poses, points=points)


def test_a_video_gives_one_model(video: SyntheticVideo, mapped: VideoModels) -> None:
    (model,) = mapped.models
    assert rows_of(model) == [row for row in range(FRAMES) if row not in (7, 9)]
    difference = against_truth(model, video)
    assert 0 < difference.ate < 0.005 * difference.path_length
    assert difference.rotation_deg.max() < 0.2
    np.testing.assert_array_equal(model.camera.params, video.camera.params)


def test_points_are_accurate_and_outliers_are_unused(video: SyntheticVideo, mapped: VideoModels) -> None:
    (model,) = mapped.models
    world = against_truth(model, video).reference_from_estimate
    points = world.scale * model.points @ world.rotation.matrix().T + world.translation
    found = np.isfinite(points[:, 0])
    assert found.mean() > 0.9
    error = np.linalg.norm(points[found] - video.points[found], axis=1)
    assert 0 < np.median(error) < 0.01 and np.quantile(error, 0.95) < 0.06
    assert model.used[video.outliers].sum() == 0
    assert model.used[~video.outliers & found[video.tracks.track]].mean() > 0.95


def test_frames_without_a_pose_have_a_reason(video: SyntheticVideo, mapped: VideoModels) -> None:
    missing = mapped.missing(video.tracks)
    assert missing.keys() == {7, 9}
    assert missing[7] == "no point of another frame was matched in it"
    # Some of the 20 points are not in the model.
    observes, only, count, *rest = missing[9].split(" ", 3)
    assert (observes, only, rest) == ("observes", "only", ["points of the model; 30 are needed"])
    assert 10 < int(count) <= 20


def test_the_same_seed_gives_the_same_model(video: SyntheticVideo, mapped: VideoModels, tmp_path: Path) -> None:
    again = map_all(video, tmp_path)
    assert again.reasons == mapped.reasons
    difference = compare_paths(
        again.models[0].cam_from_world[again.models[0].registered],
        mapped.models[0].cam_from_world[mapped.models[0].registered],
    )
    assert difference.ate < 1e-6 * difference.path_length


def test_the_camera_is_refined_on_request(tmp_path: Path) -> None:
    video = make_video(20, points_per_frame=150, noise_px=NOISE_PX, model="SIMPLE_RADIAL")
    camera = pycolmap.Camera(video.camera.todict())
    camera.params = [1.03 * camera.params[0], *camera.params[1:3], 0.0]
    found = map_all(video, tmp_path, camera=camera, refine_camera=True)
    adjusted = found.models[0].camera
    assert adjusted.params[0] == pytest.approx(video.camera.params[0], rel=0.01)
    assert adjusted.params[3] == pytest.approx(video.camera.params[3], abs=0.01)
    np.testing.assert_array_equal(adjusted.params[1:3], video.camera.params[1:3])


def test_a_video_with_a_cut_gives_two_models(tmp_path: Path) -> None:
    video = split_tracks(make_video(24, points_per_frame=150, noise_px=NOISE_PX), 14)
    found = map_all(video, tmp_path)
    assert [rows_of(model) for model in found.models] == [list(range(14)), list(range(14, 24))]
    for model in found.models:
        difference = against_truth(model, video)
        assert 0 < difference.ate < 0.005 * difference.path_length
    assert found.missing(video.tracks) == {}, "every frame is in a model"


def test_a_part_that_cannot_be_mapped_does_not_stop_the_next_one(tmp_path: Path) -> None:
    parts = [
        make_video(24, noise_px=NOISE_PX, moving=False),
        make_video(30, noise_px=NOISE_PX),
        make_video(16, noise_px=NOISE_PX, seed=1),
    ]
    counts = [len(part.tracks.frame_index) for part in parts]
    first_track = np.cumsum([0, *(part.tracks.track_count for part in parts)])
    tracks = Tracks(
        np.arange(sum(counts)),
        np.concatenate([part.tracks.frame + sum(counts[:number]) for number, part in enumerate(parts)]),
        np.concatenate([part.tracks.track + first_track[number] for number, part in enumerate(parts)]),
        np.concatenate([part.tracks.pixels for part in parts]),
    )
    found = map_all(replace(parts[0], tracks=tracks), tmp_path)
    assert [rows_of(model) for model in found.models] == [list(range(24, 54)), list(range(54, 70))]


def test_a_rotating_camera_gives_no_reconstruction(tmp_path: Path) -> None:
    video = make_video(12, points_per_frame=100, noise_px=NOISE_PX, moving=False)
    with pytest.raises(LumenError, match="no reconstruction: no two keyframes have enough parallax"):
        map_all(video, tmp_path)


def test_all_parts_are_mapped_if_the_camera_rotates_at_the_quarters(tmp_path: Path) -> None:
    """The quarters of the keyframes are inside rotations of twelve keyframes and more."""
    moving, turning = [8, 8, 8, 8], 40
    video = make_video_with_turns(moving, turning, points_per_frame=120)
    found = map_all(video, tmp_path)
    placed = np.any([model.registered for model in found.models], axis=0)
    assert placed[turning_rows(moving, turning, inverted=True)].all()
    for model in found.models:
        difference = against_truth(model, video)
        assert difference.ate < 0.01 * difference.path_length


def test_parts_without_common_points_are_models_with_one_camera(tmp_path: Path) -> None:
    """The camera rotates in frames 20 to 39, and no track crosses the middle of the rotation."""
    video = split_tracks(make_video_with_turns([20, 20], 20, points_per_frame=150, model="SIMPLE_RADIAL"), 30)
    camera = pycolmap.Camera(video.camera.todict())
    camera.params = [1.03 * camera.params[0], *camera.params[1:]]
    found = map_all(video, tmp_path, camera=camera, refine_camera=True)
    placed = [set(rows_of(model)) for model in found.models]
    assert len(placed) == 2
    assert {*range(20)} <= placed[0] | placed[1] and {*range(40, 60)} <= placed[0] | placed[1]
    first, second = (model.camera.params for model in found.models)
    np.testing.assert_array_equal(first, second)
    assert first[0] == pytest.approx(video.camera.params[0], rel=0.02)


def test_a_failed_start_gives_up_only_its_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, video: SyntheticVideo
) -> None:
    original = sfm.mapping.video._map_from
    failed: list[np.ndarray] = []

    def fail_once(start: Start, *arguments: Any) -> TrackModel:
        if not failed:
            failed.append(start.window)
            raise NoReconstruction("the first start fails")
        return original(start, *arguments)

    monkeypatch.setattr(sfm.mapping.video, "_map_from", fail_once)
    found = map_all(video, tmp_path)
    assert len(failed) == 1 and len(failed[0]) == 12
    assert found.models[0].registered.sum() >= 0.9 * FRAMES


def test_too_few_keyframes_give_no_reconstruction(tmp_path: Path) -> None:
    video = make_video(12, points_per_frame=100)
    with pytest.raises(LumenError, match="no reconstruction: the video has only 2 keyframes"):
        map_all(video, tmp_path, step=6)


def test_frames_that_share_too_few_points_give_no_reconstruction(tmp_path: Path) -> None:
    video = make_video(8, points_per_frame=20)
    with pytest.raises(LumenError, match="no reconstruction: neighbouring keyframes share too few points"):
        map_all(video, tmp_path)


def test_a_frame_that_is_registered_and_removed_again_does_not_loop_forever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pose can be estimated from points with an error of 6 px, but they do not agree after refinement."""
    video = make_video(12, noise_px=NOISE_PX)
    noise = np.random.default_rng(0).normal(0, 6, video.tracks.pixels.shape)
    pixels = video.tracks.pixels + (video.tracks.frame == 6)[:, None] * noise
    place = np.arange(len(pixels)) - video.tracks.in_frame(6).start
    kept = (video.tracks.frame != 6) | (place < 80)
    tracks = replace(video.tracks, pixels=pixels.astype(np.float32)).select(kept)
    model = part_of(replace(video, tracks=tracks), range(12))
    model.cam_from_world[6] = np.nan
    registered, rounds = [], 0

    def counted(model: TrackModel, tracks: Tracks, limits: Limits, log: Path, *, refine_camera: bool) -> TrackModel:
        nonlocal rounds
        rounds += 1
        assert rounds < 10
        registered.append(bool(model.registered[6]))
        return refine(model, tracks, limits, log, refine_camera=refine_camera)

    monkeypatch.setattr(sfm.mapping.video, "refine", counted)
    model, _ = sfm.mapping.video._extend(model, tracks, LIMITS, tmp_path / "log", 0, refine_camera=False)
    assert registered.count(True) >= 2
    assert rows_of(model) == [row for row in range(12) if row != 6]


def test_overlapping_models_are_joined_in_the_world_of_the_first() -> None:
    video = make_video(FRAMES)
    base, other = part_of(video, range(24)), in_other_world(part_of(video, range(18, FRAMES)))
    poses = joined_poses(base, other, video.tracks)
    assert poses is not None
    np.testing.assert_array_equal(poses[:24], video.cam_from_world[:24])
    np.testing.assert_allclose(poses[24:], video.cam_from_world[24:], atol=1e-4)


def test_all_overlapping_models_are_joined_and_the_others_kept(video: SyntheticVideo, tmp_path: Path) -> None:
    """The second and third overlap only with the first; the last shares no frame with any."""
    parts = [range(8, 20), range(12), range(17, 32), range(32, FRAMES)]
    models = [part_of(video, parts[0])] + [in_other_world(part_of(video, rows)) for rows in parts[1:]]
    joined = join_models(models, video.tracks, LIMITS, tmp_path / "log")
    assert [rows_of(model) for model in joined] == [[row for row in range(32) if row not in (7, 9)], list(parts[3])]
    difference = against_truth(joined[0], video)
    assert 0 < difference.ate < 0.005 * difference.path_length
    np.testing.assert_array_equal(joined[1].points, models[3].points)


@pytest.mark.parametrize(("first", "joins"), [(22, False), (21, True)])
def test_models_need_three_frames_in_common(first: int, joins: bool) -> None:
    video = make_video(FRAMES)
    base, other = part_of(video, range(24)), in_other_world(part_of(video, range(first, FRAMES)))
    assert (joined_poses(base, other, video.tracks) is not None) is joins


@pytest.mark.parametrize(("points", "joins"), [(29, False), (30, True)])
def test_models_need_thirty_points_in_common(points: int, joins: bool) -> None:
    video = make_video(FRAMES)
    base, other = part_of(video, range(24)), in_other_world(part_of(video, range(12, FRAMES)))
    common = np.flatnonzero(np.isfinite(base.points[:, 0]) & np.isfinite(other.points[:, 0]))
    other.points[common[points:]] = np.nan
    assert (joined_poses(base, other, video.tracks) is not None) is joins


def test_models_that_disagree_are_not_joined(video: SyntheticVideo) -> None:
    base, other = part_of(video, range(24)), in_other_world(part_of(video, range(12, FRAMES)))
    found = np.isfinite(other.points[:, 0])
    other.points[found] = np.random.default_rng(0).permutation(other.points[found])
    assert joined_poses(base, other, video.tracks) is None
