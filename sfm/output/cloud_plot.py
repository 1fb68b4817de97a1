"""Pictures of a cloud from several sides, drawn without a display or a GPU.

Open3D's off-screen renderer wants a Vulkan driver, which servers seldom have; points need no more than sorting.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.data.training_data import TrainingData
from sfm.mapping.triangulation import camera_centers

Floats = npt.NDArray[np.float64]
Picture = npt.NDArray[np.uint8]

_BACKGROUND = (28, 26, 24)
_PATH_COLOR = (255, 176, 64)
_OUTLIER_QUANTILES = (0.005, 0.995)
_FOCAL_SHARE = 1.2


@dataclass(frozen=True)
class Viewpoint:
    """Where a picture is taken from.

    Attributes:
        name: written on it.
        cam_from_world: (3, 4).
        focal_share: focal length over the picture's shorter side.
    """

    name: str
    cam_from_world: Floats
    focal_share: float


def viewpoints(data: TrainingData) -> list[Viewpoint]:
    """Four sides: as the camera in the middle of the video sees it, and from behind that, beside it and above it."""
    middle = len(data.cam_from_world) // 2
    pose = data.cam_from_world[middle]
    own = Viewpoint("from the video's middle", pose, float(data.pinhole[middle, 0]) / min(data.width, data.height))
    points = _near(extent_points(data))
    center = np.median(points, axis=0)
    radius = float(np.quantile(np.linalg.norm(points - center, axis=1), 0.98)) or 1.0
    right, down, ahead = pose[:, :3]
    sides = {"from behind it": -ahead, "from its right": right, "from above it": -down}
    result = [own]
    for name, direction in sides.items():
        up = ahead if name == "from above it" else -down
        result.append(Viewpoint(name, _look(center + 2.4 * radius * direction, center, up), _FOCAL_SHARE))
    return result


def extent_points(data: TrainingData) -> Floats:
    """What a picture has to hold (N, 3): the points, or the cameras' centres where there are none."""
    return data.points if len(data.points) else camera_centers(data.cam_from_world)


def _near(points: Floats) -> Floats:
    low, high = np.quantile(points, _OUTLIER_QUANTILES, axis=0)
    near = points[((points >= low) & (points <= high)).all(axis=1)]
    # Of three or fewer, none may be left.
    return near if len(near) else points


def _look(place: Floats, target: Floats, up: Floats) -> Floats:
    """cam_from_world (3, 4) of a camera at a place that looks at a target."""
    ahead = (target - place) / np.linalg.norm(target - place)
    right = np.cross(ahead, up)
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(ahead, right), ahead])
    return np.column_stack([rotation, -rotation @ place])


def draw_cloud(data: TrainingData, view: Viewpoint, size: tuple[int, int]) -> Picture:
    """Draw the points, the nearest on top, and the camera's path.

    Args:
        data: points, with colours or without, and the camera's path.
        view: from where.
        size: width and height, px.

    Returns:
        (H, W, 3) uint8 BGR.
    """
    picture = np.full((size[1], size[0], 3), _BACKGROUND, np.uint8)
    pixels, depth = _project(data.points, view, size)
    colors = np.full((len(data.points), 3), 200, np.uint8) if data.colors is None else data.colors[:, ::-1]
    _splat(picture, pixels, depth, colors, radius=1 if len(data.points) > 200_000 else 2)
    path, path_depth = _project(camera_centers(data.cam_from_world), view, size)
    _draw_path(picture, path, path_depth)
    cv2.putText(picture, view.name, (14, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (235, 235, 235), 1, cv2.LINE_AA)
    return picture


def _project(points: Floats, view: Viewpoint, size: tuple[int, int]) -> tuple[Floats, Floats]:
    in_camera = points @ view.cam_from_world[:, :3].T + view.cam_from_world[:, 3]
    depth = in_camera[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels = view.focal_share * min(size) * in_camera[:, :2] / depth[:, None] + np.array(size) / 2
    return pixels, np.where(depth > 0, depth, np.nan)


def _splat(picture: Picture, pixels: Floats, depth: Floats, colors: Picture, radius: int) -> None:
    height, width = picture.shape[:2]
    order = np.argsort(-depth)
    order = order[np.isfinite(depth[order])]
    index = np.floor(pixels[order]).astype(np.int64)
    # Of several in one place, the last that is written stays: the nearest.
    for down in range(radius):
        for right in range(radius):
            x, y = index[:, 0] + right, index[:, 1] + down
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            picture[y[inside], x[inside]] = colors[order[inside]]


def _draw_path(picture: Picture, path: Floats, depth: Floats) -> None:
    size = max(picture.shape)
    shown = np.isfinite(depth) & (np.abs(path) < 4 * size).all(axis=1)
    for first in np.flatnonzero(shown[:-1] & shown[1:]).tolist():
        ends = [tuple(np.round(each).astype(int).tolist()) for each in path[first : first + 2]]
        cv2.line(picture, ends[0], ends[1], _PATH_COLOR, 1, cv2.LINE_AA)


def mosaic(pictures: Sequence[Picture]) -> Picture:
    """Four pictures of one size in two rows."""
    return np.vstack([np.hstack(pictures[:2]), np.hstack(pictures[2:4])])
