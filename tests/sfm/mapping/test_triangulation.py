"""Triangulation from tracks and known poses: exact without noise, robust to outliers."""

from dataclasses import replace

import numpy as np
import pycolmap
import pytest

from pipeline.data.tracks import Tracks
from sfm.mapping.triangulation import (
    Limits,
    bearing_vectors,
    camera_centers,
    parallax_deg,
    reprojection_errors,
    sum_by_track,
    triangulate,
)
from synthetic_video import SyntheticVideo, make_camera, make_video

LIMITS = Limits(error_px=1.0, views=3, angle_deg=2.0)
MODELS = ["PINHOLE", "SIMPLE_RADIAL", "OPENCV_FISHEYE"]


@pytest.fixture(scope="module")
def video() -> SyntheticVideo:
    return make_video(20, points_per_frame=120)


def two_views(angle_deg: float, model: str = "PINHOLE") -> tuple[Tracks, np.ndarray, pycolmap.Camera, np.ndarray]:
    """Tracks, rays, camera and poses of one point at depth 2 between two cameras, with a triangulation angle."""
    camera = make_camera(model)
    side = 2 * np.tan(np.deg2rad(angle_deg / 2))
    poses = np.array([np.column_stack([np.eye(3), [offset, 0, 0]]) for offset in (side, -side)])
    rays = np.array([[side, 0, 2], [-side, 0, 2]]) / np.hypot(side, 2)
    pixels = np.asarray(camera.img_from_cam(rays)).astype(np.float32)
    return Tracks(np.arange(2), np.arange(2), np.zeros(2, np.int64), pixels), rays, camera, poses


@pytest.mark.parametrize("model", MODELS)
def test_points_without_noise_are_exact(model: str) -> None:
    video = make_video(20, points_per_frame=120, model=model)
    points, used = triangulate(video.tracks, video.true_rays, video.camera, video.cam_from_world, LIMITS)
    found = np.isfinite(points[:, 0])
    assert found.mean() > 0.85
    np.testing.assert_allclose(points[found], video.points[found], atol=1e-6)
    np.testing.assert_array_equal(used, found[video.tracks.track])


def test_points_from_float32_pixels_are_accurate_to_their_rounding(video: SyntheticVideo) -> None:
    rays = bearing_vectors(video.camera, video.tracks.pixels)
    points, _ = triangulate(video.tracks, rays, video.camera, video.cam_from_world, LIMITS)
    found = np.isfinite(points[:, 0])
    np.testing.assert_allclose(points[found], video.points[found], atol=2e-5)


def test_an_outlier_is_rejected_and_its_track_kept(video: SyntheticVideo) -> None:
    rng = np.random.default_rng(0)
    long = np.flatnonzero(video.tracks.lengths() >= 10)
    moved = np.array([rng.choice(np.flatnonzero(video.tracks.track == track)) for track in long])
    shift = np.zeros((len(video.tracks.track), 2))
    shift[moved] = 15 * rng.choice([-1, 1], (len(moved), 2))
    pixels = video.true_pixels + shift
    tracks = replace(video.tracks, pixels=pixels.astype(np.float32))
    points, used = triangulate(
        tracks, bearing_vectors(video.camera, pixels), video.camera, video.cam_from_world, LIMITS
    )
    assert len(long) > 100
    of_long = np.isin(tracks.track, long)
    np.testing.assert_array_equal(np.flatnonzero(~used & of_long), np.sort(moved))
    np.testing.assert_allclose(points[long], video.points[long], atol=1e-6)


def test_a_point_needs_enough_views(video: SyntheticVideo) -> None:
    """Tracks are reduced to 2, 3 or 4 views, spread over their frames so that only the number of views matters."""
    lengths = video.tracks.lengths()
    wanted = np.where(lengths >= 8, 2 + np.arange(len(lengths)) % 3, 0)
    chosen = np.zeros(len(video.tracks.track), np.bool_)
    for track in np.flatnonzero(wanted):
        seen = np.flatnonzero(video.tracks.track == track)
        chosen[seen[np.linspace(0, len(seen) - 1, wanted[track]).astype(int)]] = True
    tracks, rays = video.tracks.select(chosen), video.true_rays[chosen]
    for views in (2, 3, 4):
        limits = replace(LIMITS, views=views, angle_deg=0.0)
        points, used = triangulate(tracks, rays, video.camera, video.cam_from_world, limits)
        np.testing.assert_array_equal(np.isfinite(points[:, 0]), wanted >= views)
        np.testing.assert_array_equal(used, wanted[tracks.track] >= views)


@pytest.mark.parametrize("angle_deg", [0.5, 3.0, 20.0])
def test_the_triangulation_angle_is_between_the_outer_rays(angle_deg: float) -> None:
    tracks, rays, camera, poses = two_views(angle_deg)
    found = parallax_deg(tracks, np.array([[0.0, 0, 2]]), camera_centers(poses), np.array([True, True]))
    np.testing.assert_allclose(found, [angle_deg], atol=1e-6)
    points, used = triangulate(tracks, rays, camera, poses, Limits(1.0, 2, 0.99 * angle_deg))
    np.testing.assert_allclose(points, [[0, 0, 2]], atol=1e-9)
    assert used.tolist() == [True, True]
    points, used = triangulate(tracks, rays, camera, poses, Limits(1.0, 2, 1.01 * angle_deg))
    assert np.isnan(points).all() and used.tolist() == [False, False]


