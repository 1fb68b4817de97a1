"""Alignment and comparison of two camera trajectories up to a similarity transform (Sim(3))."""

from dataclasses import dataclass

import numpy as np
import pycolmap

from pipeline.arrays import Float64s
from pipeline.conventions import invert_poses
from pipeline.errors import LumenError

# Relative rounding error of camera centres that are computed from poses.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class PathDifference:
    """Differences of an estimated from a reference trajectory, after Sim(3) alignment of the camera centres.

    Attributes:
        reference_from_estimate: the least-squares similarity transform (Umeyama, PAMI 1991).
        position: (N,) float64, distance between the centres, in units of the reference.
        rotation_deg: (N,) float64, angle between the orientations.
        path_length: length of the reference trajectory, in its units.
        extent: largest side of the bounding box of the reference centres, in the same units.
    """

    reference_from_estimate: pycolmap.Sim3d
    position: Float64s
    rotation_deg: Float64s
    path_length: float
    extent: float

    @property
    def ate(self) -> float:
        """Absolute trajectory error (Sturm et al., IROS 2012): root mean square of `position`."""
        return float(np.sqrt((self.position**2).mean()))


def compare_paths(estimate: Float64s, reference: Float64s) -> PathDifference:
    """Compare the poses (N, 3, 4) cam_from_world of the same N >= 3 frames in two reconstructions.

    Raises:
        LumenError: if there are fewer than 3 frames, or the camera centres are identical or collinear.
    """
    if len(estimate) < 3:
        raise LumenError(f"{len(estimate)} frames in common: at least 3 are needed to compare trajectories")
    found = invert_poses(estimate)[:, :, 3]
    true = invert_poses(reference)[:, :, 3]
    similarity = pycolmap.estimate_sim3d(found, true)
    if similarity is None:
        raise LumenError("the camera centres are identical or collinear: the trajectories cannot be aligned")
    moved = similarity.scale * found @ similarity.rotation.matrix().T + similarity.translation
    estimated_rotations = estimate[:, :, :3] @ similarity.rotation.matrix().T
    between = np.einsum("nij,nkj->nik", estimated_rotations, reference[:, :, :3])
    cosine = np.clip((np.trace(between, axis1=1, axis2=2) - 1) / 2, -1, 1)
    return PathDifference(
        reference_from_estimate=similarity,
        position=np.linalg.norm(moved - true, axis=1),
        rotation_deg=np.rad2deg(np.arccos(cosine)),
        path_length=float(np.linalg.norm(np.diff(true, axis=0), axis=1).sum()),
        extent=float(np.ptp(true, axis=0).max()),
    )


def align_poses(estimate: Float64s, reference: Float64s) -> pycolmap.Sim3d:
    """Estimate the similarity reference_from_estimate from the orientations first, then from the centres.

    The centres of a nearly straight trajectory, as in a tube, do not determine the rotation about its axis, so an
    alignment of the centres alone misplaces the points. Here the rotation is the chordal mean of the rotations that
    align the single orientations (Hartley et al., Rotation Averaging, IJCV 2013); scale and translation are the
    least-squares solution given that rotation.

    Args:
        estimate, reference: (N, 3, 4) cam_from_world of the same frames.

    Raises:
        LumenError: if there are fewer than 2 frames, the camera does not move, or the trajectories run in opposite
            directions, so that no positive scale fits.
    """
    total = np.einsum("nji,njk->ik", reference[:, :, :3], estimate[:, :, :3])
    left, _, right = np.linalg.svd(total)
    rotation = left @ np.diag([1.0, 1.0, np.sign(np.linalg.det(left @ right))]) @ right
    found = invert_poses(estimate)[:, :, 3] @ rotation.T
    true = invert_poses(reference)[:, :, 3]
    spread = found - found.mean(axis=0)
    if len(found) < 2 or (spread**2).sum() <= _ROUNDING**2 * (found**2).sum():
        raise LumenError("the camera centres are identical: the trajectories cannot be aligned")
    scale = float((spread * (true - true.mean(axis=0))).sum() / (spread**2).sum())
    if scale <= 0:
        raise LumenError("the trajectories run in opposite directions: no similarity transform aligns them")
    translation = true.mean(axis=0) - scale * found.mean(axis=0)
    return pycolmap.Sim3d(scale, pycolmap.Rotation3d(rotation), translation)


def relative_pose_errors(estimate: Float64s, reference: Float64s, scale: float) -> float:
    """Compute the relative pose error (Sturm et al., IROS 2012) of translations between neighbouring frames.

    Args:
        estimate, reference: (N, 3, 4) cam_from_world of the same frames, N >= 2.
        scale: from units of the estimate to units of the reference.

    Returns:
        Root mean square of the step differences, in camera coordinates, divided by the mean step of the reference; NaN
        if the reference does not move.
    """
    steps = [_steps(poses, factor) for poses, factor in ((estimate, scale), (reference, 1.0))]
    error = np.sqrt(((steps[0] - steps[1]) ** 2).sum(axis=1).mean())
    length = np.linalg.norm(steps[1], axis=1).mean()
    return float(error / length) if length > 0 else float("nan")


def _steps(cam_from_world: Float64s, scale: float) -> Float64s:
    """(N - 1, 3) centre of each next camera in the coordinates of the camera before it."""
    centers = scale * invert_poses(cam_from_world)[:, :, 3]
    return np.asarray(np.einsum("nij,nj->ni", cam_from_world[:-1, :, :3], np.diff(centers, axis=0)))
