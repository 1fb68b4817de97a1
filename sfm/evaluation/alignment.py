"""Comparing two camera paths that differ by a similarity."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pycolmap

from pipeline.conventions import invert_poses
from pipeline.errors import LumenError

Floats = npt.NDArray[np.float64]

# Centres that are the same come out of their poses different by so much of their distance from the origin.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class PathDifference:
    """How a camera path differs from another after the similarity that brings its centres nearest to the other's.

    Attributes:
        reference_from_estimate: the similarity (Umeyama, PAMI 1991).
        position: (N,) float64, distance of the centres, in the units of the reference.
        rotation_deg: (N,) float64, angle between the orientations.
        path_length: of the reference, in its units.
        extent: largest side of the bounding box of the reference's centres.
    """

    reference_from_estimate: pycolmap.Sim3d
    position: Floats
    rotation_deg: Floats
    path_length: float
    extent: float

    @property
    def ate(self) -> float:
        """Absolute trajectory error (Sturm et al., IROS 2012): root mean square of `position`."""
        return float(np.sqrt((self.position**2).mean()))


def compare_paths(estimate: Floats, reference: Floats) -> PathDifference:
    """Compare the poses (N, 3, 4) cam_from_world of the same N >= 3 frames in two reconstructions.

    Raises:
        LumenError: if there are too few frames, or the camera does not move, or on a line alone.
    """
    if len(estimate) < 3:
        raise LumenError(f"{len(estimate)} frames in common: at least 3 are needed to compare camera paths")
    found = invert_poses(estimate)[:, :, 3]
    true = invert_poses(reference)[:, :, 3]
    similarity = pycolmap.estimate_sim3d(found, true)
    if similarity is None:
        raise LumenError("the camera's centres are in one place or on one line, so the paths cannot be compared")
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


def align_poses(estimate: Floats, reference: Floats) -> pycolmap.Sim3d:
    """The similarity reference_from_estimate that fits orientations first, and then centres.

    A path that is nearly straight, as in a tube, leaves the turn about itself open when only its centres are aligned,
    and points beside it go astray. Here the rotation is the chordal mean of those that align the single orientations
    (Hartley et al., Rotation Averaging, IJCV 2013), and scale and translation are the least-squares ones for it.

    Args:
        estimate, reference: (N, 3, 4) cam_from_world of the same frames.

    Raises:
        LumenError: if there are fewer than 2 frames, the camera does not move, or the centres run against each other,
            so that no positive scale fits.
    """
    total = np.einsum("nji,njk->ik", reference[:, :, :3], estimate[:, :, :3])
    left, _, right = np.linalg.svd(total)
    rotation = left @ np.diag([1.0, 1.0, np.sign(np.linalg.det(left @ right))]) @ right
    found = invert_poses(estimate)[:, :, 3] @ rotation.T
    true = invert_poses(reference)[:, :, 3]
    spread = found - found.mean(axis=0)
    if len(found) < 2 or (spread**2).sum() <= _ROUNDING**2 * (found**2).sum():
        raise LumenError("the camera's centres are all in one place, so the paths cannot be compared")
    scale = float((spread * (true - true.mean(axis=0))).sum() / (spread**2).sum())
    if scale <= 0:
        raise LumenError("the camera paths run against each other, so no similarity brings them together")
    translation = true.mean(axis=0) - scale * found.mean(axis=0)
    return pycolmap.Sim3d(scale, pycolmap.Rotation3d(rotation), translation)


def relative_pose_errors(estimate: Floats, reference: Floats, scale: float) -> float:
    """Relative pose error (Sturm et al., IROS 2012) of the translations of neighbouring frames, as a share.

    Args:
        estimate, reference: (N, 3, 4) cam_from_world of the same frames, N >= 2.
        scale: of the reference's world over the estimate's.

    Returns:
        Root mean square of the differences of the steps in the cameras' own frames, over the reference's mean step;
        NaN if the reference does not move.
    """
    steps = [_steps(poses, factor) for poses, factor in ((estimate, scale), (reference, 1.0))]
    error = np.sqrt(((steps[0] - steps[1]) ** 2).sum(axis=1).mean())
    length = np.linalg.norm(steps[1], axis=1).mean()
    return float(error / length) if length > 0 else float("nan")


def _steps(cam_from_world: Floats, scale: float) -> Floats:
    """(N - 1, 3): where each next camera's centre is, in the frame of the one before."""
    centers = scale * invert_poses(cam_from_world)[:, :, 3]
    return np.asarray(np.einsum("nij,nj->ni", cam_from_world[:-1, :, :3], np.diff(centers, axis=0)))
