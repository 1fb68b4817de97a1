"""Relative poses of image pairs, from the essential matrix of their matches, against known rotations."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from pipeline.arrays import Bytes, Float64s
from pipeline.conventions import opencv_from_colmap
from pipeline.data.sequence_images import read_image
from pipeline.errors import LumenError, require
from pipeline.outputs.files import read_numbers

_RANSAC_PX, _RANSAC_CONFIDENCE = 3.0, 0.999
_LEAST_MATCHES = 5
# Error of a pair without an estimated pose: the maximum.
WORST_DEG = 180.0


@dataclass(frozen=True)
class PosePair:
    """Two images with known cameras.

    Attributes:
        name: name of the pair.
        first, second: (H, W, 3) uint8 RGB.
        first_camera, second_camera: (3, 3) intrinsics, OpenCV's pixel convention.
        second_from_first: (3, 3) rotation.
    """

    name: str
    first: Bytes
    second: Bytes
    first_camera: Float64s
    second_camera: Float64s
    second_from_first: Float64s


def read_pairs(root: Path) -> Iterator[PosePair]:
    """The pairs of a folder: NAME.txt with both intrinsics and R, NAME_left.jpg, NAME_right.jpg.

    Raises:
        LumenError: if there are none, or a file is missing or damaged.
    """
    require(root.is_dir(), f"{root} does not exist or is not a folder")
    texts = sorted(root.glob("*.txt"))
    if not texts:
        raise LumenError(f"{root} contains no image pairs: expected NAME.txt, NAME_left.jpg and NAME_right.jpg")
    for path in texts:
        values = read_numbers(path, (9, 3), "cameras (K, K, R)")
        images = [_read(path.with_name(f"{path.stem}_{side}.jpg")) for side in ("left", "right")]
        yield PosePair(path.stem, images[0], images[1], values[:3], values[3:6], values[6:])


def _read(path: Path) -> Bytes:
    image = read_image(path)
    if image is None:
        raise LumenError(f"{path} is missing or damaged")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def rotation_error(pair: PosePair, first: Float64s, second: Float64s) -> tuple[float, int]:
    """The angle between the rotation estimated from matches and the true rotation, and the number of inliers.

    The essential matrix is estimated by RANSAC with a threshold of 3 px divided by the focal length, as in GIFT.

    Args:
        pair: the images.
        first, second: (N, 2) matched px of both, COLMAP's convention.

    Returns:
        Angle in degrees, 180 without a pose; number of inliers.
    """
    if len(first) < _LEAST_MATCHES:
        return WORST_DEG, 0
    rays = [
        cv2.undistortPoints(opencv_from_colmap(pixels)[:, None], camera, None)[:, 0]
        for pixels, camera in ((first, pair.first_camera), (second, pair.second_camera))
    ]
    focal = float(np.mean([np.diag(camera)[:2] for camera in (pair.first_camera, pair.second_camera)]))
    # Deterministic: OpenCV seeds its generator in each call.
    matrix, inliers = cv2.findEssentialMat(
        rays[0], rays[1], np.eye(3), method=cv2.RANSAC, prob=_RANSAC_CONFIDENCE, threshold=_RANSAC_PX / focal
    )
    if matrix is None or matrix.shape != (3, 3):
        return WORST_DEG, 0
    count, rotation, _, _ = cv2.recoverPose(matrix, rays[0], rays[1], np.eye(3), mask=inliers.copy())
    cosine = (np.trace(rotation @ pair.second_from_first.T) - 1) / 2
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))), int(inliers.sum())
