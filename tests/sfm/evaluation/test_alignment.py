"""Trajectories that differ by a known similarity transform, with and without a known error."""

import numpy as np
import pycolmap
import pytest

from pipeline.arrays import Float64s
from pipeline.conventions import invert_poses
from pipeline.errors import LumenError
from scenes import random_rotations
from sfm.evaluation.alignment import align_poses, compare_paths
from synthetic_video import fly

SIMILARITY = pycolmap.Sim3d(2.5, pycolmap.Rotation3d(np.array([0.3, -1.2, 0.7])), np.array([4.0, -5.0, 6.0]))


def path(frames: int = 20) -> Float64s:
    return fly(frames, np.random.default_rng(0))


def path_on_a_line(frames: int = 8) -> Float64s:
    rotations = random_rotations(frames, np.random.default_rng(0))
    centers = np.arange(frames)[:, None] * [1.0, 0.5, 2.0]
    return np.concatenate([rotations, -rotations @ centers[:, :, None]], axis=2)


def standing_path(center: list[float], frames: int = 8) -> Float64s:
    rotations = random_rotations(frames, np.random.default_rng(0))
    return np.concatenate([rotations, -rotations @ np.tile(np.array(center)[:, None], (frames, 1, 1))], axis=2)


def moved(poses: Float64s, similarity: pycolmap.Sim3d) -> Float64s:
    """The same cameras in another world: x -> s R x + t."""
    rotation = similarity.rotation.matrix()
    to_world = invert_poses(poses)
    centers = similarity.scale * to_world[:, :, 3] @ rotation.T + similarity.translation
    return invert_poses(np.concatenate([rotation @ to_world[:, :, :3], centers[:, :, None]], axis=2))


def assert_same_similarity(found: pycolmap.Sim3d, true: pycolmap.Sim3d, tolerance: float = 1e-9) -> None:
    assert found.scale == pytest.approx(true.scale, rel=tolerance)
    np.testing.assert_allclose(found.rotation.matrix(), true.rotation.matrix(), atol=tolerance)
    np.testing.assert_allclose(found.translation, true.translation, atol=10 * tolerance)


def test_a_similarity_is_recovered_exactly() -> None:
    difference = compare_paths(path(), moved(path(), SIMILARITY))
    assert_same_similarity(difference.reference_from_estimate, SIMILARITY)
    assert difference.ate < 1e-9
    assert difference.position.shape == difference.rotation_deg.shape == (20,)
    # arccos of nearly 1 has half the digits.
    assert difference.rotation_deg.max() < 1e-5


def test_lengths_are_in_units_of_the_reference() -> None:
    reference = moved(path(), SIMILARITY)
    centers = invert_poses(reference)[:, :, 3]
    difference = compare_paths(path(), reference)
    steps = [np.linalg.norm(centers[row + 1] - centers[row]) for row in range(19)]
    assert difference.path_length == pytest.approx(sum(steps))
    assert difference.extent == pytest.approx(max(centers.max(axis=0) - centers.min(axis=0)))


def test_rotation_errors_are_in_degrees() -> None:
    angles_deg = np.array([0.5, 3.0, 170.0])
    estimate = path()
    for row, angle_deg in zip((2, 5, 11), angles_deg, strict=True):
        center = invert_poses(estimate[row : row + 1])[0, :, 3]
        turned = pycolmap.Rotation3d(np.deg2rad(angle_deg) * np.array([0.6, 0.0, 0.8])).matrix()
        estimate[row, :, :3] = turned @ estimate[row, :, :3]
        estimate[row, :, 3] = -estimate[row, :, :3] @ center
    difference = compare_paths(moved(estimate, SIMILARITY), path())
    expected = np.zeros(20)
    expected[[2, 5, 11]] = angles_deg
    np.testing.assert_allclose(difference.rotation_deg, expected, atol=1e-5)
    assert difference.ate < 1e-9


def test_ate_is_the_root_mean_square_in_units_of_the_reference() -> None:
    """The corners of a square shift up and down in turn, which changes no rotation and no translation."""
    reference_centers = np.array([[1.0, 1, 0], [-1, 1, 0], [-1, -1, 0], [1, -1, 0], [0, 0, 2], [0, 0, -2]])
    centers = reference_centers + 0.1 * np.array([[0, 0, sign] for sign in (1, -1, 1, -1, 0, 0)])
    still = np.broadcast_to(np.eye(3), (6, 3, 3))
    reference = np.concatenate([still, -reference_centers[:, :, None]], axis=2)
    estimate = moved(np.concatenate([still, -centers[:, :, None]], axis=2), SIMILARITY)
    difference = compare_paths(estimate, reference)
    # The least-squares scale.
    scale = 16 / 16.04
    expected = np.linalg.norm(scale * centers - reference_centers, axis=1)
    np.testing.assert_allclose(difference.position, expected, atol=1e-9)
    assert difference.ate == pytest.approx(np.sqrt((16 - scale * 16) / 6), rel=1e-9)
    assert difference.reference_from_estimate.scale == pytest.approx(scale / SIMILARITY.scale, rel=1e-9)


def test_two_frames_are_too_few_to_compare() -> None:
    with pytest.raises(LumenError, match="2 frames in common: at least 3"):
        compare_paths(path(2), path(2))


@pytest.mark.parametrize("center", [[0, 0, 0], [0.1, -7.3, 5.2]])
def test_a_camera_that_does_not_move_cannot_be_compared(center: list[float]) -> None:
    standing = standing_path(center)
    for compare in (compare_paths, align_poses):
        with pytest.raises(LumenError, match="centres are identical"):
            compare(standing, path(8))


def test_collinear_centers_are_refused() -> None:
    with pytest.raises(LumenError, match="collinear"):
        compare_paths(path_on_a_line(), path_on_a_line())


@pytest.mark.parametrize("make", [path, path_on_a_line])
def test_orientations_align_a_straight_trajectory(make: object) -> None:
    assert callable(make)
    assert_same_similarity(align_poses(make(), moved(make(), SIMILARITY)), SIMILARITY)


def test_opposite_orientation_errors_cancel() -> None:
    estimate = path_on_a_line()
    centers = invert_poses(estimate)[:, :, 3]
    for row in range(len(estimate)):
        turned = pycolmap.Rotation3d(0.1 * (-1) ** row * np.array([0.0, 0.0, 1.0])).matrix()
        estimate[row, :, :3] = estimate[row, :, :3] @ turned
    estimate[:, :, 3] = -np.einsum("nij,nj->ni", estimate[:, :, :3], centers)
    assert_same_similarity(align_poses(estimate, moved(path_on_a_line(), SIMILARITY)), SIMILARITY)
