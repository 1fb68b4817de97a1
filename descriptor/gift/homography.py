"""Random homographies: views of a planar image from other viewpoints, for training GIFT."""

import math
from typing import Literal

import cv2
import numpy as np

from pipeline.arrays import Bytes, Float64s
from pipeline.conventions import opencv_homography_from_colmap

Random = np.random.Generator
Kind = Literal["near_identity", "left_right", "up_down", "forward_backward", "scale", "rotation"]

# Value of a view outside the image; GIFT's network input is 0 there.
MIDDLE_GREY = 127
# Published probabilities.
ODDS: dict[Kind, float] = {
    "near_identity": 0.15,
    "left_right": 0.25,
    "up_down": 0.2,
    "forward_backward": 0.1,
    "scale": 0.25,
    "rotation": 0.05,
}
# Additional displacement of the corners of every pair, as a share of the image sides.
_JITTER = 0.03
_TILT_DEG = 50.0
_FORWARD_OCTAVES, _FORWARD_TILT_DEG = 0.7, 15.0
_SCALE_OCTAVES = 2.0
_ROTATION_DEG = 90.0
_FOCAL = 1.2


def random_homography(size: tuple[int, int], random: Random, kind: Kind | None = None) -> Float64s:
    """A homography (3, 3) from pixels of an image to pixels of a view of the same size, COLMAP's convention.

    Args:
        size: height and width of the image, px.
        random: random generator.
        kind: kind of the motion; default: drawn with the published probabilities.
    """
    if kind is None:
        kind = list(ODDS)[int(random.choice(len(ODDS), p=list(ODDS.values())))]
    height, width = size
    return about_middle(_motion(kind, max(size), random), size) @ jitter((height, width), random)


def _motion(kind: Kind, side: int, random: Random) -> Float64s:
    """The homography of a kind of motion, with the image centre at the origin, px."""
    if kind == "left_right":
        return _tilt(0.0, math.radians(_TILT_DEG * random.uniform(-1, 1)), side)
    if kind == "up_down":
        return _tilt(math.radians(_TILT_DEG * random.uniform(-1, 1)), 0.0, side)
    if kind == "forward_backward":
        across, down = np.radians(_FORWARD_TILT_DEG) * random.uniform(-1, 1, 2)
        return similarity(2 ** (_FORWARD_OCTAVES * random.uniform(-1, 1)), 0.0) @ _tilt(down, across, side)
    if kind == "scale":
        return similarity(2 ** (_SCALE_OCTAVES * random.uniform(-1, 1)), 0.0)
    if kind == "rotation":
        return similarity(1.0, math.radians(_ROTATION_DEG * random.uniform(-1, 1)))
    return np.eye(3)


def similarity(scale: float, angle_rad: float) -> Float64s:
    """Scaling and rotation (from x towards y) about the origin: (3, 3)."""
    cosine, sine = scale * math.cos(angle_rad), scale * math.sin(angle_rad)
    return np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])


def _tilt(down_rad: float, across_rad: float, side: int) -> Float64s:
    """Rotate the image plane about the horizontal and vertical axes through its centre, and project it."""
    focal = _FOCAL * side
    about_x = np.array(
        [[1, 0, 0], [0, math.cos(down_rad), -math.sin(down_rad)], [0, math.sin(down_rad), math.cos(down_rad)]]
    )
    about_y = np.array(
        [[math.cos(across_rad), 0, math.sin(across_rad)], [0, 1, 0], [-math.sin(across_rad), 0, math.cos(across_rad)]]
    )
    rotated = (about_y @ about_x)[:, :2]
    # Maps a point (x, y, 0) of the image: rotated, translated to the distance of the focal length, projected.
    return np.diag([focal, focal, 1]) @ np.column_stack([rotated, [0, 0, focal]])


def about_middle(motion: Float64s, size: tuple[int, int]) -> Float64s:
    """Move the centre of a motion (3, 3) from the origin to the centre of an image of `size` (height, width)."""
    height, width = size
    to_middle = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1]])
    return np.asarray(np.linalg.inv(to_middle) @ motion @ to_middle)


def jitter(size: tuple[int, int], random: Random) -> Float64s:
    """A homography that slightly displaces the four corners of an image of `size` (height, width)."""
    height, width = size
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], float)
    moved = corners + _JITTER * random.uniform(-1, 1, (4, 2)) * [width, height]
    rows = []
    for (x, y), (u, v) in zip(corners, moved, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    return np.append(np.linalg.solve(np.array(rows), moved.ravel()), 1.0).reshape(3, 3)


def apply(homography: Float64s, pixels: Float64s) -> Float64s:
    """Map pixels (N, 2): (N, 2)."""
    moved = np.column_stack([pixels, np.ones(len(pixels))]) @ homography.T
    return np.asarray(moved[:, :2] / moved[:, 2:])


def local_similarity(homography: Float64s, pixels: Float64s) -> tuple[Float64s, Float64s]:
    """The local scale (N,) and rotation (N,) of a homography at pixels, in degrees from x towards y.

    Computed from its Jacobian: the square root of the determinant, and the nearest rotation.
    """
    moved = np.column_stack([pixels, np.ones(len(pixels))]) @ homography.T
    place, depth = moved[:, :2] / moved[:, 2:], moved[:, 2]
    derivative = (homography[None, :2, :2] - place[:, :, None] * homography[None, 2:, :2]) / depth[:, None, None]
    scale = np.sqrt(np.maximum(np.linalg.det(derivative), 1e-12))
    turn = np.arctan2(derivative[:, 1, 0] - derivative[:, 0, 1], derivative[:, 0, 0] + derivative[:, 1, 1])
    return scale, np.degrees(turn)


def view_of(image: Bytes, homography: Float64s, size: tuple[int, int] | None = None) -> Bytes:
    """Warp an image (H, W, 3) by a homography between pixels, COLMAP's convention; grey outside the image.

    Args:
        image: the image.
        homography: (3, 3).
        size: height and width of the view; default: those of the image.
    """
    height, width = image.shape[:2]
    # Blurred before downscaling, to avoid aliasing.
    scale = float(local_similarity(homography, np.array([[width / 2, height / 2]]))[0][0])
    if scale < 1:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), 0.5 / scale), np.uint8)
    matrix = opencv_homography_from_colmap(homography)
    grey = (MIDDLE_GREY,) * 3
    canvas = (width, height) if size is None else size[::-1]
    seen = cv2.warpPerspective(image, matrix, canvas, borderMode=cv2.BORDER_CONSTANT, borderValue=grey)
    return np.asarray(seen, np.uint8)
