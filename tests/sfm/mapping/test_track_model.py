"""Sparse models of tracks: registration, refinement, removal of poses, and conversion to COLMAP."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pycolmap
import pytest

from pipeline.data.tracks import Tracks
from sfm.evaluation.alignment import PathDifference, compare_paths
from sfm.mapping.track_model import (
    MIN_FRAME_POINTS,
    TrackModel,
    in_first_camera,
    keep_points,
    model_from_keyframes,
    reconstruction_from,
    refine,
    register_frames,
    triangulate_all,
    without_poor_frames,
)
from sfm.mapping.triangulation import Limits, camera_centers, reprojection_errors
from synthetic_video import SyntheticVideo, make_video

FRAMES = 16
LIMITS = Limits(error_px=2.0, views=3, angle_deg=1.5)


@pytest.fixture(scope="module")
def video() -> SyntheticVideo:
    return make_video(FRAMES, points_per_frame=120)


@pytest.fixture(scope="module")
def noisy() -> SyntheticVideo:
    return make_video(FRAMES, points_per_frame=120, noise_px=0.3, outlier_share=0.03)


def true_model(video: SyntheticVideo) -> TrackModel:
    return triangulate_all(video.camera, video.cam_from_world, video.tracks, LIMITS)


def only_in(tracks: Tracks, row: int, count: int) -> Tracks:
    """Keep only `count` observations in one frame, and all in the others."""
    place = np.arange(len(tracks.frame))
    return tracks.select((tracks.frame != row) | (place < tracks.in_frame(row).start + count))


def without_poses(model: TrackModel, rows: list[int]) -> TrackModel:
    poses = model.cam_from_world.copy()
    poses[rows] = np.nan
    return replace(model, cam_from_world=poses)


def perturbed(poses: np.ndarray, rng: np.random.Generator, angle_deg: float, shift: float) -> np.ndarray:
    moved = poses.copy()
    for row in range(len(poses)):
        vector = rng.standard_normal(3)
        turned = pycolmap.Rotation3d(np.deg2rad(angle_deg) * vector / np.linalg.norm(vector)).matrix()
        moved[row] = turned @ poses[row]
        moved[row, :, 3] += shift * rng.standard_normal(3)
    return moved


def against_truth(model: TrackModel, video: SyntheticVideo) -> PathDifference:
    there = model.registered
    return compare_paths(model.cam_from_world[there], video.cam_from_world[there])


def test_removed_poses_are_recovered(video: SyntheticVideo) -> None:
    model = without_poses(true_model(video), [5, 11])
    found, reasons = register_frames(model, video.tracks, [5, 11], 4.0, seed=0)
    assert reasons == {} and found.registered.all()
    others = np.delete(np.arange(FRAMES), [5, 11])
    np.testing.assert_array_equal(found.cam_from_world[others], video.cam_from_world[others])
    difference = against_truth(found, video)
    assert difference.rotation_deg.max() < 1e-3
    assert difference.position.max() < 1e-5 * difference.path_length


def test_outliers_do_not_move_a_pose(noisy: SyntheticVideo) -> None:
    model = true_model(noisy)
    found, reasons = register_frames(without_poses(model, [7]), noisy.tracks, [7], 2.0, seed=0)
    assert reasons == {}
    difference = against_truth(found, noisy)
    assert 0 < difference.rotation_deg[7] < 0.1
    assert 0 < difference.position[7] < 0.01


def test_a_frame_that_observes_too_few_points_is_reported(video: SyntheticVideo) -> None:
    model = without_poses(true_model(video), [5])
    known = np.isfinite(model.points[video.tracks.track, 0])
    tracks, used = video.tracks.select(known), model.used[known]
    model = replace(model, used=used)
    for count in (0, MIN_FRAME_POINTS - 1):
        found, reasons = register_frames(model, only_in(tracks, 5, count), [5], 4.0, seed=0)
        assert reasons == {5: f"observes only {count} points of the model; 30 are needed"}
        assert not found.registered[5] and found.registered.sum() == FRAMES - 1
    found, reasons = register_frames(model, only_in(tracks, 5, MIN_FRAME_POINTS), [5], 4.0, seed=0)
    assert reasons == {} and found.registered.all()


def test_points_that_agree_on_no_pose_are_reported(video: SyntheticVideo) -> None:
    model = without_poses(true_model(video), [5])
    pixels = video.tracks.pixels.copy()
    here = video.tracks.in_frame(5)
    pixels[here] = np.random.default_rng(0).permutation(pixels[here])
    known = int(np.isfinite(model.points[video.tracks.track[here], 0]).sum())
    found, reasons = register_frames(model, replace(video.tracks, pixels=pixels), [5], 4.0, seed=0)
    assert not found.registered[5] and list(reasons) == [5]
    assert reasons[5].startswith("only ")
    assert reasons[5].endswith(f"of its {known} points agree on a pose")


def test_refinement_corrects_perturbed_poses(noisy: SyntheticVideo, tmp_path: Path) -> None:
    poses = perturbed(noisy.cam_from_world, np.random.default_rng(0), 0.15, 0.004)
    # More observations agree as the poses improve.
    model = triangulate_all(noisy.camera, poses, noisy.tracks, replace(LIMITS, error_px=8.0))
    before = against_truth(model, noisy)
    for limits in (replace(LIMITS, error_px=8.0), LIMITS, LIMITS):
        model = refine(model, noisy.tracks, limits, tmp_path / "log")
    after = against_truth(model, noisy)
    assert model.registered.all()
    assert before.ate > 0.004 and before.rotation_deg.max() > 0.5
    assert 0 < after.ate < 0.2 * before.ate
    assert after.rotation_deg.max() < 0.15
    error_px = reprojection_errors(noisy.tracks, model.points, model.camera, model.cam_from_world)
    # Two coordinates with a standard deviation of 0.3 px.
    assert np.sqrt((error_px[model.used] ** 2).mean()) == pytest.approx(0.3 * np.sqrt(2), rel=0.1)
    assert not (model.used & noisy.outliers).any()
    assert model.used[~noisy.outliers].mean() > 0.9


def test_after_refinement_every_observation_is_within_the_limits(noisy: SyntheticVideo, tmp_path: Path) -> None:
    limits = replace(LIMITS, error_px=0.6, views=9)
    before = triangulate_all(noisy.camera, noisy.cam_from_world, noisy.tracks, limits)
    model = refine(before, noisy.tracks, limits, tmp_path / "log")
    error_px = reprojection_errors(noisy.tracks, model.points, model.camera, model.cam_from_world)
    assert 0.55 < error_px[model.used].max() < 0.6
    views = np.bincount(noisy.tracks.track[model.used], minlength=noisy.tracks.track_count)
    np.testing.assert_array_equal(np.isfinite(model.points[:, 0]), views >= limits.views)
    # Some were within the limit before.
    assert (error_px[before.used] > 0.6).any() and (model.used <= before.used).all()


def test_refinement_leaves_an_exact_model_unchanged(video: SyntheticVideo, tmp_path: Path) -> None:
    model = refine(true_model(video), video.tracks, LIMITS, tmp_path / "log")
    found = np.isfinite(model.points[:, 0])
    np.testing.assert_array_equal(found, np.isfinite(true_model(video).points[:, 0]))
    np.testing.assert_allclose(model.points[found], video.points[found], atol=1e-3)
    assert against_truth(model, video).ate < 1e-5
    error_px = reprojection_errors(video.tracks, model.points, model.camera, model.cam_from_world)
    assert error_px[model.used].max() < 1e-3


@pytest.mark.parametrize(("model", "factor"), [("PINHOLE", 1.03), ("SIMPLE_RADIAL", 0.97), ("OPENCV_FISHEYE", 1.03)])
def test_a_wrong_focal_length_is_corrected_only_with_refine_camera(tmp_path: Path, model: str, factor: float) -> None:
    video = make_video(FRAMES, points_per_frame=120, model=model)
    camera = pycolmap.Camera(video.camera.todict())
    camera.params = [
        value * factor if index in camera.focal_length_idxs() else value for index, value in enumerate(camera.params)
    ]
    limits = replace(LIMITS, error_px=12.0)
    start = triangulate_all(camera, video.cam_from_world, video.tracks, limits)
    held = refine(start, video.tracks, limits, tmp_path / "log")
    np.testing.assert_array_equal(held.camera.params, camera.params)
    refined = refine(start, video.tracks, limits, tmp_path / "log", refine_camera=True)
    refined = refine(refined, video.tracks, limits, tmp_path / "log", refine_camera=True)
    assert refined.camera.model_name == model and refined.registered.all()
    assert refined.camera.mean_focal_length() == pytest.approx(video.camera.mean_focal_length(), rel=1e-3)
    principal = list(camera.principal_point_idxs())
    np.testing.assert_array_equal(refined.camera.params[principal], video.camera.params[principal])


def test_random_poses_are_removed(video: SyntheticVideo, tmp_path: Path) -> None:
    poses = perturbed(video.cam_from_world, np.random.default_rng(0), 40.0, 1.0)
    model = refine(replace(true_model(video), cam_from_world=poses), video.tracks, LIMITS, tmp_path / "log")
    assert model.registered.sum() == model.point_count == model.used.sum() == 0


def test_a_frame_keeps_its_pose_with_30_points(video: SyntheticVideo) -> None:
    model = true_model(video)
    tracks = video.tracks.select(model.used)
    model = replace(model, used=np.ones(len(tracks.frame), np.bool_))
    for count in (MIN_FRAME_POINTS - 1, MIN_FRAME_POINTS):
        fewer = only_in(tracks, 5, count)
        kept = without_poor_frames(replace(model, used=np.ones(len(fewer.frame), np.bool_)), fewer)
        assert np.flatnonzero(~kept.registered).tolist() == ([5] if count < 30 else [])
        np.testing.assert_array_equal(kept.used, (fewer.frame != 5) | (count >= 30))
        np.testing.assert_array_equal(kept.points, model.points)


def test_unused_observations_do_not_keep_a_frame(video: SyntheticVideo) -> None:
    model = true_model(video)
    used = model.used & ((video.tracks.frame != 5) | (np.arange(len(model.used)) % 10 == 0))
    assert np.flatnonzero(~without_poor_frames(replace(model, used=used), video.tracks).registered).tolist() == [5]


def test_observations_of_removed_points_are_unused(video: SyntheticVideo) -> None:
    model = true_model(video)
    kept = np.arange(video.tracks.track_count) % 2 == 0
    half = keep_points(model, video.tracks, kept)
    np.testing.assert_array_equal(np.isfinite(half.points[:, 0]), np.isfinite(model.points[:, 0]) & kept)
    np.testing.assert_array_equal(half.used, model.used & kept[video.tracks.track])
    np.testing.assert_array_equal(half.cam_from_world, model.cam_from_world)
    assert half.point_count == np.isfinite(model.points[kept, 0]).sum()


@pytest.mark.parametrize("camera", ["PINHOLE", "OPENCV_FISHEYE"])
def test_round_trip_through_colmap_files(tmp_path: Path, camera: str) -> None:
    video = make_video(FRAMES, points_per_frame=120, model=camera, noise_px=0.3, outlier_share=0.03)
    model = without_poses(true_model(video), [0, 7])
    model = replace(model, used=model.used & model.registered[video.tracks.frame])
    reconstruction, point_ids, image_ids = reconstruction_from(model, video.tracks)
    reconstruction.write_binary(tmp_path)
    read = pycolmap.Reconstruction(tmp_path)
    assert read.cameras[1].model_name == camera
    np.testing.assert_array_equal(read.cameras[1].params, video.camera.params)
    assert list(image_ids) == [row for row in range(FRAMES) if row not in (0, 7)]
    assert len(read.images) == read.num_reg_images() == FRAMES - 2
    for row, image_id in image_ids.items():
        assert read.images[image_id].name == f"{video.tracks.frame_index[row]:08d}.jpg"
        np.testing.assert_allclose(
            read.images[image_id].cam_from_world().matrix(), model.cam_from_world[row], atol=1e-12
        )
    rows = {image_id: row for row, image_id in image_ids.items()}
    found = set()
    for track, point_id in point_ids.items():
        np.testing.assert_array_equal(read.points3D[point_id].xyz, model.points[track])
        for element in read.points3D[point_id].track.elements:
            x, y = read.images[element.image_id].points2D[element.point2D_idx].xy
            found.add((rows[element.image_id], track, x, y))
    frame, track, pixels = (
        values[model.used] for values in (video.tracks.frame, video.tracks.track, video.tracks.pixels)
    )
    assert found == set(zip(frame.tolist(), track.tolist(), *pixels.astype(float).T.tolist(), strict=True))
    assert read.compute_num_observations() == len(frame)


def test_a_model_of_keyframes_triangulates_all_tracks(video: SyntheticVideo) -> None:
    """Frames are identified by image name, not by image ID."""
    keyframes = np.arange(1, FRAMES, 3)
    of_keyframes = video.tracks.select(np.isin(video.tracks.frame, keyframes))
    alone = replace(
        of_keyframes,
        frame_index=video.tracks.frame_index[keyframes],
        frame=np.searchsorted(keyframes, of_keyframes.frame),
    )
    part = triangulate_all(video.camera, video.cam_from_world[keyframes], alone, LIMITS)
    reconstruction, _, _ = reconstruction_from(part, alone)
    rows = {f"{video.tracks.frame_index[row]:08d}.jpg": int(row) for row in keyframes}
    model = model_from_keyframes(reconstruction, rows, video.tracks, LIMITS)
    np.testing.assert_array_equal(model.registered, np.isin(np.arange(FRAMES), keyframes))
    np.testing.assert_allclose(model.cam_from_world[keyframes], video.cam_from_world[keyframes], atol=1e-12)
    found = np.isfinite(model.points[:, 0])
    assert 50 < found.sum() < video.tracks.track_count
    np.testing.assert_allclose(model.points[found], video.points[found], atol=1e-4)
    assert set(np.unique(video.tracks.frame[model.used])) <= set(keyframes)


def test_the_canonical_world_has_the_first_camera_at_the_origin_and_unit_depth(
    video: SyntheticVideo,
) -> None:
    model = without_poses(true_model(video), [0])
    model = replace(model, used=model.used & (video.tracks.frame != 0))
    moved = in_first_camera(model, video.tracks)
    np.testing.assert_allclose(moved.cam_from_world[1], np.eye(3, 4), atol=1e-9)
    assert np.isnan(moved.cam_from_world[0]).all()
    centers = camera_centers(moved.cam_from_world)[video.tracks.frame[moved.used]]
    distance = np.linalg.norm(moved.points[video.tracks.track[moved.used]] - centers, axis=1)
    assert np.median(distance) == pytest.approx(1)
    errors = [
        reprojection_errors(video.tracks, each.points, each.camera, each.cam_from_world) for each in (model, moved)
    ]
    np.testing.assert_allclose(errors[0][model.used], errors[1][model.used], atol=1e-6)
