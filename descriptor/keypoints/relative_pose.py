"""Relative poses of image pairs: the essential matrix of their matches against a known rotation."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.conventions import opencv_from_colmap
from pipeline.data.sequence_images import read_image
from pipeline.errors import LumenError, require
from pipeline.outputs.files import read_numbers

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

_RANSAC_PX, _RANSAC_CONFIDENCE = 3.0, 0.999
_LEAST_MATCHES = 5
# A pose that is not found is as wrong as can be.
WORST_DEG = 180.0


@dataclass(frozen=True)
class PosePair:
    """Two images with known cameras.

    Attributes:
        name: of the pair.
        first, second: (H, W, 3) uint8 RGB.
        first_camera, second_camera: (3, 3), for OpenCV's pixels.
        second_from_first: (3, 3) rotation.
    """

    name: str
    first: Bytes
    second: Bytes
    first_camera: Floats
    second_camera: Floats
    second_from_first: Floats


def read_pairs(root: Path) -> Iterator[PosePair]:
    """The pairs of a folder: NAME.txt with K of both and R, NAME_left.jpg, NAME_right.jpg.

    Raises:
        LumenError: if there are none, or a file is missing or damaged.
    """
    require(root.is_dir(), f"{root} does not exist, or is no folder")
    texts = sorted(root.glob("*.txt"))
    if not texts:
        raise LumenError(f"{root} holds no image pairs: expected NAME.txt, NAME_left.jpg and NAME_right.jpg of each")
    for path in texts:
        values = read_numbers(path, (9, 3), "cameras (K, K, R)")
        images = [_read(path.with_name(f"{path.stem}_{side}.jpg")) for side in ("left", "right")]
        yield PosePair(path.stem, images[0], images[1], values[:3], values[3:6], values[6:])


def _read(path: Path) -> Bytes:
    image = read_image(path)
    if image is None:
        raise LumenError(f"{path} is missing or damaged")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def rotation_error(pair: PosePair, first: Floats, second: Floats) -> tuple[float, int]:
    """The angle between the rotation of matches and the true one, and how many matches agree with it.

    The essential matrix by RANSAC at 3 px over the focal length, as GIFT has it.

    Args:
        pair: the images.
        first, second: (N, 2) matched px of both, COLMAP's convention.

    Returns:
        Degrees, 180 if there is no pose; and the number of inliers.
    """
    if len(first) < _LEAST_MATCHES:
        return WORST_DEG, 0
    rays = [
        cv2.undistortPoints(opencv_from_colmap(pixels)[:, None], camera, None)[:, 0]
        for pixels, camera in ((first, pair.first_camera), (second, pair.second_camera))
    ]
    focal = float(np.mean([np.diag(camera)[:2] for camera in (pair.first_camera, pair.second_camera)]))
    # OpenCV's generator is seeded anew in each call.
    matrix, inliers = cv2.findEssentialMat(
        rays[0], rays[1], np.eye(3), method=cv2.RANSAC, prob=_RANSAC_CONFIDENCE, threshold=_RANSAC_PX / focal
    )
    if matrix is None or matrix.shape != (3, 3):
        return WORST_DEG, 0
    count, rotation, _, _ = cv2.recoverPose(matrix, rays[0], rays[1], np.eye(3), mask=inliers.copy())
    cosine = (np.trace(rotation @ pair.second_from_first.T) - 1) / 2
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))), int(inliers.sum())
