"""Images of a point cloud from several viewpoints, rendered without a display or a GPU.

Open3D's off-screen renderer needs a Vulkan driver, which servers seldom have; points only need sorting by depth.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.arrays import Bytes, Float64s
from pipeline.data.training_data import TrainingData
from sfm.mapping.triangulation import camera_centers

_BACKGROUND = (28, 26, 24)
_PATH_COLOR = (255, 176, 64)
_OUTLIER_QUANTILES = (0.005, 0.995)
_FOCAL_SHARE = 1.2


@dataclass(frozen=True)
class Viewpoint:
    """A virtual camera.

    Attributes:
        name: caption of the image.
        cam_from_world: (3, 4).
        focal_share: focal length over the shorter side of the image.
    """

    name: str
    cam_from_world: Float64s
    focal_share: float


def viewpoints(data: TrainingData) -> list[Viewpoint]:
    """Four viewpoints: the camera in the middle of the video, and from behind it, from its right and from above it."""
    middle = len(data.cam_from_world) // 2
    pose = data.cam_from_world[middle]
    own = Viewpoint("middle frame", pose, float(data.pinhole[middle, 0]) / min(data.width, data.height))
    points = _near(extent_points(data))
    center = np.median(points, axis=0)
    radius = float(np.quantile(np.linalg.norm(points - center, axis=1), 0.98)) or 1.0
    right, down, ahead = pose[:, :3]
    sides = {"rear view": -ahead, "right view": right, "top view": -down}
    result = [own]
    for name, direction in sides.items():
        up = ahead if name == "top view" else -down
        result.append(Viewpoint(name, _look(center + 2.4 * radius * direction, center, up), _FOCAL_SHARE))
    return result


def extent_points(data: TrainingData) -> Float64s:
    """Positions (N, 3) that an image has to contain: the points, or the camera centres if there are no points."""
    return data.points if len(data.points) else camera_centers(data.cam_from_world)


def _near(points: Float64s) -> Float64s:
    low, high = np.quantile(points, _OUTLIER_QUANTILES, axis=0)
    near = points[((points >= low) & (points <= high)).all(axis=1)]
    # The quantiles may exclude all of three or fewer points.
    return near if len(near) else points


def _look(place: Float64s, target: Float64s, up: Float64s) -> Float64s:
    """cam_from_world (3, 4) of a camera at `place` that looks at `target`."""
    ahead = (target - place) / np.linalg.norm(target - place)
    right = np.cross(ahead, up)
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(ahead, right), ahead])
    return np.column_stack([rotation, -rotation @ place])


def draw_cloud(data: TrainingData, view: Viewpoint, size: tuple[int, int]) -> Bytes:
    """Render the points, the nearest on top, and the camera trajectory.

    Args:
        data: points, with or without colours, and poses.
        view: virtual camera.
        size: width and height of the image, px.

    Returns:
        (H, W, 3) uint8 BGR.
    """
    image = np.full((size[1], size[0], 3), _BACKGROUND, np.uint8)
    pixels, depth = _project(data.points, view, size)
    colors = np.full((len(data.points), 3), 200, np.uint8) if data.colors is None else data.colors[:, ::-1]
    _splat(image, pixels, depth, colors, radius=1 if len(data.points) > 200_000 else 2)
    path, path_depth = _project(camera_centers(data.cam_from_world), view, size)
    _draw_path(image, path, path_depth)
    cv2.putText(image, view.name, (14, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (235, 235, 235), 1, cv2.LINE_AA)
    return image


def _project(points: Float64s, view: Viewpoint, size: tuple[int, int]) -> tuple[Float64s, Float64s]:
    in_camera = points @ view.cam_from_world[:, :3].T + view.cam_from_world[:, 3]
    depth = in_camera[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels = view.focal_share * min(size) * in_camera[:, :2] / depth[:, None] + np.array(size) / 2
    return pixels, np.where(depth > 0, depth, np.nan)


def _splat(image: Bytes, pixels: Float64s, depth: Float64s, colors: Bytes, radius: int) -> None:
    height, width = image.shape[:2]
    order = np.argsort(-depth)
    order = order[np.isfinite(depth[order])]
    index = np.floor(pixels[order]).astype(np.int64)
    # The last point written to a pixel stays, so the nearest comes last.
    for down in range(radius):
        for right in range(radius):
            x, y = index[:, 0] + right, index[:, 1] + down
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            image[y[inside], x[inside]] = colors[order[inside]]


def _draw_path(image: Bytes, path: Float64s, depth: Float64s) -> None:
    size = max(image.shape)
    shown = np.isfinite(depth) & (np.abs(path) < 4 * size).all(axis=1)
    for first in np.flatnonzero(shown[:-1] & shown[1:]).tolist():
        ends = [tuple(np.round(each).astype(int).tolist()) for each in path[first : first + 2]]
        cv2.line(image, ends[0], ends[1], _PATH_COLOR, 1, cv2.LINE_AA)


def mosaic(images: Sequence[Bytes]) -> Bytes:
    """Four images of one size in two rows."""
    return np.vstack([np.hstack(images[:2]), np.hstack(images[2:4])])
