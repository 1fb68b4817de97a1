"""SfM training data: a sequence's poses, sparse cloud, visibility and content area, in the formats of Dense Descriptor
Learning (DDL; Liu et al., CVPR 2020), which others read and write too.

Two layouts are read: 1 (flat, older) and 2 (`images/` and `colmap/<model>/`, newer); 2 is written. Nothing in DDL's
files says whether a pose is cam_from_world or world_from_cam, so the reader finds out (`pipeline.data.pose_direction`).
Our files say it in `frame_id` of `motion.yaml`'s header, which decides where both fit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
PoseDirection = Literal["cam_from_world", "world_from_cam"]


@dataclass(frozen=True)
class TrainingData:
    """One model of a sequence. Pixels in COLMAP's convention; world units are the model's own, up to scale.

    Attributes:
        frame_index: (V,) int64, the frame in the video that each view is, ascending.
        pinhole: (V, 4) float64, fx, fy, cx, cy of each view, px.
        cam_from_world: (V, 3, 4) float64.
        points: (P, 3) float64, the sparse cloud.
        colors: (P, 3) uint8, red, green, blue; None if the cloud has none.
        observation_point: (O,) int64, for each observation the row of its point in `points`; ascending.
        observation_view: (O,) int64, for each observation the row of its view in `frame_index`.
        mask: (H, W) uint8, content area, 255 = tissue.
        selected_index: (S,) int64, all frames of the sequence, registered or not, ascending.
        image_paths: the image of each view, not loaded.
        direction: how the poses stood in the files.
    """

    frame_index: Integers
    pinhole: Floats
    cam_from_world: Floats
    points: Floats
    colors: Bytes | None
    observation_point: Integers
    observation_view: Integers
    mask: Bytes
    selected_index: Integers
    image_paths: Sequence[Path]
    direction: PoseDirection = "cam_from_world"

    @property
    def width(self) -> int:
        return int(self.mask.shape[1])

    @property
    def height(self) -> int:
        return int(self.mask.shape[0])

    def project(self, points: Integers, views: Integers) -> tuple[Floats, Floats]:
        """Where points are in views.

        Args:
            points, views: (N,) int64, rows of `points` and of `frame_index`, pairwise.

        Returns:
            (N, 2) float64 px, meaningless where the depth is not positive, and (N,) float64 depth along the axis.
        """
        return project(self.points[points], self.cam_from_world[views], self.pinhole[views])


def project(points: Floats, cam_from_world: Floats, pinhole: Floats) -> tuple[Floats, Floats]:
    """Project points through a pinhole each.

    Args:
        points: (N, 3) in the world.
        cam_from_world: (N, 3, 4).
        pinhole: (N, 4) fx, fy, cx, cy in px.

    Returns:
        (N, 2) px, and (N,) depth along the optical axis; pixels are meaningless where that is not positive.
    """
    in_camera = np.einsum("nij,nj->ni", cam_from_world[:, :, :3], points) + cam_from_world[:, :, 3]
    depth = in_camera[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        normalised = in_camera[:, :2] / depth[:, None]
    return normalised * pinhole[:, :2] + pinhole[:, 2:], depth


def inside_mask(pixels: Floats, depth: Floats, mask: Bytes) -> npt.NDArray[np.bool_]:
    """Which projections (N, 2) px are in front of the camera and inside the content area."""
    height, width = mask.shape
    finite = np.isfinite(pixels).all(axis=1) & (depth > 0)
    index = np.floor(np.where(finite[:, None], np.clip(pixels, -1, max(width, height)), -1)).astype(np.int64)
    inside = (index >= 0).all(axis=1) & (index[:, 0] < width) & (index[:, 1] < height)
    inside[inside] = mask[index[inside, 1], index[inside, 0]] > 127
    return inside
