"""Removal of points: the uncertainty against repeated experiments, and removal of exactly the inconsistent colours."""

from dataclasses import replace

import numpy as np
import pytest

from sfm.mapping.cleaning import clean, depth_uncertainty
from sfm.mapping.track_model import TrackModel, triangulate_all
from sfm.mapping.triangulation import Limits
from synthetic_video import SyntheticVideo, make_video

LIMITS = Limits(error_px=4.0, views=3, angle_deg=0.5)
NOISE_PX = 0.5
FRAMES = 12


@pytest.fixture(scope="module")
def video() -> SyntheticVideo:
    return make_video(FRAMES, points_per_frame=120, noise_px=NOISE_PX)


@pytest.fixture(scope="module")
def model(video: SyntheticVideo) -> TrackModel:
    return triangulate_all(video.camera, video.cam_from_world, video.tracks, LIMITS)


def measured_uncertainty(video: SyntheticVideo, trials: int) -> np.ndarray:
    """(T,) largest standard deviation of points over triangulations with new noise, as a share of the distance."""
    rng = np.random.default_rng(1)
    true_pixels = video.true_pixels
    found = []
    for _ in range(trials):
        pixels = (true_pixels + rng.normal(0, NOISE_PX, true_pixels.shape)).astype(np.float32)
        tracks = replace(video.tracks, pixels=pixels)
        found.append(triangulate_all(video.camera, video.cam_from_world, tracks, LIMITS).points)
    points = np.array(found)
    spread = np.einsum("ntc,ntd->tcd", points - points.mean(axis=0), points - points.mean(axis=0)) / (trials - 1)
    largest = np.sqrt(np.linalg.eigvalsh(np.nan_to_num(spread, nan=1.0))[:, -1])
    distance = np.linalg.norm(video.points[video.tracks.track] - video.centers[video.tracks.frame], axis=1)
    result = largest / (np.bincount(video.tracks.track, distance) / video.tracks.lengths())
    result[~np.isfinite(points).all(axis=(0, 2))] = np.nan
    return result


def test_uncertainty_matches_repeated_experiments(video: SyntheticVideo, model: TrackModel) -> None:
    measured = measured_uncertainty(video, 150)
    known = np.isfinite(measured)
    ratio = depth_uncertainty(model, video.tracks)[known] / measured[known]
    assert known.mean() > 0.9
    # The points differ: near and far, with many and few observations.
    assert np.quantile(measured[known], 0.9) > 5 * np.quantile(measured[known], 0.1)
    assert np.median(ratio) == pytest.approx(1.0, abs=0.05)
    assert ratio.min() > 0.7 and ratio.max() < 1.31


def test_uncertainty_is_invariant_to_scale(video: SyntheticVideo, model: TrackModel) -> None:
    poses = model.cam_from_world.copy()
    poses[:, :, 3] *= 100
    enlarged = replace(model, cam_from_world=poses, points=100 * model.points)
    here = np.isfinite(model.points[:, 0])
    np.testing.assert_allclose(
        depth_uncertainty(enlarged, video.tracks)[here], depth_uncertainty(model, video.tracks)[here], rtol=1e-6
    )


def test_a_track_without_a_point_has_infinite_uncertainty(video: SyntheticVideo, model: TrackModel) -> None:
    uncertainty = depth_uncertainty(model, video.tracks)
    np.testing.assert_array_equal(np.isinf(uncertainty), np.isnan(model.points[:, 0]))
    assert 0 < np.isinf(uncertainty).sum() < 0.1 * len(uncertainty)
    lost = model.used & (video.tracks.track != np.flatnonzero(np.isfinite(uncertainty))[0])
    assert np.isinf(depth_uncertainty(replace(model, used=lost), video.tracks)).sum() == np.isinf(uncertainty).sum() + 1


def test_a_single_ray_does_not_determine_the_depth(video: SyntheticVideo, model: TrackModel) -> None:
    track = int(np.argmax(video.tracks.lengths()))
    seen = np.flatnonzero(model.used & (video.tracks.track == track))
    used = model.used.copy()
    used[seen[1:]] = False
    assert depth_uncertainty(replace(model, used=used), video.tracks)[track] > 1e3