def test_parallel_rays_have_no_point() -> None:
    tracks, _, camera, poses = two_views(10.0)
    rays = np.array([[0.0, 0, 1], [0, 0, 1]])
    tracks = replace(tracks, pixels=np.asarray(camera.img_from_cam(rays)).astype(np.float32))
    points, used = triangulate(tracks, rays, camera, poses, Limits(100.0, 2, 0.0))
    assert np.isnan(points).all() and not used.any()


def test_rays_that_meet_behind_the_cameras_have_no_point() -> None:
    tracks, rays, camera, poses = two_views(10.0)
    points, used = triangulate(tracks, rays[::-1], camera, poses, Limits(100.0, 2, 0.0))
    assert np.isnan(points).all() and not used.any()


def test_frames_without_a_pose_are_ignored(video: SyntheticVideo) -> None:
    without = np.isin(video.tracks.frame, [3, 4, 11])
    poses = video.cam_from_world.copy()
    poses[[3, 4, 11]] = np.nan
    garbage = np.where(without[:, None], np.float32(1), video.tracks.pixels)
    tracks = replace(video.tracks, pixels=garbage)
    rays = np.where(without[:, None], [0.0, 0, 1], video.true_rays)
    points, used = triangulate(tracks, rays, video.camera, poses, LIMITS)
    alone, used_alone = triangulate(
        video.tracks.select(~without), video.true_rays[~without], video.camera, video.cam_from_world, LIMITS
    )
    np.testing.assert_allclose(points, alone, atol=1e-12)
    np.testing.assert_array_equal(used[~without], used_alone)
    assert not used[without].any() and used_alone.mean() > 0.9


def test_a_pixel_without_a_ray_is_ignored(video: SyntheticVideo) -> None:
    rays = video.true_rays.copy()
    rays[::7] = np.nan
    points, used = triangulate(video.tracks, rays, video.camera, video.cam_from_world, LIMITS)
    found = np.isfinite(points[:, 0])
    assert not used[::7].any() and found.mean() > 0.9
    np.testing.assert_allclose(points[found], video.points[found], atol=1e-6)


def test_no_tracks_give_no_points() -> None:
    nothing = np.zeros(0, np.int64)
    tracks = Tracks(np.arange(3), nothing, nothing, np.zeros((0, 2), np.float32))
    camera = make_camera("OPENCV_FISHEYE")
    rays = bearing_vectors(camera, tracks.pixels)
    points, used = triangulate(tracks, rays, camera, np.full((3, 3, 4), np.nan), LIMITS)
    assert (rays.shape, points.shape, used.shape) == ((0, 3), (0, 3), (0,))


def test_a_track_without_observations_has_no_point(video: SyntheticVideo) -> None:
    kept = video.tracks.track != 5
    points, _ = triangulate(
        video.tracks.select(kept), video.true_rays[kept], video.camera, video.cam_from_world, LIMITS
    )
    assert np.isnan(points[5]).all() and len(points) == video.tracks.track_count


@pytest.mark.parametrize("model", MODELS)
def test_an_error_is_the_distance_in_pixels(model: str) -> None:
    video = make_video(4, points_per_frame=40, model=model)
    tracks = replace(video.tracks, pixels=(video.true_pixels + [3.0, -4.0]).astype(np.float32))
    error_px = reprojection_errors(tracks, video.points, video.camera, video.cam_from_world)
    np.testing.assert_allclose(error_px, 5.0, atol=1e-3)


@pytest.mark.parametrize("model", MODELS)
def test_a_point_that_cannot_be_projected_has_an_infinite_error(model: str) -> None:
    tracks, _, camera, poses = two_views(10.0, model)
    ahead, behind, unknown = np.array([[0.0, 0, 2]]), np.array([[0.0, 0, -2]]), np.full((1, 3), np.nan)
    assert reprojection_errors(tracks, ahead, camera, poses).max() < 1e-3
    assert reprojection_errors(tracks, behind, camera, poses).tolist() == [np.inf, np.inf]
    assert reprojection_errors(tracks, unknown, camera, poses).tolist() == [np.inf, np.inf]
    poses[0] = np.nan
    error_px = reprojection_errors(tracks, ahead, camera, poses)
    assert error_px[0] == np.inf and error_px[1] < 1e-3


def test_centers_are_at_the_origin_of_their_cameras(video: SyntheticVideo) -> None:
    poses = video.cam_from_world.copy()
    poses[2] = np.nan
    centers = camera_centers(poses)
    assert np.isnan(centers[2]).all()
    at_origin = np.einsum("nij,nj->ni", poses[:, :, :3], centers) + poses[:, :, 3]
    np.testing.assert_allclose(np.delete(at_origin, 2, axis=0), 0, atol=1e-12)


def test_values_are_summed_by_track() -> None:
    values = np.array([[1.0, 10], [2, 20], [4, 40]])
    assert sum_by_track(np.array([2, 0, 2]), values, 4).tolist() == [[2, 20], [0, 0], [5, 50], [0, 0]]
