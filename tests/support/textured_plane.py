"""Exact training data of a textured plane and a camera that moves in front of it."""

from pathlib import Path

import cv2
import numpy as np

from pipeline.data.images import write_image
from pipeline.data.training_data import TrainingData, inside_mask
from pipeline.data.training_files import write_training_data

WIDTH, HEIGHT, FOCAL = 256, 192, 200.0
DISTANCE = 4.0


def write_plane(
    root: Path, frames: int = 12, points: int = 300, seed: int = 0, first: int = 100, scale: int = 1
) -> TrainingData:
    """Write layout 2 into a sequence's folder. Every point is observed in all frames that show it.

    `scale` multiplies the size of the frames.
    """
    width, height, focal = WIDTH * scale, HEIGHT * scale, FOCAL * scale
    random = np.random.default_rng(seed)
    texture = cv2.GaussianBlur(random.random((600, 600, 3)).astype(np.float32), (0, 0), 3)
    texture = np.clip((texture - texture.mean()) / texture.std() * 45 + 120, 0, 255).astype(np.uint8)
    mask = np.zeros((height, width), np.uint8)
    cv2.ellipse(mask, (width // 2, height // 2), (110 * scale, 90 * scale), 0, 0, 360, 255, -1)
    poses = np.stack([_pose(frame, frames) for frame in range(frames)])
    camera = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    paths = []
    for frame, pose in enumerate(poses):
        # Texture px (first centre at 0.5) → plane, 100 px per unit, centred at the origin → image px.
        plane_from_texture = np.array([[0.01, 0, -3], [0, 0.01, -3], [0, 0, 1]])
        image_from_texture = camera @ np.column_stack([pose[:, 0], pose[:, 1], pose[:, 3]]) @ plane_from_texture
        shift = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
        warp = np.linalg.inv(shift) @ image_from_texture @ shift
        image = cv2.warpPerspective(texture, warp, (width, height), flags=cv2.INTER_AREA)
        image[mask == 0] = 0
        paths.append(root / "images" / f"{first + frame:08d}.jpg")
        write_image(paths[-1], image, (cv2.IMWRITE_JPEG_QUALITY, 98))
    cloud = np.column_stack([random.uniform(-2, 2, (points, 2)), np.zeros(points)])
    data = TrainingData(
        frame_index=np.arange(first, first + frames),
        pinhole=np.tile([focal, focal, width / 2, height / 2], (frames, 1)),
        cam_from_world=poses,
        points=cloud,
        colors=None,
        observation_point=np.zeros(0, np.int64),
        observation_view=np.zeros(0, np.int64),
        mask=mask,
        selected_index=np.arange(first, first + frames),
        image_paths=paths,
    )
    data = _with_observations(data)
    write_training_data(data, root)
    return data


def _pose(frame: int, frames: int) -> np.ndarray:
    """cam_from_world (3, 4) of a camera that moves sideways and towards the plane, and rotates slightly."""
    share = frame / max(1, frames - 1) - 0.5
    turn = cv2.Rodrigues(np.array([0.1 * share, -0.1 * share, 0.3 * share]))[0]
    return np.column_stack([turn, [0.8 * share, 0.3 * share, DISTANCE - 0.5 * share]])


def _with_observations(data: TrainingData) -> TrainingData:
    points, views = (axis.ravel() for axis in np.mgrid[: len(data.points), : len(data.frame_index)])
    seen = inside_mask(*data.project(points, views), data.mask)
    kept = np.bincount(points[seen], minlength=len(data.points)) > 1
    number = np.cumsum(kept) - 1
    seen &= kept[points]
    fields = {name: getattr(data, name) for name in data.__dataclass_fields__}
    fields |= {
        "points": data.points[kept],
        "observation_point": number[points[seen]],
        "observation_view": views[seen],
    }
    return TrainingData(**fields)