def tissue_colors(video: SyntheticVideo, changing: np.ndarray) -> np.ndarray:
    """(O, 3): points have a constant colour under slightly varying light; those in `changing` vary at random."""
    rng = np.random.default_rng(2)
    tracks = video.tracks
    own = rng.uniform([120, 60, 50], [200, 100, 90], (tracks.track_count, 3))
    light = rng.uniform(0.95, 1.05, len(tracks.frame_index))
    colors = own[tracks.track] * light[tracks.frame, None]
    wild = rng.uniform(0, 255, colors.shape)
    return np.where(changing[tracks.track, None], wild, colors)


def test_exactly_the_points_with_inconsistent_color_are_removed(video: SyntheticVideo, model: TrackModel) -> None:
    there = np.flatnonzero(np.isfinite(model.points[:, 0]))
    changing = np.zeros(video.tracks.track_count, np.bool_)
    changing[np.random.default_rng(3).choice(there, len(there) // 10, replace=False)] = True
    colors = tissue_colors(video, changing)
    cleaning = clean(model, video.tracks, colors, np.inf, 1 - changing.sum() / len(there))
    assert (cleaning.uncertain, cleaning.inconsistent) == (0, changing.sum())
    np.testing.assert_array_equal(np.isfinite(cleaning.model.points[:, 0]), np.isfinite(model.points[:, 0]) & ~changing)
    np.testing.assert_array_equal(cleaning.model.used, model.used & ~changing[video.tracks.track])


def test_all_points_may_be_kept(video: SyntheticVideo, model: TrackModel) -> None:
    colors = tissue_colors(video, np.ones(video.tracks.track_count, np.bool_))
    cleaning = clean(model, video.tracks, colors, np.inf, 1.0)
    assert (cleaning.uncertain, cleaning.inconsistent) == (0, 0)
    np.testing.assert_array_equal(cleaning.model.points, model.points)


def test_a_point_with_unknown_color_is_kept(video: SyntheticVideo, model: TrackModel) -> None:
    unknown = np.arange(video.tracks.track_count) % 2 == 0
    colors = tissue_colors(video, np.zeros(video.tracks.track_count, np.bool_))
    colors[unknown[video.tracks.track]] = np.nan
    there = np.isfinite(model.points[:, 0])
    cleaning = clean(model, video.tracks, colors, np.inf, 0.5)
    kept = np.isfinite(cleaning.model.points[:, 0])
    np.testing.assert_array_equal(kept[unknown], there[unknown])
    assert cleaning.inconsistent == (there & ~unknown).sum() // 2
    assert clean(model, video.tracks, np.full_like(colors, np.nan), np.inf, 0.5).inconsistent == 0


def test_exactly_the_uncertain_points_are_removed(video: SyntheticVideo, model: TrackModel) -> None:
    uncertainty = depth_uncertainty(model, video.tracks)
    there = np.isfinite(uncertainty)
    limit = float(np.sort(uncertainty[there])[there.sum() * 3 // 4])
    colors = tissue_colors(video, np.zeros(video.tracks.track_count, np.bool_))
    cleaning = clean(model, video.tracks, colors, limit, 1.0)
    # The point at the limit stays.
    assert cleaning.uncertain == there.sum() - there.sum() * 3 // 4 - 1
    np.testing.assert_array_equal(np.isfinite(cleaning.model.points[:, 0]), uncertainty <= limit)


def test_a_frame_that_loses_its_points_keeps_its_pose(video: SyntheticVideo, model: TrackModel) -> None:
    changing = np.zeros(video.tracks.track_count, np.bool_)
    changing[video.tracks.track[model.used & (video.tracks.frame == FRAMES - 1)]] = True
    share = 1 - changing.sum() / model.point_count
    cleaning = clean(model, video.tracks, tissue_colors(video, changing), np.inf, share)
    assert cleaning.inconsistent == changing.sum() > 0
    assert not cleaning.model.used[video.tracks.frame == FRAMES - 1].any()
    np.testing.assert_array_equal(cleaning.model.cam_from_world, model.cam_from_world)
