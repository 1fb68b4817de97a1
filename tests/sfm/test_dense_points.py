"""Dense points of a plane in front of a moving camera: they lie on the plane, and each patch gives one point."""

import numpy as np
import pytest

from plane_video import CELL, FRAMES, LIMITS, PlaneVideo
from sfm.dense_points import Lattice, _weighted_median, densify_from, joined
from synthetic_video import HEIGHT, WIDTH, project


@pytest.mark.parametrize(("noise_px", "outlier_share", "tolerance"), [(0.0, 0.0, 1e-4), (0.3, 0.2, 0.05)])
def test_points_are_on_the_surface_and_project_to_their_observations(
    noise_px: float, outlier_share: float, tolerance: float
) -> None:
    video = PlaneVideo(noise_px, outlier_share)
    tracks, points = densify_from(6, video.find, video.lattice(), video.camera, video.poses, LIMITS)
    assert len(points) == tracks.track_count > 0.9 * (WIDTH // CELL) * (HEIGHT // CELL)
    assert np.quantile(np.abs(points[:, 2]), 0.95) < tolerance
    assert (tracks.lengths() >= LIMITS.points.views).all()
    error_px = np.linalg.norm(
        project(video.camera, video.poses[tracks.frame], points[tracks.track]) - tracks.pixels, axis=1
    )
    assert error_px.max() < LIMITS.points.error_px


def test_the_median_is_weighted() -> None:
    track = np.array([0, 0, 0, 2, 2, 2, 2])
    values = np.array([3.0, 1.0, 2.0, 9.0, 7.0, 8.0, 6.0])
    weights = np.array([1.0, 1.0, 1.0, 10.0, 1.0, 1.0, 1.0])
    np.testing.assert_array_equal(_weighted_median(track, values, weights, 4), [2.0, np.nan, 9.0, np.nan])


def test_a_patch_seen_by_several_references_is_one_point() -> None:
    video, lattice = PlaneVideo(noise_px=0.2), None
    lattice = video.lattice()
    parts = [densify_from(row, video.find, lattice, video.camera, video.poses, LIMITS) for row in (6, 0, 12)]
    # The others match only the cells that the first left free.
    asked = [count for _, count in video.asked]
    assert asked[0] == (WIDTH // CELL) * (HEIGHT // CELL)
    assert 0 < asked[1] < 0.5 * asked[0] and 0 < asked[2] < 0.5 * asked[0]
    tracks, points = joined(parts, np.arange(FRAMES) + 100)
    assert len(points) == tracks.track_count == sum(len(own) for _, own in parts)
    assert (np.diff(tracks.frame) >= 0).all()
    cells = np.floor(tracks.pixels / CELL).astype(int)
    assert len(np.unique(np.column_stack([tracks.frame, cells]), axis=0)) == len(cells)
    assert np.quantile(np.abs(points[:, 2]), 0.9) < 0.1


def test_coverage_grows_with_each_reference() -> None:
    video = PlaneVideo()
    lattice = video.lattice()
    assert not lattice.coverage().any()
    shares = []
    for row in (6, 0, 12):
        densify_from(row, video.find, lattice, video.camera, video.poses, LIMITS)
        shares.append(lattice.coverage())
    assert (shares[0] <= shares[1]).all() and (shares[1] <= shares[2]).all()
    assert shares[0][6] > 0.9 and shares[2].min() > 0.75


def test_only_cells_that_show_tissue_are_matched() -> None:
    video = PlaneVideo()
    content = np.zeros((HEIGHT, WIDTH), bool)
    content[:, : WIDTH // 2] = True
    lattice = Lattice(content, FRAMES, CELL)
    assert len(lattice.free(0)) == (WIDTH // 2 // CELL) * (HEIGHT // CELL)
    highlights = np.ones((HEIGHT, WIDTH), bool)
    highlights[: HEIGHT // 2] = False
    free = lattice.free(0, highlights)
    assert (free[:, 0] < WIDTH // 2).all() and (free[:, 1] > HEIGHT // 2).all()
    tracks, _ = densify_from(6, video.find, lattice, video.camera, video.poses, LIMITS, highlights)
    first = tracks.pixels[tracks.in_frame(6)]
    assert len(first) and (first[:, 1] > HEIGHT // 2).all()


def test_frames_without_a_pose_have_no_observations() -> None:
    video = PlaneVideo()
    video.poses[3] = np.nan
    # PlaneVideo.find needs all poses, so the matches come from a complete video.
    known = {row: found for row, *found in PlaneVideo().find(6, video.lattice().free(6))}
    tracks, points = densify_from(
        6,
        lambda reference, pixels: ((row, *found) for row, found in known.items()),
        video.lattice(),
        video.camera,
        video.poses,
        LIMITS,
    )
    assert len(points) and not (tracks.frame == 3).any()


def test_no_matches_give_no_points_and_take_no_cells() -> None:
    video = PlaneVideo()
    lattice = video.lattice()
    tracks, points = densify_from(6, lambda row, pixels: iter(()), lattice, video.camera, video.poses, LIMITS)
    assert points.shape == (0, 3) and tracks.track_count == 0
    assert not lattice.coverage().any()
    tracks, points = joined([(tracks, points)], np.arange(FRAMES))
    assert points.shape == (0, 3)


def test_wrong_poses_give_hardly_any_points() -> None:
    video = PlaneVideo()
    poses = video.poses.copy()
    poses[:, 1, 3] = np.random.default_rng(1).uniform(-1, 1, FRAMES)
    assert len(densify_from(6, video.find, video.lattice(), video.camera, poses, LIMITS)[1]) < 40
