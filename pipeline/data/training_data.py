"""SfM training data: poses, sparse cloud, visibility and content area of a sequence, in the formats of Dense Descriptor
Learning (DDL; Liu et al., CVPR 2020), which other programs use too.

Layouts 1 (flat, older) and 2 (`images/` and `colmap/<model>/`, newer) are read; layout 2 is written. DDL's files do not
state whether a pose is cam_from_world or world_from_cam, so the reader detects it (`pipeline.data.pose_direction`).
LumenSfM's files state it as `frame_id` in the header of `motion.yaml`, which decides if both directions fit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.arrays import Bools, Bytes, Float64s, Ints

# The name by which other packages import this type from here.

PoseDirection = Literal["cam_from_world", "world_from_cam"]


@dataclass(frozen=True)
class TrainingData:
    """One model of a sequence. Pixels follow COLMAP's convention; the scale of the world is arbitrary.

    Attributes:
        frame_index: (V,) int64, index of each view's frame in the video, ascending.
        pinhole: (V, 4) float64, fx, fy, cx, cy of each view, px.
        cam_from_world: (V, 3, 4) float64.
        points: (P, 3) float64, the sparse cloud.
        colors: (P, 3) uint8, red, green, blue; None if the cloud has no colours.
        observation_point: (O,) int64, the row of each observation's point in `points`; ascending.
        observation_view: (O,) int64, the row of each observation's view in `frame_index`.
        mask: (H, W) uint8, content area, 255 = tissue.
        selected_index: (S,) int64, indices of all frames of the sequence, registered or not, ascending.
        image_paths: path of each view's image.
        direction: direction of the poses in the files.
    """

    frame_index: Ints
    pinhole: Float64s
    cam_from_world: Float64s
    points: Float64s
    colors: Bytes | None
    observation_point: Ints
    observation_view: Ints
    mask: Bytes
    selected_index: Ints
    image_paths: Sequence[Path]
    direction: PoseDirection = "cam_from_world"

    @property
    def width(self) -> int:
        return int(self.mask.shape[1])

    @property
    def height(self) -> int:
        return int(self.mask.shape[0])

    def project(self, points: Ints, views: Ints) -> tuple[Float64s, Float64s]:
        """Project each point into the corresponding view.

        Args:
            points, views: (N,) int64, rows of `points` and of `frame_index`.

        Returns:
            (N, 2) float64 px, meaningless unless the depth is positive, and (N,) float64 depth along the optical axis.
        """
        return project(self.points[points], self.cam_from_world[views], self.pinhole[views])


def project(points: Float64s, cam_from_world: Float64s, pinhole: Float64s) -> tuple[Float64s, Float64s]:
    """Project each point with its own pinhole camera.

    Args:
        points: (N, 3) in world coordinates.
        cam_from_world: (N, 3, 4).
        pinhole: (N, 4) fx, fy, cx, cy in px.

    Returns:
        (N, 2) px, meaningless unless the depth is positive, and (N,) depth along the optical axis.
    """
    in_camera = np.einsum("nij,nj->ni", cam_from_world[:, :, :3], points) + cam_from_world[:, :, 3]
    depth = in_camera[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        normalised = in_camera[:, :2] / depth[:, None]
    return normalised * pinhole[:, :2] + pinhole[:, 2:], depth


def inside_mask(pixels: Float64s, depth: Float64s, mask: Bytes) -> Bools:
    """(N,) Whether projections (N, 2) px are in front of the camera and inside the content area."""
    height, width = mask.shape
    finite = np.isfinite(pixels).all(axis=1) & (depth > 0)
    index = np.floor(np.where(finite[:, None], np.clip(pixels, -1, max(width, height)), -1)).astype(np.int64)
    inside = (index >= 0).all(axis=1) & (index[:, 0] < width) & (index[:, 1] < height)
    inside[inside] = mask[index[inside, 1], index[inside, 0]] > 127
    return inside
