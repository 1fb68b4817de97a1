"""Conversions between pixel conventions and between pose conventions (docs/conventions.md).

All stored, exported or passed pixel coordinates use COLMAP's convention: the centre of the first pixel is (0.5, 0.5).
In OpenCV's it is (0, 0). A pixel index is the integer (column, row) of the pixel that contains a point.
"""

import numpy as np
import numpy.typing as npt

from pipeline.arrays import AnyFloats, Float64s, Ints

# Longest side of the content area in tracking. Endoscopic video has little detail at full resolution, and downsampling
# averages out noise and compression artefacts.
WORKING_SIZE_PX = 540


def opencv_from_colmap(points_px: AnyFloats) -> AnyFloats:
    """COLMAP pixel coordinates (..., 2) → OpenCV's, where the centre of the first pixel is (0, 0)."""
    return points_px - 0.5


def colmap_from_opencv(points_px: AnyFloats) -> AnyFloats:
    """OpenCV pixel coordinates (..., 2) → COLMAP's, where the centre of the first pixel is (0.5, 0.5)."""
    return points_px + 0.5


def opencv_homography_from_colmap(homography: Float64s) -> Float64s:
    """Homography (3, 3) in COLMAP's pixel convention → the same homography in OpenCV's."""
    to_colmap = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    return np.asarray(np.linalg.inv(to_colmap) @ homography @ to_colmap)


def colmap_homography_from_opencv(homography: Float64s) -> Float64s:
    """Homography (3, 3) in OpenCV's pixel convention → the same homography in COLMAP's."""
    to_colmap = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    return np.asarray(to_colmap @ homography @ np.linalg.inv(to_colmap))


def index_from_colmap(points_px: AnyFloats) -> Ints:
    """COLMAP pixel coordinates (..., 2) → the integer (column, row) of the pixel that contains the point."""
    return np.floor(points_px).astype(np.int64)


def colmap_from_index(pixel_index: npt.NDArray[np.integer]) -> Float64s:
    """Integer pixel indices (..., 2) as (column, row) → COLMAP coordinates of the pixels' centres."""
    return pixel_index.astype(np.float64) + 0.5


def invert_poses(poses: Float64s) -> Float64s:
    """(N, 3, 4) b_from_a → (N, 3, 4) a_from_b."""
    rotations = poses[:, :, :3].transpose(0, 2, 1)
    return np.concatenate([rotations, -rotations @ poses[:, :, 3:]], axis=2)


def rotations_from_quaternions(quaternion_wxyz: Float64s) -> Float64s:
    """Unit Hamilton quaternions (N, 4) as w, x, y, z → rotation matrices (N, 3, 3)."""
    w, x, y, z = quaternion_wxyz.T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.array(rows).transpose(2, 0, 1)


def quaternions_from_rotations(rotations: Float64s) -> Float64s:
    """Rotation matrices (N, 3, 3) → unit Hamilton quaternions (N, 4) as w, x, y, z with w >= 0.

    Computed as the eigenvector of the largest eigenvalue of Bar-Itzhack's matrix (J. Guidance, Control, and Dynamics
    23(6), 2000), which is stable at every angle.
    """
    r = rotations
    k = np.zeros((len(r), 4, 4))
    k[:, 0, 0] = r[:, 0, 0] + r[:, 1, 1] + r[:, 2, 2]
    k[:, 1, 1] = r[:, 0, 0] - r[:, 1, 1] - r[:, 2, 2]
    k[:, 2, 2] = r[:, 1, 1] - r[:, 0, 0] - r[:, 2, 2]
    k[:, 3, 3] = r[:, 2, 2] - r[:, 0, 0] - r[:, 1, 1]
    k[:, 0, 1] = r[:, 2, 1] - r[:, 1, 2]
    k[:, 0, 2] = r[:, 0, 2] - r[:, 2, 0]
    k[:, 0, 3] = r[:, 1, 0] - r[:, 0, 1]
    k[:, 1, 2] = r[:, 0, 1] + r[:, 1, 0]
    k[:, 1, 3] = r[:, 0, 2] + r[:, 2, 0]
    k[:, 2, 3] = r[:, 1, 2] + r[:, 2, 1]
    _, vectors = np.linalg.eigh(k, UPLO="U")
    quaternion_wxyz = vectors[:, :, 3]
    return quaternion_wxyz * np.where(quaternion_wxyz[:, :1] < 0, -1, 1)
