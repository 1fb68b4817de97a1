"""Small synthetic reconstructions: points, and cameras that look at them."""

from pathlib import Path

import numpy as np

from pipeline.conventions import rotations_from_quaternions
from pipeline.data.training_data import TrainingData

SIZE = (160, 120)


def random_rotations(count: int, rng: np.random.Generator, largest_rad: float = 0.4) -> np.ndarray:
    axes = rng.standard_normal((count, 3))
    half = 0.5 * rng.uniform(0, largest_rad, (count, 1))
    return rotations_from_quaternions(
        np.hstack([np.cos(half), np.sin(half) * axes / np.linalg.norm(axes, axis=1)[:, None]])
    )


def scene(seed: int = 0, views: int = 7, points: int = 40) -> TrainingData:
    """A point cloud, and cameras on an arc around it. At least two views observe each point."""
    rng = np.random.default_rng(seed)
    middle = np.array([3.0, 1.0, 6.0])
    cloud = rng.uniform(-1, 1, (points, 3)) + middle
    half = 0.5 * np.linspace(0.4, 1.2, views)
    turned = rotations_from_quaternions(np.column_stack([np.cos(half), 0 * half, np.sin(half), 0 * half]))
    rotations = random_rotations(views, rng, 0.05) @ turned
    poses = np.concatenate([rotations, np.array([[0.0], [0], [6]]) - rotations @ middle[:, None]], axis=2)
    seen = rng.random((points, views)) < 0.5
    seen[:, :2] = True
    point, view = np.nonzero(seen)
    frames = 2603 + np.cumsum(rng.integers(1, 4, views))
    return TrainingData(
        frame_index=frames,
        pinhole=np.tile([90.0, 91.0, 80.5, 60.25], (views, 1)),
        cam_from_world=poses,
        points=cloud,
        colors=rng.integers(0, 255, (points, 3)).astype(np.uint8),
        observation_point=point,
        observation_view=view,
        mask=np.full(SIZE[::-1], 255, np.uint8),
        selected_index=np.arange(frames[0] - 1, frames[-1] + 3),
        image_paths=[Path(f"{frame:08d}.jpg") for frame in frames],
    )
